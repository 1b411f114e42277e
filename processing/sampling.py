"""The order in which rows come to training."""

from array import array
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler


class ImageGroupedSampler(Sampler[int]):
    """Shuffles rows so that some questions of an image follow each other and share its forward pass.

    The questions of each image are shuffled and cut into groups of `questions_per_image`, the last one smaller; then
    the groups are shuffled. One seed and epoch give one order, on every process of a distributed run.

    Args:
        images: a number for the image of each row, ``(N,)``.
        questions_per_image: largest number of questions in a group.
        seed: of all epochs; `set_epoch` chooses among their orders.
    """

    def __init__(self, images: np.ndarray, questions_per_image: int, seed: int) -> None:
        self.questions_per_image = questions_per_image
        self.seed = seed
        self.epoch = 0
        self._rows = np.argsort(images, kind="stable")  # image after image
        _, self._counts = np.unique(images, return_counts=True)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order, bounds, start = np.empty_like(self._rows), array("q"), 0
        for count in self._counts.tolist():
            end = start + count
            order[start:end] = self._rows[start:end][torch.randperm(count, generator=generator).numpy()]
            bounds.extend(range(start, end, self.questions_per_image))
            start = end
        bounds.append(start)
        for group in torch.randperm(len(bounds) - 1, generator=generator):
            yield from order[bounds[group] : bounds[group + 1]].tolist()
