"""Memory that is too small for a run ends it in one sentence, with flags that help."""

import pytest
import torch

import train
from modeling.training.arguments import Blip2TrainingArguments, ViltTrainingArguments
from modeling.training.memory import explain_out_of_memory
from processing.errors import UserError


def explained(args, error, training=True) -> str:
    with pytest.raises(UserError) as raised, explain_out_of_memory(args, training):
        raise error
    return str(raised.value)


def test_smaller_steps_of_the_same_batch_are_proposed(tmp_path):
    args = ViltTrainingArguments(output_dir=str(tmp_path), fp16=False)
    assert explained(args, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")) == (
        "Training needs more than the GPU's memory at a batch of 64; try --per_device_train_batch_size 32 "
        "--gradient_accumulation_steps 2, or --gradient_checkpointing True."
    )
    assert explained(args, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")) == (
        "Training needs more than the memory at a batch of 64; try --per_device_train_batch_size 32 "
        "--gradient_accumulation_steps 2, or --gradient_checkpointing True."
    )
    assert explained(args, MemoryError(), training=False) == (
        f"Evaluation needs more than the memory at a batch of {args.per_device_eval_batch_size}; try "
        f"--per_device_eval_batch_size {args.per_device_eval_batch_size // 2}."
    )


def test_what_is_done_already_is_not_proposed(tmp_path):
    options = {"per_device_train_batch_size": 1, "gradient_checkpointing": True, "fp16": False}
    args = Blip2TrainingArguments(output_dir=str(tmp_path), **options)
    message = "Training needs more than the GPU's memory at a batch of 1; "
    assert explained(args, torch.OutOfMemoryError()) == f"{message}try --quantization 4bit."
    args.quantization = "4bit"
    assert explained(args, torch.OutOfMemoryError()) == f"{message}take a smaller base model."


def test_other_errors_stay_as_they_are(tmp_path):
    args = ViltTrainingArguments(output_dir=str(tmp_path), fp16=False)
    with pytest.raises(RuntimeError, match="^shapes differ$"), explain_out_of_memory(args, True):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(("method", "doing"), [("training_step", "Training"), ("prediction_step", "Evaluation")])
def test_a_run_says_so(phantoms, tmp_path, monkeypatch, method, doing):
    def fails(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(f"transformers.Trainer.{method}", fails)
    flags = [
        "--model_name_or_path",
        "scratch:tiny",
        "--max_steps",
        "1",
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
    ]
    with pytest.raises(UserError, match=f"^{doing} needs more than the GPU's memory at a batch of"):
        train.main([*flags, "--disable_tqdm", "True", "--dataset", str(phantoms), "--output_dir", str(tmp_path)])
