"""modeling.training.arguments: published defaults, help of every field, precision on a CPU and a GPU."""

import dataclasses
import os

import pytest
import torch

from modeling.training.arguments import (
    TRAINING_ARGUMENTS,
    Blip2TrainingArguments,
    ViltTrainingArguments,
    WritingTrainingArguments,
)
from modeling.training.data_arguments import DataArguments
from modeling.training.precision import cpu_has_bf16
from modeling.training.shared_arguments import SharedTrainingArguments

OWN_CLASSES = (DataArguments, SharedTrainingArguments, WritingTrainingArguments, *TRAINING_ARGUMENTS.values())


def test_vilt_defaults_are_the_published_recipe(tmp_path):
    args = ViltTrainingArguments(output_dir=str(tmp_path))
    assert args.model_name_or_path == "dandelin/vilt-b32-mlm"
    assert (args.per_device_train_batch_size, args.learning_rate, args.num_train_epochs) == (64, 2e-5, 3)
    assert {f.name: f.default for f in dataclasses.fields(ViltTrainingArguments)}["fp16"] is True


def test_blip2_defaults_are_the_published_recipe(tmp_path):
    args = Blip2TrainingArguments(output_dir=str(tmp_path))
    assert args.model_name_or_path == "Salesforce/blip2-opt-2.7b"
    assert (args.per_device_train_batch_size, args.learning_rate, args.num_train_epochs) == (64, 2e-3, 10)
    assert (args.lora_r, args.lora_alpha, args.lora_dropout) == (8, 32, 0.1)
    assert {f.name: f.default for f in dataclasses.fields(Blip2TrainingArguments)}["fp16"] is True


@pytest.mark.parametrize("cls", OWN_CLASSES, ids=lambda cls: cls.__name__)
def test_every_own_field_has_help(cls):
    for name in cls.__annotations__:
        field = {f.name: f for f in dataclasses.fields(cls)}[name]
        assert len(field.metadata.get("help", "")) > 15, name


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here: FP16 is kept")
def test_fp16_without_a_gpu_becomes_what_the_cpu_can_do_and_says_so_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # as `accelerate launch` sets it
    args = ViltTrainingArguments(output_dir=str(tmp_path))
    assert args.fp16 is False
    assert args.bf16 is cpu_has_bf16()
    assert args.use_cpu
    assert args.mixed_precision == ("bf16" if cpu_has_bf16() else "no")
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"
    assert caplog.text.count("instead of FP16") == 1


@pytest.mark.parametrize(
    ("name", "instructions", "fast"),
    [
        ("Intel Xeon", ["avx512_bf16", "amx_bf16"], True),
        ("Intel Xeon", ["avx512_bf16"], False),
        ("AMD EPYC", ["avx512_bf16"], True),
        ("AMD EPYC", ["avx512_f"], False),
        ("", [], False),
    ],
)
def test_bf16_is_taken_on_cpus_that_are_faster_at_it(monkeypatch, name, instructions, fast):
    capabilities = {"cpu_name": name, "avx512_bf16": False, "amx_bf16": False} | dict.fromkeys(instructions, True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert cpu_has_bf16() is fast


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here: FP16 is kept")
def test_fp16_becomes_fp32_on_a_cpu_without_bf16(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("modeling.training.shared_arguments.cpu_has_bf16", lambda: False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    args = ViltTrainingArguments(output_dir=str(tmp_path))
    assert (args.fp16, args.bf16, args.mixed_precision) == (False, False, "no")
    assert "using fp32 instead of FP16" in caplog.text


def test_no_precision_asked_for_means_fp32_and_no_message(tmp_path, caplog):
    args = ViltTrainingArguments(output_dir=str(tmp_path), fp16=False)
    assert (args.fp16, args.bf16) == (False, False)
    assert "FP16" not in caplog.text


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that knows BF16, as far as arguments ask for one; what they compute stays on the CPU."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda *_, **__: True)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)


PRECISIONS = {  # flags, what `accelerate launch` sets: FP16, BF16, what Accelerate is told, its variable
    "default": ({}, None, (True, False, "fp16", None)),
    "bf16": ({"bf16": True}, None, (False, True, "bf16", None)),
    "both": ({"bf16": True, "fp16": True}, None, (False, True, "bf16", None)),
    "neither": ({"fp16": False}, None, (False, False, "no", None)),
    "launched-fp16": ({}, "fp16", (True, False, "fp16", "fp16")),
    "launched-bf16": ({}, "bf16", (False, True, "bf16", "bf16")),
    "launched-no": ({}, "no", (True, False, "fp16", "no")),
    "bf16-wins-over-the-launch": ({"bf16": True}, "fp16", (False, True, "bf16", "no")),
    "fp32-wins-over-the-launch": ({"fp16": False}, "fp16", (False, False, "no", "no")),
}


@pytest.mark.parametrize(("flags", "launched", "expected"), PRECISIONS.values(), ids=PRECISIONS)
def test_precision_on_a_gpu(gpu, monkeypatch, tmp_path, flags, launched, expected):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    for arguments in (ViltTrainingArguments, Blip2TrainingArguments):
        args = arguments(output_dir=str(tmp_path), **flags)
        told = os.environ.get("ACCELERATE_MIXED_PRECISION")
        assert (args.fp16, args.bf16, args.mixed_precision, told) == expected
        if told is not None:
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here")
@pytest.mark.parametrize(("flags", "launched"), [({"bf16": True}, "fp16"), ({}, "bf16"), ({"fp16": False}, "bf16")])
def test_bf16_that_is_asked_for_is_kept_on_a_cpu(monkeypatch, tmp_path, caplog, flags, launched):
    monkeypatch.setattr("modeling.training.shared_arguments.cpu_has_bf16", lambda: False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    args = ViltTrainingArguments(output_dir=str(tmp_path), **flags)
    assert (args.fp16, args.bf16, args.mixed_precision) == (False, True, "bf16")
    assert "No GPU here" not in caplog.text


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here")
def test_fp16_false_wins_over_the_launch_on_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr("modeling.training.shared_arguments.cpu_has_bf16", lambda: True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    args = ViltTrainingArguments(output_dir=str(tmp_path), fp16=False)
    assert (args.fp16, args.bf16, args.mixed_precision) == (False, False, "no")
