"""modeling.averaging: the saved model is the average by the formula, is what was evaluated, and survives a resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import train
from modeling.arguments import parse_arguments
from modeling.vilt import ViltTrainer, build_model, build_trainer
from processing.data import load_vqa_dataset

QUICK = [
    *("--model_name_or_path", "scratch:tiny", "--per_device_train_batch_size", "16", "--learning_rate", "3e-3"),
    *("--disable_tqdm", "True", "--weight_average_decay", "0.9", "--feature_cache_gb", "1"),
]


def run(phantoms: Path, folder: Path, *flags: str) -> Path:
    train.main([*QUICK, "--dataset", str(phantoms), "--output_dir", str(folder), *flags])
    return folder


class Watch(TrainerCallback):
    """Copies the live weights after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_begin(self, args, state, control, model, **_) -> None:
        self.on_step_end(args, state, control, model)

    def on_step_end(self, args, state, control, model, **_) -> None:
        self.seen.append({name: p.detach().clone() for name, p in model.named_parameters()})


def test_average_follows_the_formula(phantoms, tmp_path):
    flags = [*QUICK, "--max_steps", "25", "--eval_strategy", "no", "--save_strategy", "no"]
    _, args = parse_arguments([*flags, "--output_dir", str(tmp_path)])
    dataset = load_vqa_dataset(str(phantoms))
    trainer = build_trainer(args, *build_model(args, dataset), dataset)
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    average = watch.seen[0]
    for step, live in enumerate(watch.seen[1:], 1):
        decay = min(0.9, (1 + step) / (10 + step))
        average = {name: decay * value + (1 - decay) * live[name] for name, value in average.items()}
    assert step == 25
    for name, value in trainer.model.named_parameters():
        torch.testing.assert_close(value.detach(), average[name], rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(value, watch.seen[-1][name], atol=1e-4) for name, value in average.items())


def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_model(phantoms, tmp_path):
    steps = ["--max_steps", "12", "--save_strategy", "steps", "--save_steps", "6", "--eval_strategy", "no"]
    whole = run(phantoms, tmp_path / "whole", *steps)
    shutil.copytree(whole / "checkpoint-6", tmp_path / "again" / "checkpoint-6")
    again = run(phantoms, tmp_path / "again", *steps)
    weights = [load_file(folder / "model.safetensors") for folder in (whole, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    predictions = [(folder / "predictions_validation.jsonl").read_text() for folder in (whole, again)]
    assert predictions[0] == predictions[1]


def test_best_checkpoint_is_the_average_that_was_evaluated(phantoms, tmp_path):
    out = run(phantoms, tmp_path, "--num_train_epochs", "3", "--load_best_model_at_end", "True")
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    best = max(entry["eval_exact_match"] for entry in log if "eval_exact_match" in entry)
    assert json.loads((out / "all_results.json").read_text())["eval_exact_match"] == best
    assert not (out / "live.safetensors").exists()


def test_without_a_decay_nothing_is_averaged(phantoms, tmp_path):
    flags = ["--model_name_or_path", "scratch:tiny", "--max_steps", "1", "--output_dir", str(tmp_path)]
    _, args = parse_arguments(flags)
    dataset = load_vqa_dataset(str(phantoms))
    trainer = build_trainer(args, *build_model(args, dataset), dataset)
    trainer.train()
    assert isinstance(trainer, ViltTrainer)
    assert trainer.average is None
    assert not list(tmp_path.rglob("live.safetensors"))


@pytest.mark.parametrize("decay", ["0", "1", "-0.5"])
def test_decay_that_makes_no_sense(decay):
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        parse_arguments(["--weight_average_decay", decay])
