"""Variants of one training of ViLT, timed against each other on the same batches."""

import time
from collections.abc import Iterable

import torch
from transformers import ViltProcessor

from processing.images import open_image

Batch = dict[str, torch.Tensor]


class Comparison:
    """Prints a line for each variant: its speed, and how far its losses are from those of the first variant.

    Args:
        batch_size: questions a step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._first: tuple[float, list[float]] | None = None  # seconds a step, losses
        print(f"{'':34}  questions/s   ratio  largest loss difference  loss of the first and last step")

    def measure(
        self, name: str, model: torch.nn.Module, batches: Iterable[Batch], *, fused: bool = True, bf16: bool = False
    ) -> None:
        """Trains a model, a step for each batch.

        Args:
            name: of the variant.
            batches: two or more. The time to make them counts, and the first step does not.
            fused: whether the optimizer updates all weights in one kernel.
            bf16: bf16 autocast instead of fp32.
        """
        losses, seconds = train(model.train(), batches, fused, bf16)
        median = sorted(seconds[1:])[(len(seconds) - 1) // 2]
        if self._first is None:
            self._first = median, losses
        first_median, first_losses = self._first
        difference = max(abs(a / b - 1) for a, b in zip(losses, first_losses, strict=True))
        print(
            f"{name:34}  {self.batch_size / median:11.2f}  {first_median / median:6.2f}  {difference:12.1e}"
            f"  {losses[0]:8.3f} ... {losses[-1]:.3f}",
            flush=True,
        )


def train(
    model: torch.nn.Module, batches: Iterable[Batch], fused: bool, bf16: bool
) -> tuple[list[float], list[float]]:
    """Takes a step of AdamW on each batch.

    Returns:
        The loss of each step, and its seconds. The time to make its batch is part of them.
    """
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


def plain_batch(processor: ViltProcessor, label_of: dict[str, int], num_labels: int, rows: list[dict]) -> Batch:
    """A batch as public notebooks make it: every image is decoded, and questions are padded to 40 tokens."""
    inputs = processor(
        [open_image(row["image"]) for row in rows],
        [row["question"] for row in rows],
        padding="max_length",
        truncation=True,
        max_length=40,
        return_tensors="pt",
    )
    labels = torch.zeros(len(rows), num_labels)
    labels[torch.arange(len(rows)), [label_of[row["answer"]] for row in rows]] = 1.0
    return {**inputs, "labels": labels}
