"""A base in 4 or 8 bit: it trains, evaluates, reloads and answers, by bitsandbytes on a CPU too."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from modeling.asking.predictor import Predictor
from modeling.blip2.adapter import build_model
from modeling.blip2.family import build_trainer, read_answers
from tests.modeling.blip2.tiny_runs import EVERYTHING, KINDS, arguments, trained, untrained
from tests.support.app_server import ROOT
from tests.support.fp16_on_cpu import INITIAL_SCALE, use_fp16
from tests.support.tiny_blip2 import tiny_blip2

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install -e '.[quantization]'")

CASES = [(kind, bits) for kind in KINDS for bits in ("4bit", "8bit")]
LAYERS = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}
TOLERANCE = {"4bit": 1e-3, "8bit": 3e-2}  # 8 bit rounds what layers read, too, by the largest of a batch


@pytest.fixture(scope="module")
def wide_bases(dataset, tmp_path_factory):
    """4 bit has blocks of 64 numbers."""
    folder = tmp_path_factory.mktemp("wide")
    return {kind: tiny_blip2(kind, dataset, folder / kind, width=64) for kind in KINDS}


@pytest.fixture(scope="module")
def runs(wide_bases, dataset, tmp_path_factory):
    """A function from a kind and a number of bits to the trainer of a run that has ended, merged too."""
    found = {}

    def run(kind, bits):
        if (kind, bits) not in found:
            options = {"quantization": bits, "lora_targets": EVERYTHING, "merge_adapter": True, "logging_steps": 1}
            folder = tmp_path_factory.mktemp("run")
            found[kind, bits] = trained(wide_bases[kind], folder, dataset, **options)
            found[kind, bits].save_model()
        return found[kind, bits]

    return run


def kinds_of_layers(model, part: str) -> set[str]:
    """The classes of the linear layers under an adapter in a part of a BLIP-2."""
    modules = [(name, getattr(module, "base_layer", module)) for name, module in model.named_modules()]
    return {
        type(module).__name__
        for name, module in modules
        if part in name and "lora_" not in name and isinstance(module, torch.nn.Linear)
    }


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_the_language_model_is_quantized_and_what_is_trained_or_scores_is_not(runs, kind, bits):
    model = runs(kind, bits).model
    assert LAYERS[bits] in kinds_of_layers(model, "language_model.")
    for part in ("qformer.", "language_projection", "lm_head"):
        assert kinds_of_layers(model, part) == {"Linear"}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_training_learns_as_over_the_whole_base(runs, wide_bases, dataset, tmp_path, kind, bits):
    losses = [entry["loss"] for entry in runs(kind, bits).state.log_history if "loss" in entry]
    whole = trained(wide_bases[kind], tmp_path, dataset, lora_targets=EVERYTHING, logging_steps=1)
    expected = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert losses == pytest.approx(expected, rel=0.15)
    assert losses != expected
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_adapter_reloads_to_its_answers_in_evaluation_and_predictor(runs, dataset, tmp_path, kind, bits):
    trainer = runs(kind, bits)
    folder = trainer.args.output_dir
    rows = dataset["validation"].select(range(8))
    output = trainer.predict(rows)
    reloaded = untrained(folder, tmp_path, dataset, do_train=False)
    assert LAYERS[bits] in kinds_of_layers(reloaded.model, "language_model.")
    assert (reloaded.predict(rows).predictions[0] == output.predictions[0]).all()

    told = read_answers(output, trainer)
    predictor = Predictor.from_pretrained(folder, dtype="float32")
    assert LAYERS[bits] in kinds_of_layers(predictor.model, "language_model.")
    answers = predictor.answer_batch(list(rows["image"]), list(rows["question"]), top_k=1)
    assert [answer.answer for answer in answers] == [told[row][0] for row in rows["row"]]
    confidences = [told[row][1] for row in rows["row"]]
    assert [answer.confidence for answer in answers] == pytest.approx(confidences, rel=TOLERANCE[bits])

    heat = predictor.heat_map(rows["image"][0], rows["question"][0])
    assert heat.sum() == pytest.approx(1, abs=1e-5)
    assert np.ptp(heat) > 0  # gradients came through the quantized layers


@pytest.mark.parametrize(("kind", "bits"), [("opt", "4bit"), ("opt", "8bit"), ("t5", "4bit")])
def test_merged_model_is_whole_and_answers_in_the_bits_of_its_training(runs, kind, bits):
    merged = f"{runs(kind, bits).args.output_dir}/merged"
    stock, report = transformers.Blip2ForConditionalGeneration.from_pretrained(merged, output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"]
    assert {p.dtype for p in stock.parameters()} == {torch.float32}
    assert LAYERS[bits] in kinds_of_layers(Predictor.from_pretrained(merged).model, "language_model.")


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_fp16_over_a_quantized_base_keeps_its_scale(wide_bases, dataset, tmp_path, monkeypatch, bits):
    options = {"quantization": bits, "lora_targets": EVERYTHING, "max_steps": 3, "per_device_train_batch_size": 8}
    options |= {"modules_to_save": ["language_projection"], "logging_steps": 1, "learning_rate": 0.01}
    options |= {"save_strategy": "no", "eval_strategy": "no", "evidence_weight": 0.5}
    transformers.set_seed(1)
    args = use_fp16(arguments(wide_bases["opt"], tmp_path, **options), monkeypatch)
    trainer = build_trainer(args, *build_model(args, dataset), dataset)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert trainer.accelerator.scaler.get_scale() == INITIAL_SCALE
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    assert kinds_of_layers(trainer.model, "evidence.") == {"Linear"}
    layer = next(m for m in trainer.model.modules() if type(m).__name__ == LAYERS[bits])
    assert getattr(layer, "compute_dtype", torch.float16) == torch.float16


def test_bitsandbytes_tells_nobody_to_install_what_fetches_code():
    command = [sys.executable, "-c", "import modeling.families"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "bitsandbytes" not in done.stderr
    assert "kernels" not in done.stderr


def test_record_of_the_bits_stands_beside_the_adapter(runs):
    folder = runs("opt", "4bit").args.output_dir
    with open(f"{folder}/answering.json") as file:
        assert json.load(file)["quantization"] == "4bit"
