"""What the boxes of a phantom data set say about its answers."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

DISEASES = {"Nodule", "Effusion", "Pneumonia", "Atelectasis", "Cardiomegaly"}
DISEASES |= {"Liver Cancer", "Brain Tumor", "Brain Edema"}

Boxes = dict[int, list[tuple[str, list[float]]]]


def read_boxes(folder: Path) -> Boxes:
    """The boxes of each image by its number, as label and [x, y, width, height]."""
    return {
        int(path.parent.name.removeprefix("xmlab")): [
            item for box in json.loads(path.read_text()) for item in box.items()
        ]
        for path in folder.glob("imgs/*/detection.json")
    }


def has(labels: set[str], organ: str) -> bool:
    return bool(labels & {organ, f"Left {organ}", f"Right {organ}"})


def check_answers(rows: Iterable[Mapping], boxes: Boxes) -> Counter:
    """Asserts that answers agree with the boxes of images of 224 px, and counts what is asked in each."""
    checked = Counter()
    for row in rows:
        question, answer, items = row["question"], row["answer"], boxes[row["img_id"]]
        labels = [label for label, _ in items]
        found = [label for label in labels if label in DISEASES]
        for start, expected in {
            "What diseases are included": ", ".join(sorted(set(found))) or "None",
            "How many kinds of abnormalities": str(len(set(found))),
            "How many nodules": str(labels.count("Nodule")),
            "Are there abnormalities": "Yes" if found else "No",
            "Is this image normal": "No" if found else "Yes",
            "How many kidneys": str(has(set(labels), "Left Kidney") + has(set(labels), "Right Kidney")),
            "How many lungs": str(has(set(labels), "Left Lung") + has(set(labels), "Right Lung")),
            "What is the rightmost organ": max(
                (item for item in items if item[0] not in DISEASES), key=lambda item: item[1][0] + item[1][2]
            )[0],
        }.items():
            if question.startswith(start):
                assert answer == expected, row
                checked[start] += 1
        if question.startswith("Does the picture contain "):
            organ = question.removeprefix("Does the picture contain ").removesuffix("?").title()
            assert answer == ("Yes" if has(set(labels), organ) else "No"), row
            checked["contain", answer] += 1
        if question.startswith(("Which side of lung", "Which hemisphere")):
            middles = {x + width / 2 > 112 for label, (x, _, width, _) in items if label in DISEASES}
            assert middles == {answer == "Left"}, row
            checked["side", answer] += 1
    return checked
