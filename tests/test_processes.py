"""Two processes do what one does: over gloo, started by torchrun, as `accelerate launch` starts one on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from processing.data import load_vqa_dataset
from tests.app_server import ROOT, free_port
from tests.tiny_blip2 import tiny_blip2

KINDS = {
    "vilt": ["--model_name_or_path", "scratch:tiny", "--learning_rate", "5e-3"],
    "blip2": ["--model_type", "blip2", "--questions_per_image", "4", "--learning_rate", "5e-3"],
}
COMMON = ["--max_steps", "8", "--logging_steps", "1", "--save_strategy", "steps", "--save_steps", "8", "--do_predict"]
COMMON += ["--eval_strategy", "no", "--disable_tqdm", "True", "--fp16", "False"]


def launch(processes: int, output: Path, data: Path, cache: Path, *flags: str) -> str:
    """Runs train.py on the CPU; what it wrote to its log."""
    start = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(free_port())]
    command = [sys.executable, *(start if processes > 1 else []), "train.py", *COMMON, "--use_cpu", "True"]
    command += ["--dataset", str(data), "--output_dir", str(output), *flags]
    command += ["--per_device_train_batch_size", str(8 // processes), "--per_device_eval_batch_size", "8"]
    environment = os.environ | {"MEDICAL_VQA_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr + done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_losses_and_answers_of_one(phantoms, tmp_path, kind):
    flags = list(KINDS[kind])
    if kind == "blip2":
        base = tiny_blip2("opt", load_vqa_dataset(str(phantoms)), tmp_path / "base")
        flags += ["--model_name_or_path", str(base), "--lora_dropout", "0"]
    one = launch(1, tmp_path / "1", phantoms, tmp_path / "cache-1", *flags)
    two = launch(2, tmp_path / "2", phantoms, tmp_path / "cache-2", *flags)

    def losses(run: str) -> list[float]:
        history = json.loads((tmp_path / run / "trainer_state.json").read_text())["log_history"]
        return [entry["loss"] for entry in history if "loss" in entry]

    def figures(run: str) -> dict[str, float]:
        results = json.loads((tmp_path / run / "all_results.json").read_text())
        return {name: value for name, value in results.items() if "exact_match" in name or name.endswith("total")}

    def rows(run: str, split: str) -> list[dict]:
        file = tmp_path / run / f"predictions_{split}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]

    assert losses("2") == pytest.approx(losses("1"), rel=1e-5)
    assert figures("2") == pytest.approx(figures("1"))
    expected = load_vqa_dataset(str(phantoms))
    for split in ("validation", "test"):
        assert [row["id"] for row in rows("2", split)] == expected[split]["question_id"]
        assert [row["prediction"] for row in rows("2", split)] == [row["prediction"] for row in rows("1", split)]
    assert (
        two.count("Model, figures and predictions are in") == one.count("Model, figures and predictions are in") == 1
    )
    if kind != "vilt":
        assert two.count(" computed, 0 read") == 1, "features are to be computed once among the processes"
    left = {file.relative_to(tmp_path / "1") for file in (tmp_path / "1").rglob("*") if "rng_state" not in file.name}
    assert {f.relative_to(tmp_path / "2") for f in (tmp_path / "2").rglob("*") if "rng_state" not in f.name} == left


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
