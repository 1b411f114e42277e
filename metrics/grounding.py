"""Does a model look at the right place? Its heat maps beside the boxes of what a question or its answer names.

The pointing game is that of Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop"
(https://arxiv.org/abs/1608.00507). Their tolerance of 15 pixels becomes the cell of the map: a cell that touches a box
is in it, for the finding may be smaller than any cell.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metrics.intervals import mean_with_interval
from processing.boxes import Box, names_of, organ_of


class Pointing(NamedTuple):
    """A heat map beside boxes. All are shares of 0 to 1."""

    hit: float  # 1 where the hottest cell touches a box; the share of those that do where several are as hot
    mass: float  # of the heat, inside the boxes
    area: float  # of the image, inside the boxes: the mass of even heat
    chance: float  # of the cells, touching a box: how often a cell drawn at random hits
    center: float  # the hit of a map that is hottest in the middle


def named_boxes(question: str, answer: str, boxes: Sequence[Box]) -> list[Box]:
    """The boxes of what a question or its answer names; "lung" names both lungs, "left lung" one of them."""
    names = names_of(boxes)
    if not names:
        return []
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    found = re.findall(rf"\b({longest_first})s?\b", f"{question}\n{answer}".lower())
    labels = {label for name in found for label in names[name]}
    return [box for box in boxes if box["label"].lower() in labels]


def point(heat: np.ndarray, boxes: Sequence[Box], size: tuple[int, int]) -> Pointing | None:
    """Lays a heat map beside boxes.

    Args:
        heat: ``(rows, columns)`` over the whole image, never negative, 1 in all.
        boxes: one or more; what lies outside the image is left out.
        size: width and height of the image in pixels.

    Returns:
        None where no box lies inside the image.
    """
    inside = np.zeros(size[::-1], dtype=np.float32)
    for box in boxes:
        x, y, width, height = box["bbox"]
        left, top, right, bottom = (max(0, round(edge)) for edge in (x, y, x + width, y + height))
        inside[top:bottom, left:right] = 1
    if not inside.any():
        return None
    down, across = (_shares(*sides) for sides in zip(heat.shape, inside.shape, strict=True))
    cover = down @ inside @ across.T  # share of each cell
    touched = cover > 1e-6  # more than rounding
    rows, columns = (slice((side - 1) // 2, side // 2 + 1) for side in heat.shape)
    return Pointing(
        hit=float(touched[heat == heat.max()].mean()),
        mass=float((heat * cover).sum()),
        area=float(inside.mean()),
        chance=float(touched.mean()),
        center=float(touched[rows, columns].mean()),
    )


def _shares(cells: int, pixels: int) -> np.ndarray:
    """The share of each cell's length that each pixel is, ``(cells, pixels)``."""
    edges = np.linspace(0, pixels, cells + 1)[:, None]
    places = np.arange(pixels)
    overlap = np.minimum(edges[1:], places + 1) - np.maximum(edges[:-1], places)
    return overlap.clip(min=0) * cells / pixels


def grounding_figures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures of all heat maps, of right and wrong answers, and by organ, in percent.

    Args:
        rows: one or more, with `image_id`, `correct`, `boxes` (what the map should show) and `pointing`.

    Returns:
        For each group `group`, `questions`, `images`; `[value, low, high]` of `hit` and `mass` by
        `metrics.intervals.mean_with_interval`; and the means of `area`, `chance` and `center`.
    """
    organs: dict[str, list] = {}
    for row in rows:
        for organ in {organ_of(box["label"]) for box in row["boxes"]}:
            organs.setdefault(organ, []).append(row)
    groups = {
        "all": rows,
        "right answers": [row for row in rows if row["correct"]],
        "wrong answers": [row for row in rows if not row["correct"]],
        **dict(sorted(organs.items(), key=lambda organ: (-len(organ[1]), organ[0]))),
    }
    table = []
    for group, members in ((group, members) for group, members in groups.items() if members):
        images = [row["image_id"] for row in members]
        entry: dict[str, Any] = {"group": group, "questions": len(members), "images": len(set(images))}
        for name in Pointing._fields:
            values = np.array([100 * getattr(row["pointing"], name) for row in members])
            told = mean_with_interval(values, images)
            entry[name] = told if name in ("hit", "mass") else told[0]
        table.append(entry)
    return table
