"""A base in 4 or 8 bit: it trains, evaluates, reloads and answers, by bitsandbytes on a CPU too."""

from dataclasses import replace

import pytest
import torch

from modeling.parts.model_files import open_model
from modeling.predictor import Predictor
from modeling.vlm.base import load_base
from modeling.writing.family import read_answers
from tests.modeling.vlm.tiny_runs import trained
from tests.support.tiny_vlms import TINY, save_tiny_vlm

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install -e '.[quantization]'")

WIDE = replace(TINY, text=TINY.text | {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})  # blocks of 64


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen3_vl", "smolvlm"])
def test_what_sees_is_not_quantized(tmp_path, name):
    base = save_tiny_vlm(name, tmp_path, WIDE)
    model, _ = load_base(open_model(str(base)), torch.float32, "4bit")
    decoder = set(model.get_decoder().modules())
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert {type(layer).__name__ for layer in layers if layer in decoder} == {"Linear4bit"}
    assert {type(layer).__name__ for layer in layers if layer not in decoder} == {"Linear"}


@pytest.mark.parametrize(
    ("name", "bits", "layer"), [("gemma3", "4bit", "Linear4bit"), ("llava", "8bit", "Linear8bitLt")]
)
def test_a_quantized_base_trains_and_answers_as_in_its_evaluation(dataset, tmp_path, name, bits, layer):
    base = save_tiny_vlm(name, tmp_path / "base", WIDE)
    out = tmp_path / "out"
    trainer = trained(base, out, dataset, quantization=bits, max_steps=12, logging_steps=1, merge_adapter=True)
    kinds = {
        name: type(getattr(module, "base_layer", module)).__name__
        for name, module in trainer.model.get_base_model().named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    }
    assert {kind for name, kind in kinds.items() if ".layers." in name} == {layer}
    assert kinds["lm_head"] == "Linear"
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < sum(losses[:3])
    trainer.save_model()
    rows = dataset["validation"].select(range(6))
    found = read_answers(trainer.predict(rows), trainer)
    answers = Predictor.from_pretrained(out, dtype="float32").answer_batch(
        rows["image"][:], rows["question"][:], top_k=1
    )
    assert [answer.answer for answer in answers] == [found[row][0] for row in rows["row"]]
    assert Predictor.from_pretrained(out / "merged").answer(rows["image"][0], rows["question"][0]).answer is not None
