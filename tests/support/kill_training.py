"""Kills training at random moments and lets it go on, again and again; the result must be that of a run left alone.

python -m tests.support.kill_training starter --kills 20

Each run is a child of one process that has imported everything, so that most of the time is training. It prints what
it found and fails where losses, weights or predictions differ in one bit.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import train
from modeling.training.checkpoints import checkpoints, why_incomplete
from processing.data import load_vqa_dataset
from processing.phantom.files import write_phantoms
from tests.support.tiny_blip2 import tiny_blip2

KINDS = {
    "vilt": ["--model_name_or_path", "scratch:tiny", "--learning_rate", "5e-3"],
    "starter": ["--model_name_or_path", "starter", "--questions_per_image", "4", "--learning_rate", "5e-4"],
    "blip2": ["--model_type", "blip2", "--questions_per_image", "4", "--learning_rate", "5e-3"],
}
COMMON = ["--per_device_train_batch_size", "8", "--save_strategy", "steps", "--save_steps"]
COMMON += ["3", "--save_total_limit", "2", "--logging_steps", "1", "--eval_strategy", "no", "--disable_tqdm", "True"]


def child(function: Callable[[], object], log: Path) -> multiprocessing.process.BaseProcess:
    """Runs a function in a child, which starts in no time as everything is imported."""

    def run() -> None:
        with log.open("a") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        train.run_command(lambda _: function())

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def finish(function: Callable[[], object], log: Path) -> float:
    """Runs a function to its end; the seconds that this took."""
    started = time.monotonic()
    process = child(function, log)
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"A run ended with {process.exitcode}:\n{log.read_text()[-3000:]}")
    return time.monotonic() - started


def last_step(folder: Path) -> int:
    """The step of the last checkpoint, whole or not."""
    return max((int(one.name.rpartition("-")[2]) for one in checkpoints(folder)), default=0)


def outcome(folder: Path) -> tuple[list, bytes, bytes]:
    """Loss and gradient of each step, weights, and predictions."""
    state = json.loads((folder / "trainer_state.json").read_text())
    steps = [(e["step"], e["loss"], e["grad_norm"], e["learning_rate"]) for e in state["log_history"] if "loss" in e]
    [weights] = [*folder.glob("model.safetensors"), *folder.glob("adapter_model.safetensors")]
    return steps, weights.read_bytes(), (folder / "predictions_validation.jsonl").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m tests.support.kill_training", description="Is anything lost by a kill?"
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=["SIGKILL", "SIGTERM"], default="SIGKILL")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, base, log = folder / "data", folder / "base", folder / "log"
        os.environ.setdefault("MEDICAL_VQA_CACHE", f"{name}/cache")

        def prepare() -> None:
            write_phantoms(data, num_images=28, image_size=96)
            if options.kind == "blip2":
                tiny_blip2("opt", load_vqa_dataset(str(data)), base)

        def run(output: str, *flags: str) -> Callable[[], object]:
            argv = [*KINDS[options.kind], *COMMON, "--dataset", str(data), "--num_train_epochs", str(options.epochs)]
            argv += ["--model_name_or_path", str(base)] if options.kind == "blip2" else []
            return lambda: train.main([*argv, "--output_dir", f"{name}/{output}", *flags])

        finish(prepare, log)
        if options.kind != "vilt":  # the others keep features of the images, which all further runs read
            finish(run("first", "--max_steps", "1", "--do_eval", "False"), log)
        seconds = finish(run("whole"), log)
        whole = outcome(folder / "whole")
        steps, killed_folder = len(whole[0]), folder / "killed"
        found = {"startup": 0, "checkpoint": 0, "end": 0}
        for number in range(options.kills):
            process = child(run("killed"), log)
            early = number % 5 == 4
            if early:  # while it starts
                time.sleep(chance.uniform(0, 1))
            else:  # somewhere after some more steps, at a checkpoint or soon after
                goal = last_step(killed_folder) + chance.uniform(0, 2.2 * steps / options.kills)
                while last_step(killed_folder) <= min(goal, steps - 1) and process.is_alive():
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, 0.03))
            os.kill(process.pid, getattr(signal, options.signal))
            process.join()
            found["startup"] += early
            found["checkpoint"] += any(why_incomplete(one) is not None for one in checkpoints(killed_folder))
            found["end"] += (killed_folder / "predictions_validation.jsonl").exists()
            if options.signal == "SIGTERM" and process.exitcode not in (0, 143, -signal.SIGTERM):
                raise SystemExit(f"A run ended with {process.exitcode} after SIGTERM:\n{log.read_text()[-3000:]}")
        reached = last_step(killed_folder)
        finish(run("killed"), log)
        killed = outcome(killed_folder)
        print(
            f"{options.kind}, {steps} steps, {seconds:.1f} s: {options.signal} {options.kills} times, "
            f"{found['startup']} before the first step, {found['checkpoint']} with a checkpoint cut off, "
            f"{found['end']} after the end; the last checkpoint then was {reached}."
        )
        for what, one, other in zip(("losses", "weights", "predictions"), whole, killed, strict=True):
            print(f"{what}: {'the same' if one == other else 'DIFFERENT'}")
        sys.exit(whole != killed)


if __name__ == "__main__":
    main()
