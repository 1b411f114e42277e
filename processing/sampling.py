"""The order in which rows come to training."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class ImageGroupedSampler(Sampler[int]):
    """Shuffles rows so that some questions of an image follow each other and share its forward pass.

    The questions of each image are shuffled and cut into groups of `questions_per_image`, the last one smaller; then
    the groups are shuffled. One seed and epoch give one order, on every process of a distributed run.

    Args:
        images: the image of each row.
        questions_per_image: largest number of questions in a group.
        seed: of all epochs; `set_epoch` chooses among their orders.
    """

    def __init__(self, images: Sequence[str], questions_per_image: int, seed: int) -> None:
        self.questions_per_image = questions_per_image
        self.seed = seed
        self.epoch = 0
        self.rows_of_image: dict[str, list[int]] = defaultdict(list)
        for row, image in enumerate(images):
            self.rows_of_image[image].append(row)
        self._length = len(images)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        groups: list[list[int]] = []
        for rows in self.rows_of_image.values():
            shuffled = [rows[i] for i in torch.randperm(len(rows), generator=generator)]
            size = self.questions_per_image
            groups += [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        for i in torch.randperm(len(groups), generator=generator):
            yield from groups[i]
