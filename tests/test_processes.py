"""Two processes do what one does: over gloo, started by torchrun, as `accelerate launch` starts one on a CPU."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from modeling.training.parser import parse_arguments
from modeling.vilt.checkpoints import load_checkpoint
from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.support.app_server import ROOT, free_port
from tests.support.tiny_blip2 import tiny_blip2

KINDS = {
    "vilt": ["--model_name_or_path", "scratch:tiny", "--learning_rate", "5e-3"],
    "blip2": ["--model_type", "blip2", "--questions_per_image", "4", "--learning_rate", "5e-3"],
}
COMMON = ["--max_steps", "8", "--logging_steps", "1", "--save_strategy", "steps", "--save_steps", "8", "--do_predict"]
COMMON += ["--eval_strategy", "no", "--disable_tqdm", "True", "--fp16", "False"]


def launch(processes: int, output: Path, data: Path, cache: Path, *flags: str, script: str = "train") -> str:
    """Runs a module on the CPU; what it wrote to its log."""
    start = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(free_port())]
    command = [sys.executable, *(start if processes > 1 else []), "-m", script, *COMMON, "--use_cpu", "True"]
    command += ["--dataset", str(data), "--output_dir", str(output), *flags]
    command += ["--per_device_train_batch_size", str(8 // processes), "--per_device_eval_batch_size", "8"]
    environment = os.environ | {"MEDICAL_VQA_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr + done.stdout


def losses(run: Path) -> list[float]:
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def check_same_result(one: Path, two: Path, data: Path) -> None:
    """Losses, figures and answers of two runs are the same, with no row twice and none left out."""

    def figures(run: Path) -> dict[str, float]:
        results = json.loads((run / "all_results.json").read_text())
        return {name: value for name, value in results.items() if "exact_match" in name or name.endswith("total")}

    def rows(run: Path, split: str) -> list[dict]:
        return [json.loads(line) for line in (run / f"predictions_{split}.jsonl").read_text().splitlines()]

    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert figures(two) == pytest.approx(figures(one))
    expected = load_vqa_dataset(str(data))
    for split in ("validation", "test"):
        assert [row["id"] for row in rows(two, split)] == expected[split]["question_id"]
        assert [row["prediction"] for row in rows(two, split)] == [row["prediction"] for row in rows(one, split)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_losses_and_answers_of_one(phantoms, tmp_path, kind):
    flags = list(KINDS[kind])
    if kind == "blip2":
        base = tiny_blip2("opt", load_vqa_dataset(str(phantoms)), tmp_path / "base")
        flags += ["--model_name_or_path", str(base), "--lora_dropout", "0"]
    one = launch(1, tmp_path / "1", phantoms, tmp_path / "cache-1", *flags)
    two = launch(2, tmp_path / "2", phantoms, tmp_path / "cache-2", *flags)

    check_same_result(tmp_path / "1", tmp_path / "2", phantoms)
    assert (
        two.count("Model, figures and predictions are in") == one.count("Model, figures and predictions are in") == 1
    )
    if kind != "vilt":
        assert two.count(" computed, 0 read") == 1, "features are to be computed once among the processes"
    left = {file.relative_to(tmp_path / "1") for file in (tmp_path / "1").rglob("*") if "rng_state" not in file.name}
    assert {f.relative_to(tmp_path / "2") for f in (tmp_path / "2").rglob("*") if "rng_state" not in f.name} == left


def test_fsdp_shares_out_a_model_goes_on_from_shards_and_leaves_it_whole(phantoms, tmp_path):
    launch(1, tmp_path / "1", phantoms, tmp_path / "cache", *KINDS["vilt"])
    config = {"fsdp_version": 2, "state_dict_type": "SHARDED_STATE_DICT"}  # as recipes/accelerate/fsdp.yaml
    flags = [*KINDS["vilt"], "--save_steps", "4", "--fsdp", "full_shard", "--fsdp_config", json.dumps(config)]
    spread = partial(
        launch, 2, tmp_path / "2", phantoms, tmp_path / "cache", *flags, script="tests.support.fsdp_on_cpu"
    )
    spread()
    check_same_result(tmp_path / "1", tmp_path / "2", phantoms)
    for left in ("checkpoint-8", "model.safetensors"):
        path = tmp_path / "2" / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"Going on from {tmp_path / '2' / 'checkpoint-4'}" in spread()
    check_same_result(tmp_path / "1", tmp_path / "2", phantoms)
    weights = [load_file(tmp_path / run / "model.safetensors") for run in ("1", "2")]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_starter_and_vilt_name_what_fsdp_shares_out(runs):
    """Accelerate ends a run whose model has no part of a name."""
    for name in ("vilt", "starter"):
        model, _ = load_checkpoint(str(runs(name)), {})
        assert model._no_split_modules == {"ViltLayer"}
        assert "ViltLayer" in {type(part).__name__ for part in model.modules()}


@pytest.mark.parametrize("flags", [["--fsdp", "full_shard"], []])
def test_blip2_with_fsdp_is_refused(monkeypatch, flags):
    if not flags:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` does with such a config
    with pytest.raises(UserError, match="BLIP-2 can't be spread by FSDP"):
        parse_arguments(["--model_type", "blip2", *flags])


CONFIGS = {
    "accelerate_config.yaml": ("NO", 1, "fp16"),
    "recipes/accelerate/cpu.yaml": ("NO", 1, "no"),
    "recipes/accelerate/multi_gpu.yaml": ("MULTI_GPU", 4, "fp16"),
    "recipes/accelerate/fsdp.yaml": ("FSDP", 4, "bf16"),
    "recipes/accelerate/deepspeed_zero2.yaml": ("DEEPSPEED", 4, "fp16"),
}


@pytest.mark.parametrize("file", CONFIGS)
def test_configs_of_accelerate_are_what_they_are_called(file):
    config = load_config_from_file(str(ROOT / file))
    assert (config.distributed_type, config.num_processes, config.mixed_precision) == CONFIGS[file]


def test_every_config_of_accelerate_is_tested():
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("recipes/accelerate/*")} < CONFIGS.keys()
