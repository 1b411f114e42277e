"""Images that stand in two splits, as they are or nearly so."""

from typing import Any, NamedTuple

import numpy as np

from metrics.audit.table import Table
from processing.neighbours import THRESHOLD, near_pairs
from processing.splits import ORDER, OVERLAPS


class Overlap(NamedTuple):
    """What the images of two splits have in common; numbers are places in the images of a table.

    Attributes:
        earlier, later: the splits, as places in `ORDER`.
        same: the images that both have.
        near: the images of the later split, beside those, that have a near neighbour in the earlier one.
        match: of each of `near` the image of the earlier split that correlates best with it.
        correlation: of each of `near` with its match; the best come first.
    """

    earlier: int
    later: int
    same: np.ndarray
    near: np.ndarray
    match: np.ndarray
    correlation: np.ndarray


def find_overlaps(table: Table) -> list[Overlap]:
    """The overlap of each two splits of a table."""
    images = {code: np.unique(table.image[table.of_split(code)]) for code in table.splits()}
    return [_overlap(table, a, b, images) for a in images for b in images if a < b]


def _overlap(table: Table, earlier: int, later: int, images: dict[int, np.ndarray]) -> Overlap:
    same = np.intersect1d(images[earlier], images[later])
    others = np.setdiff1d(images[later], same)
    thumbnails = [[table.images[i].thumbnail for i in numbers] for numbers in (others, images[earlier])]
    best, correlation = near_pairs(*thumbnails)
    order = np.argsort(-correlation, kind="stable")
    order = order[correlation[order] > THRESHOLD]
    return Overlap(earlier, later, same, others[order], images[earlier][best[order]], correlation[order])


def seen_in_training(table: Table, split: int) -> dict[str, dict[str, int]]:
    """How many rows and images of a split are of each kind of `processing.splits.OVERLAPS`."""
    numbers = table.of_split(split)
    counts = {}
    for kind, name in reversed(list(enumerate(OVERLAPS))):
        found = numbers[table.overlap[numbers] == kind]
        counts[name] = {"rows": len(found), "images": len(np.unique(table.image[found]))}
    return counts


def describe_overlap(table: Table, overlap: Overlap) -> dict[str, Any]:
    """The counts of an overlap, and all pairs of images that it is made of."""
    in_splits = {ORDER[code]: table.split == code for code in (overlap.earlier, overlap.later)}

    def rows(images: np.ndarray) -> dict[str, int]:
        found = np.isin(table.image, images)
        return {name: int((found & chosen).sum()) for name, chosen in in_splits.items()}

    groups = np.intersect1d(*(table.group[table.of_split(code)] for code in (overlap.earlier, overlap.later)))
    pairs = [{"kind": "same", "images": [table.images[i].name] * 2, "correlation": 1.0} for i in overlap.same]
    found = zip(overlap.near, overlap.match, overlap.correlation, strict=True)
    pairs += [
        {"kind": "near", "images": [table.images[j].name, table.images[i].name], "correlation": round(float(r), 4)}
        for i, j, r in found
    ]
    return {
        "splits": list(in_splits),
        "images": {ORDER[code]: len(np.unique(table.image[table.of_split(code)])) for code in overlap[:2]},
        "same": {"images": len(overlap.same), "rows": rows(overlap.same)},
        "near": {"images": len(overlap.near), "rows": rows(overlap.near)[ORDER[overlap.later]]},
        "groups": int((groups >= 0).sum()),
        "pairs": pairs,
    }
