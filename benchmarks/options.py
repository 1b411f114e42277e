"""What the command lines of the benchmarks share."""

import argparse
from collections.abc import Callable

import datasets

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.row_values import numbers_of
from processing.sampling import ImageGroupedSampler


def at_least(least: int) -> Callable[[str], int]:
    """A type for argparse: a whole number of at least `least`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number.") from error
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is too small; give {least} or more.")
        return number

    return parse


def load_splits(dataset: str, *splits: str) -> datasets.DatasetDict:
    """The splits of a data set that a benchmark needs.

    Args:
        dataset: as for `processing.data.load_vqa_dataset`.
        splits: names of the splits.

    Raises:
        UserError: the data set can't be used, or lacks a split.
    """
    loaded = load_vqa_dataset(dataset)
    for split in splits:
        if split not in loaded:
            raise UserError(f"--dataset {dataset}: it has no {split} rows; choose a data set that has some.")
    return datasets.DatasetDict({split: loaded[split] for split in splits})


def rows_of_steps(dataset: str, steps: int, batch_size: int, questions_per_image: int) -> datasets.Dataset:
    """The training rows of that many steps, questions of an image together as a run orders them with seed 0.

    Raises:
        UserError: the data set can't be used, or has too few rows.
    """
    rows = load_splits(dataset, "train")["train"]
    wanted = steps * batch_size
    order = list(ImageGroupedSampler(numbers_of(rows, "image"), questions_per_image, seed=0))[:wanted]
    if len(order) < wanted:
        raise UserError(
            f"--steps {steps}: it takes {wanted} training rows and {dataset} has {len(order)}; give fewer steps or a "
            "smaller --batch_size."
        )
    return rows.select(order)
