"""More questions about training images, which their modality, their location and people's other answers imply.

People asked an image "What modality is used?"; here it is also asked "Is this an MRI?" and "Is this a CT scan?". A
fact about an image is only used where all that is known of it agrees. Whether an image that nobody judged is normal
follows from its boxes, where boxes of findings and people's answers nearly always agree.
"""

import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import datasets

from processing.box_topics import FINDINGS
from processing.wordings import ASKED, Meaning, groups, meaning, names, word

logger = logging.getLogger(__name__)

AGREEMENT = 0.95  # share of people's answers that must be the same
MAX_PER_IMAGE = 6  # new questions
OTHER_VALUES = 1  # questions an image about what it is not, of each kind, such as other modalities
HEALTHY_ORGANS = 2  # questions an image that ask for the opposite of what people said about an organ
NOTHING = ("none", "no", "nothing")
# The part of the body for words in `location`, of SLAKE, VQA-RAD and the phantoms
PARTS_OF_BODY = {
    "abd": "abdomen",
    "abdomen": "abdomen",
    "brain": "head",
    "chest": "chest",
    "head": "head",
    "lung": "chest",
    "neck": "neck",
    "pelvic": "pelvic cavity",
    "pelvis": "pelvic cavity",
    "thorax": "chest",
}
NORMAL = {"image normal": True, "abnormalities": False}  # groups of questions, and the answer for a normal image


class Kind(NamedTuple):
    """Something that has exactly one value in an image.

    Attributes:
        slot: of the questions that name a value.
        open: the group of questions that ask for the value.
        closed: the group of questions whether it is a value.
        asks_open: the answers to open questions are the same for all images of a value.
    """

    slot: str
    open: str
    closed: str
    asks_open: bool = True


KINDS = (
    Kind("modality", "modality", "modality, yes or no"),
    Kind("plane", "plane", "plane, yes or no"),
    Kind("weighting", "weighting", "weighting, yes or no"),
    Kind("part", "part of the body", "part of the body, yes or no", asks_open=False),  # SLAKE says Head or Brain
)
Said = Mapping[Meaning, str]  # people's answers about an image in lower case


def add_implied_questions(rows: datasets.Dataset) -> datasets.Dataset:
    """Appends questions to training rows, with negative numbers in `row` that no other row has.

    The new rows have only answers that training rows have, and ask an image nothing that it was asked in any wording.
    The random choice depends on `image_id`, so the same rows always give the same questions.
    """
    rows_of_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        rows_of_image[row["image"]].append(row)
    said = {image: _said(own) for image, own in rows_of_image.items()}
    spelling = {answer.lower(): answer for answer, _ in reversed(Counter(rows["answer"]).most_common())}
    answers = _open_answers(said.values())
    asked_values = {kind.slot: _values(kind, said.values()) for kind in KINDS}
    marked = _marked_abnormal(rows_of_image, said)
    number = min([0, *rows["row"]])
    added: list[dict[str, Any]] = []
    for image, own in rows_of_image.items():
        first = own[0]
        rng = random.Random(str(first["image_id"]))
        facts = list(_facts(first, said[image], answers, asked_values, rng))
        facts += _health(said[image], marked.get(image), rng)
        new = [(asks, answer) for asks, answer in facts if asks not in said[image] and answer in spelling]
        for asks, answer in rng.sample(new, min(MAX_PER_IMAGE, len(new))):
            question = word(rng.choice(groups()[asks.group][ASKED]), dict(asks.slots), rng=rng)
            changes = {"row": number - 1 - len(added), "question": question, "answer": spelling[answer]}
            added.append(first | changes | dict.fromkeys(("question_id", "answer_type", "content_type")))
    images = len({row["image"] for row in added})
    logger.info("Added %d training questions that other answers and fields of %d images imply.", len(added), images)
    if not added:
        return rows
    columns = {name: [row.get(name) for row in added] for name in rows.features}
    return datasets.concatenate_datasets([rows, datasets.Dataset.from_dict(columns, features=rows.features)])


def _said(rows: Sequence[Mapping[str, Any]]) -> dict[Meaning, str]:
    """What people answered about an image; "" where they gave several answers to the same."""
    found: dict[Meaning, str] = {}
    for row in rows:
        asks, answer = meaning(row["question"]), row["answer"].lower()
        if asks:
            found[asks] = answer if found.setdefault(asks, answer) == answer else ""
    return found


def _value(kind: Kind, text: str | None) -> str | None:
    """The one value of a kind that a text names."""
    known = names(kind.slot)
    found = {known[name] for name in known if re.search(rf"\b{re.escape(name)}\b", (text or "").lower())}
    return found.pop() if len(found) == 1 else None


def _open_answers(images: Any) -> dict[tuple[str, str], str]:
    """The answer to open questions by kind and value, where nearly all people gave the same one."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for said in images:
        for kind in KINDS:
            answer = said.get(Meaning(kind.open))
            if value := _value(kind, answer):
                counts[kind.slot, value][answer] += 1
    most = {key: found.most_common(1)[0] for key, found in counts.items()}
    return {key: answer for key, (answer, count) in most.items() if count >= AGREEMENT * counts[key].total()}


def _values(kind: Kind, images: Any) -> list[str]:
    """The values that people's questions or answers name anywhere, sorted."""
    found = set()
    for said in images:
        for asks, answer in said.items():
            if asks.group == kind.closed:
                found.add(dict(asks.slots)[kind.slot])
            elif asks.group == kind.open and (value := _value(kind, answer)):
                found.add(value)
    return sorted(found)


def _facts(
    row: Mapping[str, Any],
    said: Said,
    answers: Mapping[tuple[str, str], str],
    asked_values: Mapping[str, Sequence[str]],
    rng: random.Random,
) -> Iterator[tuple[Meaning, str]]:
    """What to ask about the value of each kind that is known, with answers in lower case."""
    modality = None
    for kind in KINDS:
        value = _known_value(kind, row, said)
        if kind.slot == "modality":
            modality = value
        if value is None or (kind.slot == "weighting" and modality not in (None, "MRI")):
            continue
        others = [other for other in asked_values[kind.slot] if other != value]
        yield Meaning(kind.closed, ((kind.slot, value),)), "yes"
        for other in rng.sample(others, min(OTHER_VALUES, len(others))):
            yield Meaning(kind.closed, ((kind.slot, other),)), "no"
        if kind.asks_open and (kind.slot, value) in answers:
            yield Meaning(kind.open), answers[kind.slot, value]


def _known_value(kind: Kind, row: Mapping[str, Any], said: Said) -> str | None:
    """The value that all sources give; None where there is none, or some differ."""
    found, not_these = set(), set()
    if kind.slot == "modality" and row.get("modality"):
        found.add(_value(kind, row["modality"]))
    if kind.slot == "part" and row.get("location"):
        parts = {PARTS_OF_BODY[one] for one in re.findall("[a-z]+", row["location"].lower()) if one in PARTS_OF_BODY}
        found |= parts or {None}
    for asks, answer in said.items():
        if asks.group == kind.open:
            found.add(_value(kind, answer))
        elif asks.group == kind.closed and answer == "yes":
            found.add(dict(asks.slots)[kind.slot])
        elif asks.group == kind.closed:
            not_these.add(dict(asks.slots)[kind.slot])
    return found.pop() if len(found) == 1 and not found & not_these else None


def _marked_abnormal(
    rows_of_image: Mapping[str, Sequence[Mapping[str, Any]]], said: Mapping[str, Said]
) -> dict[str, bool]:
    """Whether an image has boxes of findings, by image; empty where this is not what people say."""
    marked = {
        image: any(box["label"].lower() in FINDINGS for box in own[0]["boxes"])
        for image, own in rows_of_image.items()
        if own[0]["boxes"]
    }
    agree = [sign == marked[image] for image in marked for sign in set(_signs(said[image]))]
    return marked if agree and sum(agree) >= AGREEMENT * len(agree) else {}


def _signs(said: Said) -> list[bool]:
    """For each answer that says so, whether the image is abnormal."""
    return [sign for asks, answer in said.items() if (sign := _is_abnormal(asks, answer)) is not None]


def _health(said: Said, marked: bool | None, rng: random.Random) -> Iterator[tuple[Meaning, str]]:
    """Whether the image and its organs are normal, asked in both ways, with answers in lower case.

    Args:
        marked: whether boxes mark it as abnormal; None where they say nothing.
    """
    signs = _signs(said)
    organs = [(asks.slots, answer) for asks, answer in said.items() if asks.group == "organ healthy"]
    organs += [(asks.slots, _opposite(answer)) for asks, answer in said.items() if asks.group == "organ abnormal"]
    normal = None
    if signs and len(set(signs)) == 1:
        normal = not signs[0]
    elif not signs and marked is not None:
        normal = not marked
    elif not signs and organs and all(healthy == "yes" for _, healthy in organs):
        normal = True  # of every organ that people asked for
    if normal is not None:
        for group, yes in NORMAL.items():
            yield Meaning(group), "yes" if normal == yes else "no"
    for slots, healthy in rng.sample(organs, min(HEALTHY_ORGANS, len(organs))):
        if healthy in ("yes", "no"):
            yield Meaning("organ healthy", slots), healthy
            yield Meaning("organ abnormal", slots), _opposite(healthy)


def _opposite(answer: str) -> str:
    return {"yes": "no", "no": "yes"}.get(answer, "")


def _is_abnormal(asks: Meaning, answer: str) -> bool | None:
    """What people's answer says of the image; None where it says nothing."""
    if asks.group in NORMAL and answer in ("yes", "no"):
        return (answer == "yes") != NORMAL[asks.group]
    if asks.group == "diseases" and answer:
        return answer not in NOTHING
    if asks.group in ("place of the abnormality", "abnormal side", "abnormal lobe", "organ heart or lung"):
        return True if answer and answer not in NOTHING else None
    if (asks.group, answer) in (
        ("abnormal side, yes or no", "yes"),
        ("finding there", "yes"),
        ("organ abnormal", "yes"),
        ("organ healthy", "no"),
    ):
        return True
    return None
