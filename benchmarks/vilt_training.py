"""Training ViLT-B/32: this project against the stock class trained plainly, on the same rows in the same order.

    python -m benchmarks.vilt_training --dataset path/to/SLAKE

Plain is what public notebooks do: `transformers.ViltForQuestionAnswering` in fp32, every image decoded and resized for
each of its questions, questions padded to 40 tokens, AdamW as it comes. Weights are random and equal on both sides, so
that no download is needed and the losses of each step can be compared.
"""

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import transformers
from transformers import ViltConfig, ViltProcessor
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from modeling.parts.vocabulary import build_vocabulary, labels_of
from modeling.training.arguments import cpu_has_bf16
from modeling.vilt.network import ViltForQuestionAnswering
from modeling.vilt.scratch import build_tokenizer
from processing.collators import ViltCollator
from processing.data import load_vqa_dataset
from processing.errors import run_command
from processing.images import open_image

Batch = dict[str, torch.Tensor]


def run(model: torch.nn.Module, batches: Iterator[Batch], fused: bool, bf16: bool) -> tuple[list[float], list[float]]:
    """Trains on the batches; returns the loss and the seconds of each step, its batch's making included."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)
    losses, seconds = [], []
    start = time.perf_counter()
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return losses, seconds


class Comparison:
    """Variants of one training, each a printed line against the first of them.

    Args:
        batch_size: questions a step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.first: tuple[float, list[float]] | None = None  # seconds a step, losses
        print(f"{'':34}  questions/s   ratio  largest loss difference  loss of the first and last step")

    def measure(self, name: str, model: torch.nn.Module, batches: Iterator[Batch], fused: bool, bf16: bool) -> None:
        """Trains a model on batches that are made while it trains."""
        losses, seconds = run(model.train(), batches, fused, bf16)
        pace = sorted(seconds[1:])[(len(seconds) - 1) // 2]
        self.first = self.first or (pace, losses)
        deviation = max(abs(a / b - 1) for a, b in zip(losses, self.first[1], strict=True))
        print(
            f"{name:34}  {self.batch_size / pace:11.2f}  {self.first[0] / pace:6.2f}  {deviation:12.1e}"
            f"  {losses[0]:8.3f} ... {losses[-1]:.3f}",
            flush=True,
        )


def plain_batch(processor: ViltProcessor, label_of: dict[str, int], num_labels: int, rows: list[dict]) -> Batch:
    """A batch as public notebooks make it."""
    inputs = processor(
        [open_image(row["image"]) for row in rows],
        [row["question"] for row in rows],
        **{"padding": "max_length", "truncation": True, "max_length": 40, "return_tensors": "pt"},
    )
    labels = torch.zeros(len(rows), num_labels)
    labels[torch.arange(len(rows)), [label_of[row["answer"]] for row in rows]] = 1.0
    return {**inputs, "labels": labels}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Speed of ViLT training against the plain recipe.")
    parser.add_argument("--dataset", default="phantom", help="as train.py's")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of each variant; the first is not timed")
    parser.add_argument("--batch_size", type=int, default=8, help="questions a step")
    options = parser.parse_args(argv)

    rows = load_vqa_dataset(options.dataset)["train"]
    answers = build_vocabulary(rows["answer"])
    label_of = labels_of(rows["answer"], {answer: i for i, answer in enumerate(answers)})
    processor = ViltProcessor(ViltImageProcessorPil(), build_tokenizer(rows["question"]))
    config = ViltConfig(vocab_size=len(processor.tokenizer), num_labels=len(answers), pad_token_id=0)
    generator = torch.Generator().manual_seed(0)
    # a few images with all their questions, as an epoch meets each image eleven times
    pool = torch.randperm(min(len(rows), options.steps * options.batch_size), generator=generator)
    order = [int(pool[i % len(pool)]) for i in range(options.steps * options.batch_size)]
    batches = [[rows[i] for i in order[s : s + options.batch_size]] for s in range(0, len(order), options.batch_size)]
    collator = ViltCollator(processor, label_of, len(answers), 40)

    torch.manual_seed(0)
    weights = transformers.ViltForQuestionAnswering(config).state_dict()

    comparison = Comparison(options.batch_size)

    def measure(name: str, cls: type, make: Callable[[list[dict]], Batch], fused: bool, bf16: bool) -> None:
        model = cls(config)
        model.load_state_dict(weights)
        comparison.measure(name, model, (make(batch) for batch in batches), fused, bf16)

    stock = transformers.ViltForQuestionAnswering
    plain = partial(plain_batch, processor, label_of, len(answers))
    measure("plain: stock class, fp32", stock, plain, False, False)
    measure("this project, fp32", ViltForQuestionAnswering, collator, True, False)
    if cpu_has_bf16():
        measure("this project, bf16 autocast", ViltForQuestionAnswering, collator, True, True)


if __name__ == "__main__":
    run_command(main, logging.WARNING)
