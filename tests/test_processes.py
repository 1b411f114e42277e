"""Two processes do what one does."""

import io
import json
import multiprocessing.connection
import os
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

import train
from modeling.training.parser import parse_arguments
from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.support import warm
from tests.support.app_server import ROOT, free_port
from tests.support.tiny_blip2 import tiny_blip2
from tests.support.tiny_vlms import save_tiny_vlm

NO_EVIDENCE = ["--evidence_weight", "0"]  # a mean over the targets that a process has, so losses would differ a little
KINDS = {
    "vilt": ["--model_name_or_path", "scratch:tiny", "--learning_rate", "5e-3", *NO_EVIDENCE],
    "blip2": ["--model_type", "blip2", "--questions_per_image", "4", "--learning_rate", "5e-3", *NO_EVIDENCE],
    "vlm": ["--model_type", "vlm", "--questions_per_image", "4", "--learning_rate", "5e-3", *NO_EVIDENCE],
}
COMMON = ["--max_steps", "8", "--logging_steps", "1", "--save_strategy", "steps", "--save_steps", "8", "--do_predict"]
COMMON += ["--eval_strategy", "no", "--disable_tqdm", "True", "--fp16", "False", "--use_cpu", "True"]
COMMON += ["--per_device_eval_batch_size", "8"]


class Run(NamedTuple):
    """A finished run.

    Attributes:
        flags: that another run needs to be the same.
        output: what it printed, and of processes of its own also their log.
    """

    folder: Path
    flags: list[str]
    output: str


@pytest.fixture(scope="module")
def dataset(phantoms) -> datasets.DatasetDict:
    return load_vqa_dataset(str(phantoms))


@pytest.fixture(scope="module")
def run_in_one_process(phantoms, dataset, tmp_path_factory):
    """A function from one of `KINDS` to its run in this process."""
    folder = tmp_path_factory.mktemp("one-process")
    made: dict[str, Run] = {}

    def run(kind: str) -> Run:
        if kind not in made:
            flags = list(KINDS[kind])
            if kind != "vilt":
                base = folder / f"base-{kind}"
                base = tiny_blip2("opt", dataset, base) if kind == "blip2" else save_tiny_vlm("qwen3_vl", base)
                flags += ["--model_name_or_path", str(base), "--lora_dropout", "0"]
            options = ["--dataset", str(phantoms), "--output_dir", str(folder / kind)]
            with redirect_stdout(io.StringIO()) as output:
                train.main([*COMMON, *flags, *options, "--per_device_train_batch_size", "8"])
            made[kind] = Run(folder / kind, flags, output.getvalue())
        return made[kind]

    return run


def run_in_two_processes(folder: Path, data: Path, cache: Path, flags: list[str], module: str = "train") -> Run:
    """Runs a module over gloo in two processes, with the variables that torchrun gives them."""
    words = [*COMMON, *flags, "--dataset", str(data), "--output_dir", str(folder)]
    words += ["--per_device_train_batch_size", "4"]
    variables = {"MEDICAL_VQA_CACHE": str(cache), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    variables |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    logs = [cache.with_name(f"log-{rank}") for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        log.unlink(missing_ok=True)
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(warm.start("-m", module, *words, log=log, environment=os.environ | variables | own))
    while running := [one.sentinel for one in processes if one.is_alive()]:
        multiprocessing.connection.wait(running)
        if any(one.exitcode for one in processes):  # the other would wait for it
            for one in processes:
                one.terminate()
    output = "".join(log.read_text() for log in logs)
    assert [one.exitcode for one in processes] == [0, 0], output[-4000:]
    return Run(folder, flags, output)


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def figures(folder: Path) -> dict[str, float]:
    results = json.loads((folder / "all_results.json").read_text())
    return {name: value for name, value in results.items() if "exact_match" in name or name.endswith("total")}


def predictions(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"predictions_{split}.jsonl").read_text().splitlines()]


def check_same_result(one: Path, two: Path, dataset: datasets.DatasetDict) -> None:
    """Losses, figures and answers of two runs are the same, with no row twice and none left out."""
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert figures(two) == pytest.approx(figures(one))
    for split in ("validation", "test"):
        rows, expected = predictions(two, split), predictions(one, split)
        assert [row["id"] for row in rows] == dataset[split]["question_id"]
        assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected]


@pytest.mark.parametrize("kind", ["blip2", "vlm"])
def test_two_processes_give_the_losses_and_answers_of_one(run_in_one_process, phantoms, dataset, tmp_path, kind):
    """With questions packed by image and kept features; the test of FSDP does it with ViLT."""
    one = run_in_one_process(kind)
    two = run_in_two_processes(tmp_path / "run", phantoms, tmp_path / "cache", one.flags)
    check_same_result(one.folder, two.folder, dataset)
    for run in (one, two):
        assert run.output.count("Model, figures and predictions are in") == 1
    assert two.output.count(" computed, 0 read") == 1, "features are to be computed once among the processes"
    files = [{path.relative_to(run.folder) for path in run.folder.rglob("*")} for run in (one, two)]
    one_files, two_files = ({path for path in paths if "rng_state" not in path.name} for paths in files)
    assert two_files == one_files


def test_fsdp_shards_a_model_resumes_from_shards_and_saves_it_whole(run_in_one_process, phantoms, dataset, tmp_path):
    one = run_in_one_process("vilt")
    config = {"fsdp_version": 2, "state_dict_type": "SHARDED_STATE_DICT"}  # as recipes/accelerate/fsdp.yaml
    flags = [*one.flags, "--save_steps", "4", "--fsdp", "full_shard", "--fsdp_config", json.dumps(config)]
    folder = tmp_path / "run"

    def run_sharded() -> Run:
        return run_in_two_processes(folder, phantoms, tmp_path / "cache", flags, "tests.support.fsdp_on_cpu")

    run_sharded()
    check_same_result(one.folder, folder, dataset)
    shutil.rmtree(folder / "checkpoint-8")
    (folder / "model.safetensors").unlink()
    assert f"The run resumes from {folder / 'checkpoint-4'}." in run_sharded().output
    check_same_result(one.folder, folder, dataset)
    whole, expected = load_file(folder / "model.safetensors"), load_file(one.folder / "model.safetensors")
    assert whole.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(whole[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("family", "name"), [("blip2", "BLIP-2"), ("vlm", "A vision-language model")])
def test_a_model_that_writes_is_refused_with_fsdp(monkeypatch, family, name):
    with pytest.raises(UserError, match=f"{name} can't be spread by FSDP"):
        parse_arguments(["--model_type", family, "--fsdp", "full_shard"])
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` does with such a config
    with pytest.raises(UserError, match=f"{name} can't be spread by FSDP"):
        parse_arguments(["--model_type", family])


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
