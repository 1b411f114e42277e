"""What the boxes of an image answer: its organs and findings, in SLAKE's words."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from typing import NamedTuple

from processing.boxes import organ_of
from processing.topics import Topic, what, which, yes_no

MARGIN = 1.3  # of areas, from which one organ is larger: boxes are larger than organs
MIDDLE = 0.05  # of the width, on both sides of the middle, where a box is on neither side
LUNG_MIDDLE = 0.45  # of the height: lungs end above the lower edge of an image

PLURALS = {
    "ear": "ears",
    "eye": "eyes",
    "femoral head": "femoral heads",
    "kidney": "kidneys",
    "lung": "lungs",
    "mandible": "mandibles",
    "parotid": "parotids",
    "temporal lobe": "temporal lobes",
}
ASKED_IN_PLURAL = ("ear", "eye")

# From SLAKE's knowledge graph: what organs belong to, and what they do.
SYSTEMS = {
    "circulatory system": {"heart"},
    "digestive system": {
        "colon",
        "duodenum",
        "esophagus",
        "liver",
        "parotid",
        "rectum",
        "small bowel",
        "stomach",
        "tooth",
    },
    "lymphatic system": {"spleen"},
    "nervous system": {"brain stem", "spinal cord", "temporal lobe"},
    "respiratory system": {"larynx", "lung", "trachea"},
    "urinary system": {"bladder", "kidney"},
}
FUNCTIONS = {
    ("absorb nutrients", "absorbing nutrients"): {"duodenum", "small bowel"},
    ("breathe", "breathing"): {"lung"},
    ("deliver food", "delivering food"): {"esophagus"},
    ("detoxicate", "detoxicating"): {"liver"},
    ("digest food", "digesting food"): {"colon", "duodenum", "small bowel", "stomach"},
    ("discharge waste", "discharging waste"): {"kidney"},
    ("excrete body waste", "excreting body waste"): {"colon"},
    ("excrete feces", "excreting feces"): {"rectum"},
    ("improve the body's immunity", "improving the body's immunity"): {"spleen"},
    ("promote blood flow", "promoting blood flow"): {"heart"},
    ("receive sound", "receiving sound"): {"ear"},
    ("secrete enzymes", "secreting enzymes"): {"duodenum", "small bowel", "stomach"},
    ("sense light", "sensing light"): {"eye"},
    ("store urine", "storing urine"): {"bladder"},
}

# What SLAKE's questions call the findings of chest X-rays.
CHEST_FINDINGS = {
    "Atelectasis": "atelectasis",
    "Effusion": "pleural effusion",
    "Infiltrate": "infiltration",
    "Mass": "mass",
    "Nodule": "nodule",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
}
BRAIN_FINDINGS = ("Brain Edema", "Brain Enhancing Tumor", "Brain Non-enhancing Tumor")
OTHER_FINDINGS = ("Brain Tumor", "Cardiomegaly", "Liver Cancer", "Lung Cancer")  # which no question here names
FINDINGS = {label.lower() for label in (*CHEST_FINDINGS, *BRAIN_FINDINGS, *OTHER_FINDINGS)}


class RelativeBox(NamedTuple):
    """A box with its edges as shares of the image's width and height."""

    label: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def organ(self) -> str:
        """The label in lower case, without its side."""
        return organ_of(self.label).lower()

    @property
    def area(self) -> float:
        """The share of the image's area."""
        return (self.right - self.left) * (self.bottom - self.top)

    @property
    def side(self) -> str:
        """The patient's side, which a radiological image shows mirrored; empty in the middle."""
        offset = (self.left + self.right) / 2 - 0.5
        if abs(offset) < MIDDLE:
            return ""
        return "Left" if offset > 0 else "Right"


def organ_topics(boxes: Sequence[RelativeBox], organs: set[str]) -> Iterator[Topic]:
    """Which organs there are, how many, how large and what for, in an image whose boxes show all of its organs.

    Args:
        boxes: of the image.
        organs: to ask for, as `RelativeBox.organ` names them.
    """
    found = [box for box in boxes if box.organ not in FINDINGS]
    present = {box.organ for box in found}
    for organ in sorted(organs):
        name = PLURALS[organ] if organ in ASKED_IN_PLURAL else organ
        yield yes_no(
            "organ",
            organ in present,
            f"Does the picture contain {name}?",
            f"Is there {name} in this image?",
            f"Does the {name} appear in the image?",
            f"Does the {name} exist in this picture?",
        )
        if plural := PLURALS.get(organ):
            number = len({box.label for box in found if box.organ == organ})
            yield what(
                "number",
                str(number),
                f"How many {plural} in this image?",
                f"How many existing {plural} in this image?",
            )
    yield from _size_topics(found)
    if found:
        leftmost, rightmost = min(found, key=lambda box: box.left), max(found, key=lambda box: box.right)
        yield what("edge", leftmost.label, "What is the leftmost organ in this image?")
        yield what("edge", rightmost.label, "What is the rightmost organ in this image?")
    for system, members in SYSTEMS.items():
        belongs = bool(members & present)
        yield yes_no("system", belongs, f"Do any of the organs in the picture belong to the {system}?")
    for (do, doing), members in FUNCTIONS.items():
        yield yes_no(
            "function",
            bool(members & present),
            f"Are there organs in the picture that can {do}?",
            f"Does the picture contain the organ that could be used for {doing}?",
            f"Does the picture contain the organ which has the effect of {doing}?",
        )


def _size_topics(organs: Sequence[RelativeBox]) -> Iterator[Topic]:
    """Which of two or three organs is larger, where their boxes differ enough to tell."""
    areas: dict[str, float] = defaultdict(float)
    for box in organs:
        areas[box.label.lower()] += box.area
    for large, small in permutations(sorted(areas), 2):
        if areas[large] > MARGIN * areas[small] and organ_of(large) != organ_of(small):
            for pair in (f"{large} or {small}", f"{small} or {large}"):
                for word, answer in (("bigger", large), ("smaller", small)):
                    yield which(
                        "larger",
                        answer,
                        f"Which is {word} in this image, {pair}?",
                        f"Which is {word} in this image,{pair}?",
                    )
    for three in combinations(sorted(areas), 3):
        smallest, middle, largest = sorted(three, key=lambda name: areas[name])
        listed = f"{three[0]}, {three[1]} or {three[2]}"
        if areas[largest] > MARGIN * areas[middle]:
            yield which("largest", largest, f"Which is the biggest in this image, {listed}?")
        if areas[middle] > MARGIN * areas[smallest]:
            yield which("largest", smallest, f"Which is the smallest in this image, {listed}?")


def finding_topics(boxes: Sequence[RelativeBox]) -> Iterator[Topic]:
    """What is abnormal and on which side, in an image of the brain or the lungs whose boxes show all findings."""
    brain = [box for box in boxes if box.label in (*BRAIN_FINDINGS, "Brain Tumor")]
    chest = [box for box in boxes if box.label in CHEST_FINDINGS]
    if brain:
        kinds = {box.label for box in brain}
        yield what("kinds", str(len(kinds)), "How many kinds of abnormalities are there in this image?")
        for label in BRAIN_FINDINGS:
            yield yes_no("kinds", label in kinds, f"Does the patient have {label.lower()}?")
    sides = {box.side for box in brain or chest}
    if sides and "" not in sides:
        yield from _side_topics(sides, "brain lobe" if brain else "lung")
    if chest:
        yield from _place_topics(chest)


def _side_topics(sides: set[str], organ: str) -> Iterator[Topic]:
    """Which side is abnormal; `organ` is "lung" or "brain lobe"."""
    for side in ("Left", "Right"):
        question = f"Is/Are there abnormalities in the patient's {side.lower()} {organ}?"
        yield yes_no("side", side in sides, question)
    abnormal = "Both" if len(sides) == 2 else min(sides)
    normal = {"Left": "Right", "Right": "Left"}.get(abnormal)
    part = "side of lung" if organ == "lung" else "hemisphere"
    yield what("side", abnormal, "Which lobe is abnormal in this image?")
    yield what("side", abnormal, f"Which {part} is abnormal in this image?")
    if normal:
        yield which("side", abnormal, "Which lobe is abnormal,left or right?")
        yield which("side", abnormal, f"Which {part} is abnormal in this image,left or right?")
        yield what("side", normal, "Which lobe is normal in this image?")
        yield what("side", normal, f"Which {part} is normal?")


def _place_topics(chest: Sequence[RelativeBox]) -> Iterator[Topic]:
    """Whether each finding of the chest is in each quarter of the lungs."""
    for label, finding in CHEST_FINDINGS.items():
        places = {_place_in_lungs(box) for box in chest if box.label == label}
        for place in ("upper left", "upper right", "lower left", "lower right"):
            question = f"Can {finding} be observed on the {place} lung in this picture?"
            yield yes_no("place", place in places, question)


def _place_in_lungs(box: RelativeBox) -> str:
    height = "upper" if (box.top + box.bottom) / 2 < LUNG_MIDDLE else "lower"
    side = "left" if (box.left + box.right) / 2 > 0.5 else "right"
    return f"{height} {side}"
