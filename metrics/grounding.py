"""Grounding: whether heat maps are hot inside the boxes of what a question or its gold answer names.

The pointing game is that of Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop"
(https://arxiv.org/abs/1608.00507). Their tolerance is 15 pixels. Here it is a cell of the map: a cell that touches a
box counts as inside, because a finding may be smaller than a cell.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metrics.intervals import mean_with_interval
from processing.boxes import Box, names_of, organ_of


class Pointing(NamedTuple):
    """A heat map against boxes, in shares of 0 to 1."""

    hit: float  # 1 where the hottest cell touches a box; of several equally hot cells the share that does
    mass: float  # share of the heat inside the boxes
    area: float  # share of the image inside the boxes, which is the mass of even heat
    chance: float  # share of the cells that touch a box, which is the hit of a cell drawn at random
    center: float  # the hit of a map that is hottest in the middle


def named_boxes(question: str, answer: str, boxes: Sequence[Box]) -> list[Box]:
    """The boxes of what a question or its answer names: "lung" names both lungs, "left lung" one of them."""
    names = names_of(boxes)
    if not names:
        return []
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    found = re.findall(rf"\b({longest_first})s?\b", f"{question}\n{answer}".lower())
    labels = {label for name in found for label in names[name]}
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
    inside = np.zeros(size[::-1], dtype=np.float32)
    for box in boxes:
        x, y, width, height = box["bbox"]
        left, top, right, bottom = (max(0, round(edge)) for edge in (x, y, x + width, y + height))
        inside[top:bottom, left:right] = 1
    if not inside.any():
        return None
    rows, columns = heat.shape
    height_shares, width_shares = _pixel_shares(rows, inside.shape[0]), _pixel_shares(columns, inside.shape[1])
    cover = height_shares @ inside @ width_shares.T  # share of each cell that lies inside the boxes
    touched = cover > 1e-6  # more than rounding errors
    middle = slice((rows - 1) // 2, rows // 2 + 1), slice((columns - 1) // 2, columns // 2 + 1)
    return Pointing(
        hit=float(touched[heat == heat.max()].mean()),
        mass=float((heat * cover).sum()),
        area=float(inside.mean()),
        chance=float(touched.mean()),
        center=float(touched[middle].mean()),
    )


def _pixel_shares(cells: int, pixels: int) -> np.ndarray:
    """The share of the length of each cell that each pixel takes, ``(cells, pixels)``."""
    edges = np.linspace(0, pixels, cells + 1)[:, None]
    places = np.arange(pixels)
    overlap = np.minimum(edges[1:], places + 1) - np.maximum(edges[:-1], places)
    return overlap.clip(min=0) * cells / pixels


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
