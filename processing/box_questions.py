"""More questions about training images, in SLAKE's words, which the boxes of organs and findings answer.

People asked an image a few of the questions that its boxes answer; here it is asked the others too. Not all boxes can
be trusted, as many images have boxes of some organs only: no question is made where people's answers to such questions
and those of the boxes differ.
"""

import logging
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations
from typing import Any, NamedTuple

import datasets

from processing.boxes import organ_of
from processing.images import open_image
from processing.topics import Topic, what, which, yes_no

logger = logging.getLogger(__name__)

AGREEMENT = 0.95  # share of people's answers about the findings of a body part that its boxes must give too
MARGIN = 1.3  # of areas, from which one organ is larger: boxes are larger than organs
MIDDLE = 0.05  # of the width, on both sides of the middle, where a box is on neither side
MOST = {"larger": 6, "largest": 3, "function": 6, "place": 8}  # questions of these kinds that an image is asked

PLURALS = {
    **{"ear": "ears", "eye": "eyes", "femoral head": "femoral heads", "kidney": "kidneys", "lung": "lungs"},
    **{"mandible": "mandibles", "parotid": "parotids", "temporal lobe": "temporal lobes"},
}
# From SLAKE's knowledge graph: what organs belong to, and what they do.
SYSTEMS = {
    "circulatory system": {"heart"},
    "digestive system": {
        *("colon", "duodenum", "esophagus", "liver", "parotid", "rectum", "small bowel", "stomach", "tooth"),
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
CHEST = {  # what SLAKE's questions call the findings of chest X-rays
    **{"Atelectasis": "atelectasis", "Effusion": "pleural effusion", "Infiltrate": "infiltration", "Mass": "mass"},
    **{"Nodule": "nodule", "Pneumonia": "pneumonia", "Pneumothorax": "pneumothorax"},
}
BRAIN = ("Brain Edema", "Brain Enhancing Tumor", "Brain Non-enhancing Tumor")
NOT_ASKED_FOR = ("Brain Tumor", "Cardiomegaly", "Liver Cancer", "Lung Cancer")
FINDINGS = {label.lower() for label in (*CHEST, *BRAIN, *NOT_ASKED_FOR)}


class Part(NamedTuple):
    """A box, in shares of the image's sides."""

    label: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def organ(self) -> str:
        """In lower case, without its side."""
        return organ_of(self.label).lower()

    @property
    def area(self) -> float:
        """In shares of the image."""
        return (self.right - self.left) * (self.bottom - self.top)

    @property
    def side(self) -> str:
        """The patient's, which a radiological image shows mirrored; empty in the middle."""
        offset = (self.left + self.right) / 2 - 0.5
        return "" if abs(offset) < MIDDLE else "Left" if offset > 0 else "Right"


def add_box_questions(rows: datasets.Dataset) -> datasets.Dataset:
    """Training rows, and after them those that boxes answer, whose numbers in `row` are negative.

    Answers are such as the training rows have; what an image has been asked already is not asked again. The draw is by
    `image_id`, so the same rows always give the same questions.
    """
    asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        asked[row["image"]].append(row)
    topics = _trusted_topics({image: own for image, own in asked.items() if own[0]["boxes"]})
    spelling = {answer.lower(): answer for answer, _ in reversed(Counter(rows["answer"]).most_common())}
    made: list[dict[str, Any]] = []
    for image, offered in topics.items():
        first = asked[image][0]
        draw = random.Random(str(first["image_id"]))
        old = {_key(row["question"]) for row in asked[image]}
        counts: Counter[str] = Counter()
        for topic in draw.sample(offered, len(offered)):
            kind, question = topic.kind, draw.choice(topic.wordings)
            answer = spelling.get(topic.answer.lower())
            if answer is not None and _key(question) not in old and counts[kind] < MOST.get(kind, math.inf):
                counts[kind] += 1
                told = {"row": -1 - len(made), "question": question, "answer": answer}
                made.append(first | told | dict.fromkeys(("question_id", "answer_type", "content_type")))
    images = len({row["image"] for row in made})
    logger.info("%d training questions are added that the boxes of %d images answer.", len(made), images)
    if not made:
        return rows
    columns = {name: [row[name] for row in made] for name in rows.features}
    return datasets.concatenate_datasets([rows, datasets.Dataset.from_dict(columns, features=rows.features)])


def organ_topics(parts: Sequence[Part], organs: set[str]) -> Iterator[Topic]:
    """Which organs there are, how many, how large and what for, in an image whose boxes show all of its organs.

    Args:
        parts: of the image.
        organs: to ask for, as `Part.organ` calls them.
    """
    found = [part for part in parts if part.organ not in FINDINGS]
    present = {part.organ for part in found}
    for organ in sorted(organs):
        name = PLURALS[organ] if organ in ("ear", "eye") else organ
        yield yes_no(
            "organ",
            organ in present,
            f"Does the picture contain {name}?",
            f"Is there {name} in this image?",
            f"Does the {name} appear in the image?",
            f"Does the {name} exist in this picture?",
        )
        if plural := PLURALS.get(organ):
            number = len({part.label for part in found if part.organ == organ})
            wordings = f"How many {plural} in this image?", f"How many existing {plural} in this image?"
            yield what("number", str(number), *wordings)
    yield from _size_topics(found)
    if found:
        leftmost, rightmost = min(found, key=lambda part: part.left), max(found, key=lambda part: part.right)
        yield what("edge", leftmost.label, "What is the leftmost organ in this image?")
        yield what("edge", rightmost.label, "What is the rightmost organ in this image?")
    for system, members in SYSTEMS.items():
        here = bool(members & present)
        yield yes_no("system", here, f"Do any of the organs in the picture belong to the {system}?")
    for (do, doing), members in FUNCTIONS.items():
        yield yes_no(
            "function",
            bool(members & present),
            f"Are there organs in the picture that can {do}?",
            f"Does the picture contain the organ that could be used for {doing}?",
            f"Does the picture contain the organ which has the effect of {doing}?",
        )


def _size_topics(found: Sequence[Part]) -> Iterator[Topic]:
    areas: dict[str, float] = defaultdict(float)
    for part in found:
        areas[part.label.lower()] += part.area
    for large, small in permutations(sorted(areas), 2):
        if areas[large] > MARGIN * areas[small] and organ_of(large) != organ_of(small):
            for pair in (f"{large} or {small}", f"{small} or {large}"):
                for word, answer in (("bigger", large), ("smaller", small)):
                    wordings = f"Which is {word} in this image, {pair}?", f"Which is {word} in this image,{pair}?"
                    yield which("larger", answer, *wordings)
    for three in combinations(sorted(areas), 3):
        smallest, middle, largest = sorted(three, key=lambda name: areas[name])
        listed = f"{three[0]}, {three[1]} or {three[2]}"
        if areas[largest] > MARGIN * areas[middle]:
            yield which("largest", largest, f"Which is the biggest in this image, {listed}?")
        if areas[middle] > MARGIN * areas[smallest]:
            yield which("largest", smallest, f"Which is the smallest in this image, {listed}?")


def finding_topics(parts: Sequence[Part]) -> Iterator[Topic]:
    """What is abnormal and on which side, in an image of the brain or the lungs whose boxes show all findings."""
    brain = [part for part in parts if part.label in (*BRAIN, "Brain Tumor")]
    chest = [part for part in parts if part.label in CHEST]
    if brain:
        kinds = {part.label for part in brain}
        yield what("kinds", str(len(kinds)), "How many kinds of abnormalities are there in this image?")
        for label in BRAIN:
            yield yes_no("kinds", label in kinds, f"Does the patient have {label.lower()}?")
    sides = {part.side for part in brain or chest}
    if sides and "" not in sides:
        yield from _side_topics(sides, "brain lobe" if brain else "lung")
    for label, finding in CHEST.items() if chest else ():
        places = {
            f"{'upper' if part.top + part.bottom < 0.9 else 'lower'} "  # lungs end above the lower edge
            f"{'left' if part.left + part.right > 1 else 'right'}"
            for part in chest
            if part.label == label
        }
        for place in ("upper left", "upper right", "lower left", "lower right"):
            question = f"Can {finding} be observed on the {place} lung in this picture?"
            yield yes_no("place", place in places, question)


def _side_topics(sides: set[str], organ: str) -> Iterator[Topic]:
    for side in ("Left", "Right"):
        here = f"Is/Are there abnormalities in the patient's {side.lower()} {organ}?"
        yield yes_no("side", side in sides, here)
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


def _trusted_topics(asked: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Topic]]:
    """The topics of each image: those about its organs if people's answers about them are those of its boxes, and
    those about findings if boxes answer that kind of question as people did for images of its body part."""
    parts = {image: _parts(own[0]) for image, own in asked.items()}
    where = {image: own[0]["location"] for image, own in asked.items()}
    organs: dict[str, set[str]] = defaultdict(set)
    for image, found in parts.items():
        organs[where[image]] |= {part.organ for part in found} - FINDINGS
    topics: dict[str, list[Topic]] = {}
    for image, found in parts.items():
        about_organs = list(organ_topics(found, organs[where[image]]))
        rights = [right for _, right in _compare(about_organs, asked[image])]
        topics[image] = about_organs if rights and all(rights) else []
    agreed: dict[tuple[str, str], list[bool]] = defaultdict(list)
    about_findings = {image: list(finding_topics(found)) for image, found in parts.items()}
    for image, offered in about_findings.items():
        for kind, right in _compare(offered, asked[image]):
            agreed[where[image], kind].append(right)
    holds = {key for key, rights in agreed.items() if sum(rights) / len(rights) >= AGREEMENT}
    for image, offered in about_findings.items():
        topics[image] += [topic for topic in offered if (where[image], topic.kind) in holds]
    return topics


def _compare(topics: Sequence[Topic], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    """The kind of each topic that a row asks too, and whether both give the same answer."""
    by_question = {_key(wording): topic for topic in topics for wording in topic.wordings}
    pairs = [(by_question.get(_key(row["question"])), row["answer"]) for row in rows]
    return [(topic.kind, topic.answer.lower() == answer.lower()) for topic, answer in pairs if topic]


def _parts(row: Mapping[str, Any]) -> list[Part]:
    width, height = open_image(row["image"]).size
    corners = ((box["label"], *box["bbox"]) for box in row["boxes"])
    return [Part(label, x / width, y / height, (x + w) / width, (y + h) / height) for label, x, y, w, h in corners]


def _key(question: str) -> str:
    return re.sub(r"\W+", " ", question.lower()).strip()
