"""What the boxes of organs and lesions are called in questions and answers."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Box = Mapping[str, Any]  # `label`, and `bbox` = [x, y, width, height] in pixels of the image, origin top left
SIDE = re.compile(r"(?:left|right) (.+)")

# What SLAKE's rows call what its boxes name otherwise.
OTHER_NAMES = {
    "infiltrate": ("infiltration",),
    "tooth": ("teeth",),
    "brain enhancing tumor": ("brain tumor", "brain enhance tumor"),
    "brain non-enhancing tumor": ("brain tumor", "brain no-enhance tumor"),
}


def names_of(boxes: Iterable[Box]) -> dict[str, set[str]]:
    """The lower-case names in use and the labels that each stands for: "lung" for both lungs, "left lung" for one."""
    labels_of_name = defaultdict(set)
    for label in {box["label"].lower() for box in boxes}:
        names = [label, *OTHER_NAMES.get(label, ())]
        if side := SIDE.fullmatch(label):
            names.append(side[1])
        for name in names:
            labels_of_name[name].add(label)
    return labels_of_name


def named_labels(text: str, boxes: Iterable[Box]) -> set[str]:
    """The labels of boxes, in lower case, that a text names: "lung" names both lungs, "left lung" one of them."""
    names = names_of(boxes)
    if not names:
        return set()
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    found = re.findall(rf"\b({longest_first})s?\b", text.lower())
    return {label for name in found for label in names[name]}


def organ_of(label: str) -> str:
    """The label of a box without its side: "Lung" for "Left Lung"."""
    side = SIDE.fullmatch(label.lower())
    return label[-len(side[1]) :] if side else label
