"""BLIP-2 training and evaluation: this project against the plain recipe, on the same rows in the same order.

    python -m benchmarks.blip2_training --dataset path/to/SLAKE

The model has the proportions of blip2-opt-2.7b, scaled to a laptop: per question the vision encoder, the Q-Former and
the language model cost 0.51, 0.04 and 0.55 TFLOP there (forward, and backward but for the frozen encoder), and the
vocabulary is a twentieth of the language model. Weights are random and equal on both sides.

Plain is what public notebooks do: the image encoded for each of its questions at every step, one question a sequence,
padded to the longest of the data set. Each variant runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import logging
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import Blip2Config

from benchmarks.blip2_variants import CONFIG, GREEDY, PROMPT, VARIANTS, Project, add_lora, make_processor
from benchmarks.options import at_least, rows_of_steps
from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.training.precision import cpu_has_bf16
from processing.collators import Blip2Collator
from processing.errors import UserError, run_command

QUESTIONS_PER_IMAGE = 16


class Run(NamedTuple):
    """What both variants are measured on."""

    rows: list[dict]  # of all steps, in their order
    steps: int
    batch_size: int
    bf16: bool


@dataclass
class Result:
    """What was measured of a variant; times in seconds."""

    losses: list[float] = field(default_factory=list)
    total: float = 0.0  # of the timed steps
    outside: float = 0.0  # of them, spent outside forward and backward
    flops: float = 0.0  # of the first step, forward and backward
    peak_memory: float = 0.0  # bytes above the process before the model
    evaluation: float = 0.0
    answers: list[list[int]] = field(default_factory=list)  # tokens
    features: float = 0.0  # once for all images, before training


def measure(variant: str, run: Run, threads: int) -> Result:
    """Trains and evaluates one of `VARIANTS` in this process."""
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    result = Result()
    processor = make_processor(run.rows)
    before = peak_memory()
    torch.manual_seed(0)
    model = add_lora(_untrained_model(VARIANTS[variant].model_class)).train()
    start = time.perf_counter()
    collator = Blip2Collator(processor, PROMPT, QUESTIONS_PER_IMAGE, decoder_only=True)
    side = VARIANTS[variant](collator, model, run.rows)
    result.features = time.perf_counter() - start
    batches = [run.rows[at : at + run.batch_size] for at in range(0, run.steps * run.batch_size, run.batch_size)]
    _train(side, batches, run.bf16, result)
    result.peak_memory = peak_memory() - before

    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=run.bf16):
        side.generate(batches[0])  # warms up
        start = time.perf_counter()
        for rows in batches:
            answers = side.generate(rows)
            result.answers += [answer + [0] * (GREEDY.max_new_tokens - len(answer)) for answer in answers]
        result.evaluation = time.perf_counter() - start
    return result


def peak_memory() -> int:
    """Of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _untrained_model(model_class: type) -> Any:
    model = model_class(Blip2Config(**CONFIG))
    torch.nn.init.normal_(model.query_tokens)
    for part in (model.vision_model, model.qformer, model.language_projection):
        for weight in (p for p in part.parameters() if p.ndim == 2):
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)  # so that answers depend on the image
    return model


def _train(side: Any, batches: list[list[dict]], bf16: bool, result: Result) -> None:
    """A step on each batch. The first step warms up: its FLOPs are counted and its time is not."""
    optimizer = torch.optim.AdamW([p for p in side.model.parameters() if p.requires_grad], lr=2e-3)

    def forward_and_backward(batch: dict[str, torch.Tensor]) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = side.model(**batch).loss
            loss.backward()
        return loss.item()

    for step, rows in enumerate(batches):
        start = time.perf_counter()
        batch = side.batch(rows)
        ready = time.perf_counter()
        if step == 0:
            with FlopCounterMode(display=False) as counter:
                result.losses.append(forward_and_backward(batch))
            result.flops = counter.get_total_flops()
        else:
            result.losses.append(forward_and_backward(batch))
        computed = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        end = time.perf_counter()
        if step > 0:
            result.total += end - start
            result.outside += end - computed + ready - start


def minimum_flops(rows: list[dict], threads: int) -> float:
    """FLOPs of a step without any padding: kept features, each image alone with its questions in one sequence."""
    torch.set_num_threads(threads)
    model = add_lora(Blip2ForQuestionAnswering(Blip2Config(**CONFIG)))
    side = Project(Blip2Collator(make_processor(rows), PROMPT, len(rows), decoder_only=True), model, rows)
    total = 0
    for image in dict.fromkeys(row["image"] for row in rows):
        with FlopCounterMode(display=False) as counter:
            side.model(**side.batch([row for row in rows if row["image"] == image])).loss.backward()
        total += counter.get_total_flops()
    return total


def in_own_process(function: Callable, *arguments: Any) -> Any:
    """The result of a function that gets the number of threads of this process as its last argument."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments, torch.get_num_threads()).result()


def print_table(plain: Result, project: Result, minimum: float, run: Run) -> None:
    """Prints both results side by side.

    Args:
        minimum: of `minimum_flops`.
    """
    images = len({row["image"] for row in run.rows})
    asked = len(run.rows)
    timed = asked - run.batch_size
    gigaflops = 1e9 * run.batch_size
    precision = "bf16 autocast" if run.bf16 else "fp32"
    print(f"{asked} questions over {images} images, {run.batch_size} a step, {precision}")
    print(f"{'':38}{'plain':>10}{'project':>10}{'ratio':>8}")

    def line(name: str, a: float, b: float, digits: int, ratio: float | None = None) -> None:
        last = "" if ratio is None else f"{ratio:>8.2f}"
        print(f"{name:38}{a:>10.{digits}f}{b:>10.{digits}f}{last}")

    speedup = plain.total / project.total
    line("training, questions a second", timed / plain.total, timed / project.total, 2, speedup)
    memory = project.peak_memory / plain.peak_memory
    line("peak memory, GB", plain.peak_memory / 1e9, project.peak_memory / 1e9, 2, memory)
    outside = (100 * plain.outside / plain.total, 100 * project.outside / project.total)
    line("outside forward and backward, %", outside[0], outside[1], 1)
    line("GFLOP a question", plain.flops / gigaflops, project.flops / gigaflops, 1, plain.flops / project.flops)
    line("over the minimum", plain.flops / minimum, project.flops / minimum, 2)
    speedup = plain.evaluation / project.evaluation
    line("evaluation, questions a second", asked / plain.evaluation, asked / project.evaluation, 2, speedup)

    difference = max(abs(a / b - 1) for a, b in zip(project.losses, plain.losses, strict=True))
    same = sum(a == b for a, b in zip(project.answers, plain.answers, strict=True))
    print(f"largest relative difference of a loss: {difference:.1e}; same answers: {same} of {asked}")
    print(f"features computed once, in {project.features / images:.2f} s an image")
    for step, (a, b) in enumerate(zip(plain.losses, project.losses, strict=True), 1):
        print(f"loss of step {step}: {a:.6f} {b:.6f}")


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: the data set has too few training rows, or bf16 is asked for and this CPU has none.
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.blip2_training",
        description="Speed and memory of BLIP-2 training against the plain recipe.",
    )
    parser.add_argument("--dataset", default="phantom", help="as for train.py")
    parser.add_argument("--steps", type=at_least(2), default=5, help="optimizer steps; the first is not timed")
    parser.add_argument("--batch_size", type=at_least(1), default=64, help="questions a step")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast instead of fp32")
    options = parser.parse_args(argv)
    if options.bf16 and not cpu_has_bf16():
        raise UserError("--bf16: this CPU has no bf16 matrix units; leave it out.")

    train = rows_of_steps(options.dataset, options.steps, options.batch_size, QUESTIONS_PER_IMAGE)
    rows = train.select_columns(["row", "image", "question", "answer"]).to_list()
    run = Run(rows, options.steps, options.batch_size, options.bf16)
    plain, project = (in_own_process(measure, name, run) for name in ("plain", "project"))
    minimum = in_own_process(minimum_flops, rows[: options.batch_size])
    print_table(plain, project, minimum, run)


if __name__ == "__main__":
    run_command(main, logging.WARNING)
