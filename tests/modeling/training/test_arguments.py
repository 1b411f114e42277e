"""modeling.training.arguments: published defaults, help of every field, precision on a CPU."""

import dataclasses
import os

import pytest
import torch

from modeling.training.arguments import (
    Blip2TrainingArguments,
    DataArguments,
    SharedTrainingArguments,
    ViltTrainingArguments,
    cpu_has_bf16,
)

OWN_CLASSES = (DataArguments, SharedTrainingArguments, ViltTrainingArguments, Blip2TrainingArguments)


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


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here: FP16 is kept")
def test_fp16_becomes_fp32_on_a_cpu_without_bf16(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("modeling.training.arguments.cpu_has_bf16", lambda: False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    args = ViltTrainingArguments(output_dir=str(tmp_path))
    assert (args.fp16, args.bf16, args.mixed_precision) == (False, False, "no")
    assert "using fp32 instead of FP16" in caplog.text


def test_no_precision_asked_for_means_fp32_and_no_message(tmp_path, caplog):
    args = ViltTrainingArguments(output_dir=str(tmp_path), fp16=False)
    assert (args.fp16, args.bf16) == (False, False)
    assert "FP16" not in caplog.text
