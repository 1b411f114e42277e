"""Grounding: whether heat maps are hot inside the boxes of what a question or its gold answer names.

The pointing game is that of Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop"
(https://arxiv.org/abs/1608.00507). Their tolerance is 15 pixels. Here it is a cell of the map: a cell that touches a
box counts as inside, because a finding may be smaller than a cell.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metrics.intervals import mean_with_interval
from processing.boxes import Box, named_labels, organ_of


class Pointing(NamedTuple):
    """A heat map against boxes, in shares of 0 to 1."""

    hit: float  # 1 where the hottest cell touches a box; of several equally hot cells the share that does
    mass: float  # share of the heat inside the boxes
    area: float  # share of the image inside the boxes, which is the mass of even heat
    chance: float  # share of the cells that touch a box, which is the hit of a cell drawn at random
    center: float  # the hit of a map that is hottest in the middle


def named_boxes(question: str, answer: str, boxes: Sequence[Box]) -> list[Box]:
    """The boxes of what a question or its answer names, as `named_labels` reads them."""
    labels = named_labels(f"{question}\n{answer}", boxes)
    return [box for box in boxes if box["label"].lower() in labels]


def point(heat: np.ndarray, boxes: Sequence[Box], size: tuple[int, int]) -> Pointing | None:
    """Compares a heat map with boxes.

    Args:
        heat: ``(rows, columns)`` over the whole image, never negative, with a sum of 1.
        boxes: one or more. Parts outside the image are ignored.
        size: width and height of the image in pixels.

    Returns:
        None where no box lies inside the image.
    """
    cover = cells_inside(boxes, size, heat.shape)
    if cover is None:
        return None
    touched = cover > 1e-6  # more than rounding errors
    rows, columns = heat.shape
    middle = slice((rows - 1) // 2, rows // 2 + 1), slice((columns - 1) // 2, columns // 2 + 1)
    return Pointing(
        hit=float(touched[heat == heat.max()].mean()),
        mass=float((heat * cover).sum()),
        area=float(cover.mean()),
        chance=float(touched.mean()),
        center=float(touched[middle].mean()),
    )


def cells_inside(boxes: Sequence[Box], size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray | None:
    """The share of each cell of a grid over the image that lies inside boxes.

    Args:
        boxes: parts outside the image are ignored.
        size: width and height of the image in pixels.
        shape: rows and columns of cells.

    Returns:
        Shares ``(rows, columns)``, or None where no box lies inside the image.
    """
    width, height = size
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h in (box["bbox"] for box in boxes)], dtype=np.float64)
    corners = corners.reshape(-1, 2, 2).round().clip(0, size)  # (boxes, first and last corner, x and y)
    corners = corners[(corners[:, 0] < corners[:, 1]).all(axis=1)]
    if len(corners) == 0:
        return None
    columns, rows = np.unique(corners[..., 0]), np.unique(corners[..., 1])  # edges of parts that a box fills or not
    filled = np.zeros((len(rows) - 1, len(columns) - 1))
    for first, last in corners:
        top, bottom = np.searchsorted(rows, (first[1], last[1]))
        left, right = np.searchsorted(columns, (first[0], last[0]))
        filled[top:bottom, left:right] = 1
    return _shares(shape[0], rows, height) @ filled @ _shares(shape[1], columns, width).T


def _shares(cells: int, edges: np.ndarray, length: int) -> np.ndarray:
    """The share of each cell of a side of that length that each part between edges takes, ``(cells, parts)``."""
    cell_edges = np.linspace(0, length, cells + 1)[:, None]
    overlap = np.minimum(cell_edges[1:], edges[1:]) - np.maximum(cell_edges[:-1], edges[:-1])
    return overlap.clip(min=0) * cells / length


def grounding_figures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures of all heat maps, of those of right and of wrong answers, and of those of each organ, in percent.

    Args:
        rows: one or more, with `image_id`, `correct`, `boxes` (what the map should be hot in) and `pointing`.

    Returns:
        An entry for each group that has rows: its name `group`, the counts `questions` and `images`, `[mean, low,
        high]` of `hit` and `mass` by `metrics.intervals.mean_with_interval`, and the means of `area`, `chance` and
        `center`.
    """
    organs: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for organ in {organ_of(box["label"]) for box in row["boxes"]}:
            organs.setdefault(organ, []).append(row)
    groups = {
        "all": rows,
        "right answers": [row for row in rows if row["correct"]],
        "wrong answers": [row for row in rows if not row["correct"]],
    }
    groups |= sorted(organs.items(), key=lambda organ: (-len(organ[1]), organ[0]))
    table = []
    for group, members in groups.items():
        if not members:
            continue
        images = [row["image_id"] for row in members]
        entry: dict[str, Any] = {"group": group, "questions": len(members), "images": len(set(images))}
        for name in Pointing._fields:
            values = np.array([100 * getattr(row["pointing"], name) for row in members])
            figure = mean_with_interval(values, images)
            entry[name] = figure if name in ("hit", "mass") else figure[0]
        table.append(entry)
    return table
