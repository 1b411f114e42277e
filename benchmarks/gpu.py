"""Training and evaluation on a GPU: this project against a plain recipe, for full-size models of random weights.

    python -m benchmarks.gpu

It needs one GPU and no network. The models are ViLT-B/32, blip2-opt-2.7b, blip2-flan-t5-xl, SmolVLM-500M,
Qwen2.5-VL-3B and MedGemma-4B, made from their configurations; the weights and the order of rows are equal on both
sides, so losses can be compared. The rows have SLAKE's shapes: images of 512 pixels with 12 questions each. At the end
the tests of half precision run on the GPU. What is printed is a table in Markdown, for `docs/speed.md`.
"""

import argparse
import gc
import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import Blip2Config, TrainerCallback, ViltConfig

from benchmarks.cost_model import OPT_27B
from benchmarks.gpu_variants import Options, Side, build
from benchmarks.options import at_least, rows_of_steps
from benchmarks.published_vlms import PUBLISHED, PublishedVlm
from processing.errors import UserError, run_command
from processing.phantom.files import write_phantoms

ROOT = Path(__file__).parent.parent
PHANTOMS, IMAGE_SIZE = 60, 512  # SLAKE's images are of 240 to 1,024 pixels, half of them of 512
QUESTIONS_PER_IMAGE = 16  # that stay together, as in the recipe
EVALUATED = 2  # batches
CHECKS = "tests/modeling/test_half_precision.py"
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}  # of `make_processor`
QFORMER = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # so that losses can be compared
FLAN_T5_XL = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}


def full_size_models() -> dict[str, ViltConfig | Blip2Config | PublishedVlm]:
    """The published models, without dropout."""
    opt = OPT_27B | TOKENS | {"dropout": 0.0}
    return {
        "ViLT-B/32": ViltConfig(),
        "blip2-opt-2.7b": Blip2Config(text_config=opt, qformer_config=QFORMER, image_token_index=50265),
        "blip2-flan-t5-xl": Blip2Config(
            text_config=FLAN_T5_XL | TOKENS, qformer_config=QFORMER, image_token_index=32100
        ),
        **PUBLISHED,
    }


@dataclass
class Result:
    """What was measured of one side.

    Attributes:
        precision: fp16, bf16 or fp32.
        losses: of each step.
        training, evaluation: questions a second. The first step and the first answers are not timed.
        outside: share of the timed steps that is not forward and backward.
        peak_memory: of the GPU, in bytes, until the end of training.
        preparation: seconds until training began, the model and kept features included.
    """

    precision: str
    losses: list[float] = field(default_factory=list)
    training: float = 0.0
    evaluation: float = 0.0
    outside: float = 0.0
    peak_memory: float = 0.0
    preparation: float = 0.0


class _Clock(TrainerCallback):
    """When each step ended, and the seconds of its forward and backward."""

    def __init__(self, side: Side) -> None:
        self.ends: list[float] = []
        self.inside: list[float] = []
        step = side.trainer.training_step

        def timed(*args: Any, **kwargs: Any) -> torch.Tensor:
            start = _now()
            loss = step(*args, **kwargs)
            self.inside.append(_now() - start)
            return loss

        side.trainer.training_step = timed  # type: ignore[method-assign]
        side.trainer.add_callback(self)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(_now())


def _now() -> float:
    """In seconds, when the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def compare(config: Any, dataset: datasets.DatasetDict, options: Options) -> dict[str, Result | None]:
    """Measures both sides of a model, `plain` and `project`, one after the other; None where memory is too small.

    Args:
        config: of the model, as `full_size_models` has them.
        dataset: of `ordered_rows`.
    """
    results: dict[str, Result | None] = {}
    for name in ("plain", "project"):
        try:
            results[name] = _measure(name, config, dataset, options)
        except torch.OutOfMemoryError:
            results[name] = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results


def _measure(name: str, config: Any, dataset: datasets.DatasetDict, options: Options) -> Result:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = _now()
    side = build(name, config, dataset, options)
    result = Result(side.precision, preparation=_now() - start)
    clock = _Clock(side)
    side.trainer.train()
    seconds = clock.ends[-1] - clock.ends[0]
    result.losses = [entry["loss"] for entry in side.trainer.state.log_history if "loss" in entry]
    result.training = options.batch_size * (options.steps - 1) / seconds
    result.outside = 1 - sum(clock.inside[1:]) / seconds
    if torch.cuda.is_available():
        result.peak_memory = torch.cuda.max_memory_allocated()
    rows = dataset["validation"]
    side.answer(rows.select(range(min(8, len(rows)))))  # warms up
    start = _now()
    side.answer(rows)
    result.evaluation = len(rows) / (_now() - start)
    return result


def table(results: dict[str, dict[str, Result | None]], card: str, options: Options) -> str:
    """The results of each model as Markdown.

    Args:
        results: of `compare`, by the name of the model.
        card: the name of the GPU.
    """
    run = f"{card}, {options.batch_size} questions a step, {options.steps} steps"
    lines = [f"| {run} | plain recipe | this project | ratio |", "|---|---|---|---|"]
    for name, sides in results.items():
        plain, project = sides["plain"], sides["project"]
        both = [side for side in (plain, project) if side is not None]
        precision = " and ".join(dict.fromkeys(side.precision for side in both)) or "-"
        lines.append(f"| **{name}**, {precision} | {_told(plain)} | {_told(project)} | |")
        for text, show, measure in (
            ("training, questions a second", "{:.1f}", lambda side: side.training),
            ("peak memory, GB", "{:.1f}", lambda side: side.peak_memory / 1e9),
            ("time outside forward and backward", "{:.0%}", lambda side: side.outside),
            ("evaluation, questions a second", "{:.1f}", lambda side: side.evaluation),
            ("until training begins, seconds", "{:.0f}", lambda side: side.preparation),
            ("loss of the first step", "{:.4f}", lambda side: side.losses[0]),
            ("loss of the last step", "{:.4f}", lambda side: side.losses[-1]),
        ):
            cells = ["-" if side is None else show.format(measure(side)) for side in (plain, project)]
            ratio = ""
            if len(both) == 2 and measure(both[0]) > 0 and "{:.0%}" not in show:
                ratio = f"{measure(both[1]) / measure(both[0]):.2f}"
            lines.append(f"| {text} | {cells[0]} | {cells[1]} | {ratio} |")
    return "\n".join(lines)


def _told(side: Result | None) -> str:
    return "out of memory" if side is None else ""


def ordered_rows(dataset: str, options: Options) -> datasets.DatasetDict:
    """The training rows of all steps, as `rows_of_steps` gives and raises them, and those of them to evaluate on."""
    rows = rows_of_steps(dataset, options.steps, options.batch_size, QUESTIONS_PER_IMAGE)
    evaluated = rows.select(range(min(EVALUATED * options.batch_size, len(rows))))
    return datasets.DatasetDict({"train": rows, "validation": evaluated})


def check_half_precision() -> str:
    """Runs the tests of half precision, which take the GPU where there is one, and returns the last line they print.

    Raises:
        UserError: one fails, or they can't run.
    """
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--tb=short", CHECKS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"The tests of half precision fail here; run python -m pytest {CHECKS} to see why.")
    return done.stdout.strip().splitlines()[-1]


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: there is no GPU, the data set can't be used, or a test of half precision fails.
    """
    names = list(full_size_models())
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description="Speed and memory on a GPU.")
    parser.add_argument("--dataset", help="as for train.py; by default generated images of SLAKE's shapes")
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="which to compare")
    parser.add_argument("--steps", type=at_least(2), default=6, help="optimizer steps; the first is not timed")
    parser.add_argument("--batch_size", type=at_least(1), default=64, help="questions a step")
    chosen = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise UserError(
            "There is no GPU here, which this benchmark is about; python -m benchmarks.blip2_training, "
            "benchmarks.vlm_training and benchmarks.vilt_training compare the same on a CPU."
        )
    if torch.cuda.device_count() > 1:
        raise UserError("Several GPUs are here and one is compared; choose it by CUDA_VISIBLE_DEVICES=0.")
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDICAL_VQA_CACHE"] = f"{folder}/cache"  # kept features of random weights are of no use later
        options = Options(f"{folder}/out", chosen.steps, chosen.batch_size)
        dataset = chosen.dataset or str(write_phantoms(f"{folder}/phantoms", PHANTOMS, image_size=IMAGE_SIZE))
        rows = ordered_rows(dataset, options)
        models = full_size_models()
        results = {name: compare(models[name], rows, options) for name in chosen.models}
    print(table(results, torch.cuda.get_device_name(), options))
    print(f"\nTests of half precision on this GPU: {check_half_precision()}")


if __name__ == "__main__":
    run_command(main, logging.WARNING)
