"""FP16 as a GPU computes it: what is trained is fp32, nothing overflows, and losses keep step with those of fp32.

`python -m benchmarks.gpu` runs these tests on a GPU.
"""

import logging
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file

from modeling.asking.predictor import Predictor
from modeling.blip2 import adapter, alignment
from modeling.families import FAMILIES
from modeling.training import shared_arguments
from tests.modeling.blip2.tiny_runs import EVERYTHING, arguments, starter_arguments
from tests.modeling.vilt.arguments import arguments as vilt_arguments
from tests.support.fp16_on_cpu import INITIAL_SCALE, use_fp16
from tests.support.tiny_blip2 import tiny_blip2

STEPS = {"save_strategy": "no", "eval_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "warmup_steps": 0}


@pytest.fixture(scope="module")
def bases(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {kind: tiny_blip2(kind, dataset, folder / kind) for kind in ("opt", "llama", "t5")}


@pytest.fixture
def arguments_of(bases, tmp_path, monkeypatch):
    """A function from the name of a model, or the folder of a BLIP-2, to the arguments of its run in fp32."""

    def make(name, **changes):
        options = STEPS | {"max_steps": 5, "per_device_train_batch_size": 8, "learning_rate": 1e-3} | changes
        folder = tmp_path / "run"
        if name in ("vilt", "starter"):  # whose convolutions in FP16 take long here
            options |= {"max_steps": 3, "per_device_train_batch_size": 4}
        if name == "vilt":
            return vilt_arguments(folder, **options)
        if name == "starter":
            return vilt_arguments(folder, model_name_or_path="starter", **options)
        if name == "blip2_starter":
            options |= {"max_steps": 2, "learning_rate": 1e-6}
            # Adam's first step is the sign of each gradient, and rounding turns the signs of small ones.
            monkeypatch.setattr(alignment, "LEARNING_RATE", 1e-5)
            whole = ["qformer", "vision_top", "language_projection"]
            return starter_arguments(folder, modules_to_save=whole, alignment_epochs=0.02, **options)
        return arguments(bases.get(name, name), folder, **({"lora_targets": EVERYTHING} | options))

    return make


def train(args, dataset):
    """The trainer of a run that has ended, and its losses."""
    transformers.set_seed(0)
    family = FAMILIES[args.model_type]
    model, processor = family.build_model(args, dataset)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # it draws otherwise for another dtype
    trainer = family.build_trainer(args, model, processor, dataset)
    transformers.set_seed(0)
    trainer.train()
    return trainer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained_dtypes(trainer):
    return {p.dtype for p in trainer.model.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "name",
    ["vilt", "starter", pytest.param("blip2_starter", marks=pytest.mark.xdist_group("blip2_starter")), "opt", "llama"],
)
def test_training_in_fp16_keeps_step_with_fp32(arguments_of, dataset, monkeypatch, name):
    _, expected = train(arguments_of(name), dataset)
    trainer, losses = train(use_fp16(arguments_of(name), monkeypatch), dataset)
    assert losses == pytest.approx(expected, rel=1e-2)
    assert losses != expected  # it was FP16
    assert len(losses) == trainer.state.global_step
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert all(math.isfinite(norm) and norm > 0 for norm in norms)
    assert trainer.accelerator.scaler.get_scale() == INITIAL_SCALE
    assert trained_dtypes(trainer) == {torch.float32}
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    if trainer.args.model_type == "blip2":
        assert trainer.model.get_base_model().language_model.dtype == torch.float16


@pytest.mark.parametrize("name", ["opt", "llama"])
@pytest.mark.parametrize("whole", ["qformer", "language_projection"])
def test_what_is_trained_whole_over_a_base_in_fp16_is_fp32(arguments_of, dataset, monkeypatch, tmp_path, name, whole):
    options = {"modules_to_save": [whole], "lora_targets": ["language_model"], "max_steps": 3}
    _, expected = train(arguments_of(name, **options), dataset)
    trainer, losses = train(use_fp16(arguments_of(name, **options), monkeypatch), dataset)
    assert trained_dtypes(trainer) == {torch.float32}
    assert losses == pytest.approx(expected, rel=1e-2)
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    copies = {key: value for key, value in saved.items() if f".{whole}." in key}
    assert {value.dtype for value in copies.values()} == {torch.float32}
    assert any(not torch.equal(value, value.half().float()) for value in copies.values())  # else nothing is tested

    args = use_fp16(arguments_of(tmp_path / "saved", do_train=False), monkeypatch)
    reloaded = FAMILIES["blip2"].build_model(args, dataset)[0].state_dict()
    for key, value in copies.items():
        loaded = reloaded[key.replace(f".{whole}.", f".{whole}.modules_to_save.default.")]
        torch.testing.assert_close(loaded, value, rtol=0, atol=0)


@pytest.fixture
def overflowing(bases, dataset, tmp_path):
    """A T5 kind whose feed-forward layers overflow in FP16, as those of Flan-T5 do."""
    folder = tiny_blip2("t5", dataset, tmp_path / "overflowing")
    model = transformers.Blip2ForConditionalGeneration.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        if name.endswith((".wi.weight", ".wo.weight")):
            parameter.data *= 500
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def overflows():
    """Counts the outputs of linear layers that are not finite."""
    found = []

    def look(module, _, output):
        if isinstance(module, torch.nn.Linear) and not output.isfinite().all():
            found.append(module)

    hook = torch.nn.modules.module.register_module_forward_hook(look)
    yield found
    hook.remove()


@pytest.mark.parametrize(("dtype", "said"), [(torch.bfloat16, "bf16"), (torch.float32, "fp32")])
def test_encoder_decoder_trains_in_bf16_or_fp32_and_says_so(
    arguments_of, overflowing, overflows, dataset, monkeypatch, caplog, dtype, said
):
    _, expected = train(arguments_of(overflowing), dataset)
    with monkeypatch.context() as patched:
        patched.setattr(adapter, "is_encoder_decoder", lambda *_: False)
        train(use_fp16(arguments_of(overflowing), patched), dataset)
    assert overflows  # as Flan-T5's; transformers cuts it off where it can
    overflows.clear()

    monkeypatch.setattr(shared_arguments, "instead_of_fp16", lambda: dtype)
    args = use_fp16(arguments_of(overflowing), monkeypatch)
    caplog.set_level(logging.WARNING)
    trainer, losses = train(args, dataset)
    assert not overflows
    reason = f"{overflowing}: an encoder-decoder language model, in which FP16 overflows"
    assert f"{reason}: using {said} instead." in caplog.text
    assert (args.fp16, args.bf16) == (False, said == "bf16")
    assert trainer.model.get_base_model().language_model.dtype == dtype
    assert trained_dtypes(trainer) == {torch.float32}
    assert losses == pytest.approx(expected, rel=1e-2)


def test_encoder_decoder_is_asked_in_the_precision_of_its_training(bases, monkeypatch):
    monkeypatch.setattr(adapter, "instead_of_fp16", lambda: torch.bfloat16)
    assert Predictor.from_pretrained(bases["t5"], dtype="float16").model.language_model.dtype == torch.bfloat16
    assert Predictor.from_pretrained(bases["opt"], dtype="float16").model.language_model.dtype == torch.float16
