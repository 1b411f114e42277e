"""Training and evaluation of image-text-to-text models: this project against three other ways, on the same rows.

    python -m benchmarks.vlm_training --dataset path/to/SLAKE --architecture smolvlm

The model has the proportions of those that people fine-tune: 32 million weights see, 85 million and a vocabulary of
32,000 answer, 256 tokens an image. Weights are random, and equal in all ways.

Plain is what trainers do: the image opened and encoded for each of its questions at every step, one question a
sequence, logits of the whole sequence. Conversation packs the questions of an image as turns, where a later one sees
the answers before, so its loss is another. Kept encodes each image once before training. Each runs in a process of its
own, so that its peak memory is its own.
"""

import argparse
import logging
import time
from dataclasses import dataclass, field
from itertools import chain, cycle

import torch
import transformers

from benchmarks.blip2_training import in_own_process, peak_memory
from benchmarks.options import at_least, rows_of_steps
from benchmarks.vlm_variants import GREEDY, QUESTIONS_PER_IMAGE, TOY, VARIANTS, untrained
from processing.errors import run_command
from tests.support.tiny_vlms import MAKERS

LEAST_SECONDS = 20  # of timed steps: a fast way goes through them several times


@dataclass
class Result:
    """What was measured of a way; times in seconds."""

    losses: list[float] = field(default_factory=list)
    training: float = 0.0  # of the timed steps
    trained: int = 0  # questions in these
    memory: float = 0.0  # bytes at the peak, above the process before the model
    evaluation: float = 0.0
    answers: list[list[int]] = field(default_factory=list)  # tokens


def measure(variant: str, architecture: str, rows: list[dict], batch_size: int, threads: int) -> Result:
    """Trains and evaluates in one of `VARIANTS` in this process. The first step warms up.

    The steps after it are timed, again and again for `LEAST_SECONDS`.
    """
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    before = peak_memory()
    side = VARIANTS[variant](*untrained(architecture, TOY, rows), rows)
    result = Result()
    optimizer = torch.optim.AdamW([p for p in side.model.parameters() if p.requires_grad], lr=2e-4)
    batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    side.model.train()
    for step, batch in enumerate(chain(batches, cycle(batches[1:]))):
        if step >= len(batches) and result.training >= LEAST_SECONDS:
            break
        start = time.perf_counter()
        loss = side.model(**side.batch(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step < len(batches):
            result.losses.append(loss.item())
        if step > 0:
            result.training += time.perf_counter() - start
            result.trained += len(batch)
    result.memory = peak_memory() - before
    side.model.eval()
    with torch.no_grad():
        side.generate(batches[0][:2])  # warms up
        start = time.perf_counter()
        for answer in side.generate(batches[0]):
            result.answers.append((answer + [0] * GREEDY.max_new_tokens)[: GREEDY.max_new_tokens])
        result.evaluation = time.perf_counter() - start
    return result


def print_table(architecture: str, results: dict[str, Result], asked: int, batch_size: int) -> None:
    """Prints what was measured of an architecture, a line a way."""
    plain = results["plain"]
    plain_speed = plain.trained / plain.training
    print(f"\n{architecture}: {asked} questions, {batch_size} a step, fp32, {torch.get_num_threads()} threads")
    print(f"{'':14}{'questions/s':>12}{'ratio':>8}{'peak GB':>10}{'ratio':>8}{'evaluated/s':>13}{'ratio':>8}  losses")
    for name, result in results.items():
        speed, answered = result.trained / result.training, batch_size / result.evaluation
        print(
            f"{name:14}{speed:>12.2f}{speed / plain_speed:>8.2f}{result.memory / 1e9:>10.2f}"
            f"{result.memory / plain.memory:>8.2f}{answered:>13.2f}{plain.evaluation / result.evaluation:>8.2f}  "
            + " ".join(f"{loss:.5f}" for loss in result.losses)
        )
    project = results["project"]
    difference = max(abs(a / b - 1) for a, b in zip(project.losses, plain.losses, strict=True))
    same = sum(a == b for a, b in zip(project.answers, plain.answers, strict=True))
    print(f"largest relative difference of a loss: {difference:.1e}; same answers: {same} of {len(plain.answers)}")


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: the data set has too few training rows.
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.vlm_training",
        description="Speed and memory of training image-text-to-text models against the plain recipe and two others.",
    )
    parser.add_argument("--dataset", default="phantom", help="as for train.py")
    parser.add_argument("--architecture", choices=[*MAKERS, "all"], default="smolvlm")
    parser.add_argument("--steps", type=at_least(2), default=3, help="optimizer steps; the first is not timed")
    parser.add_argument("--batch_size", type=at_least(1), default=22, help="questions a step")
    options = parser.parse_args(argv)
    train = rows_of_steps(options.dataset, options.steps, options.batch_size, QUESTIONS_PER_IMAGE)
    rows = train.select_columns(["row", "image", "question", "answer"]).to_list()
    for architecture in MAKERS if options.architecture == "all" else [options.architecture]:
        results = {name: in_own_process(measure, name, architecture, rows, options.batch_size) for name in VARIANTS}
        print_table(architecture, results, len(rows), options.batch_size)


if __name__ == "__main__":
    run_command(main, logging.WARNING)
