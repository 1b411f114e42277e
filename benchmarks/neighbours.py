"""What thresholds of `processing.neighbours` find, against the patients of a data set where it names them.

    python -m benchmarks.neighbours --datasets phantom:240x4 path/to/SLAKE path/to/VQA-RAD

A data set without patients gives counts only. The figures and what follows from them: docs/neighbours.md.
"""

import argparse
import logging
from collections.abc import Sequence
from typing import NamedTuple

import datasets
import numpy as np

from processing.data import load_vqa_dataset
from processing.errors import run_command
from processing.images import open_image
from processing.neighbours import thumbnail

THRESHOLDS = (0.90, 0.95, 0.98)


class Images(NamedTuple):
    """The images of a data set, in the order of their names' first rows.

    Attributes:
        correlations: of the thumbnails of each two images, ``(N, N)``.
        trained: whether an image is in the split `train`, ``(N,)``.
        groups: the patient of each, or None.
    """

    correlations: np.ndarray
    trained: np.ndarray
    groups: np.ndarray


class Found(NamedTuple):
    """What a threshold finds.

    Attributes:
        leaks: images outside training with a near neighbour in training, and all images outside training.
        pairs: near neighbours, each pair once.
        recall: the share that is found of a patient's slices beside each other, None without patients.
        recall_of_all: the share that is found of any two slices of a patient, None without patients.
        precision: the share of the pairs that is of one patient, None without patients or pairs.
    """

    leaks: tuple[int, int]
    pairs: int
    recall: float | None
    recall_of_all: float | None
    precision: float | None


def read_images(dataset: datasets.DatasetDict) -> Images:
    """The thumbnails of a data set, compared with each other."""
    rows = {row["image"]: (split, row) for split, part in dataset.items() for row in part}
    grey = [np.frombuffer(thumbnail(open_image(image)), np.uint8) for image in rows]
    return Images(
        np.corrcoef(np.stack(grey).astype(np.float32)),
        np.array([split == "train" for split, _ in rows.values()]),
        np.array([row["group"] for _, row in rows.values()], dtype=object),
    )


def count_found(images: Images, threshold: float) -> Found:
    """What a threshold finds among the images of a data set."""
    near = images.correlations > threshold
    leaks = near[~images.trained][:, images.trained].any(axis=1)
    ones, others = np.nonzero(np.triu(near, 1))
    found = (int(leaks.sum()), len(leaks)), len(ones)
    same = np.triu(images.groups[:, None] == images.groups, 1)
    if None in images.groups or not same.any():
        return Found(*found, None, None, None)
    beside = np.diagonal(same, 1)  # slices of a patient follow each other in the data
    precision = same[ones, others].mean() if len(ones) else None
    return Found(*found, np.diagonal(near, 1)[beside].mean(), near[same].mean(), precision)


def as_row(cells: Sequence[object]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def percent(share: float | None) -> str:
    """A share as a percentage, or a dash for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: a data set can't be used.
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.neighbours", description="What thresholds of near neighbours find."
    )
    parser.add_argument("--datasets", nargs="+", default=["phantom:240x4"], metavar="DATASET", help="as for train.py")
    options = parser.parse_args(argv)
    columns = ["data set", "correlation above", "outside training with a neighbour in training", "pairs"]
    columns += ["recall, beside", "recall, all", "precision"]
    print(as_row(columns), as_row(["---"] * len(columns)), sep="\n")
    for name in options.datasets:
        images = read_images(load_vqa_dataset(name))
        for threshold in THRESHOLDS:
            leaks, pairs, *shares = count_found(images, threshold)
            cells = [name, f"{threshold:.2f}", f"{leaks[0]} of {leaks[1]}", f"{pairs:,}"]
            print(as_row([*cells, *map(percent, shares)]), flush=True)


if __name__ == "__main__":
    run_command(main, logging.WARNING)
