"""More questions about training images, in SLAKE's words, which the boxes of organs and findings answer.

People asked an image a few of the questions that its boxes answer; here it is asked the others too. Not all boxes can
be trusted, as many images have boxes of some organs only. So no question is made where people's answers to such
questions differ from those of the boxes.
"""

import logging
import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from processing.box_topics import FINDINGS, RelativeBox, finding_topics, organ_topics
from processing.images import open_image
from processing.topics import Topic
from processing.wordings import key

logger = logging.getLogger(__name__)

AGREEMENT = 0.95  # share of people's answers about the findings of a body part that its boxes must give too
ANY_PART = "any body part"
MAX_PER_IMAGE = {"larger": 6, "largest": 3, "function": 6, "place": 8}  # new questions of these kinds
Row = Mapping[str, Any]


def add_box_questions(rows: datasets.Dataset) -> datasets.Dataset:
    """Appends to training rows those that boxes answer, whose numbers in `row` are negative.

    The new rows have only answers that training rows have, and ask an image nothing that it was asked before. The
    random choice depends on `image_id`, so the same rows always give the same questions.
    """
    rows_of_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        rows_of_image[row["image"]].append(row)
    topics = _trusted_topics({image: own for image, own in rows_of_image.items() if own[0]["boxes"]})
    spelling = {answer.lower(): answer for answer, _ in reversed(Counter(rows["answer"]).most_common())}
    added: list[dict[str, Any]] = []
    for image, of_image in topics.items():
        first = rows_of_image[image][0]
        rng = random.Random(str(first["image_id"]))
        asked = {key(row["question"]) for row in rows_of_image[image]}
        counts: Counter[str] = Counter()
        for topic in rng.sample(of_image, len(of_image)):
            question, answer = rng.choice(topic.wordings), spelling.get(topic.answer.lower())
            if answer is None or key(question) in asked:
                continue
            if counts[topic.kind] < MAX_PER_IMAGE.get(topic.kind, math.inf):
                counts[topic.kind] += 1
                changes = {
                    "row": -1 - len(added),
                    "question": question,
                    "answer": answer,
                    "question_id": None,
                    "answer_type": None,
                    "content_type": None,
                }
                added.append(first | changes)
    images = len({row["image"] for row in added})
    logger.info("Added %d training questions that the boxes of %d images answer.", len(added), images)
    if not added:
        return rows
    columns = {name: [row[name] for row in added] for name in rows.features}
    return datasets.concatenate_datasets([rows, datasets.Dataset.from_dict(columns, features=rows.features)])


def _trusted_topics(rows_of_image: Mapping[str, Sequence[Row]]) -> dict[str, list[Topic]]:
    """The topics of each image whose answers by boxes can be trusted.

    Topics about organs: the boxes show two organs or more, and the answers that people gave about this image are all
    those of its boxes, and there are some. An image with a box of one organ was marked for that organ, not for all.
    Topics about findings: any image with boxes of findings.

    Of both, kinds are left out that boxes answer as people did in less than `AGREEMENT` of the cases; of findings, of
    the cases of this body part, and kinds of which nobody asked there.
    """
    boxes = {image: _relative_boxes(own[0]) for image, own in rows_of_image.items()}
    body_part = {image: own[0]["location"] for image, own in rows_of_image.items()}
    organs: dict[str, set[str]] = defaultdict(set)
    for image, found in boxes.items():
        organs[body_part[image]] |= {box.organ for box in found} - FINDINGS
    candidates: dict[str, list[tuple[tuple[str, str], Topic]]] = defaultdict(list)
    agreements: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for image, found in boxes.items():
        if len({box.organ for box in found} - FINDINGS) > 1:
            about_organs = list(organ_topics(found, organs[body_part[image]]))
            compared = _compare(about_organs, rows_of_image[image])
            for number, (kind, agrees) in enumerate(compared):
                others = compared[:number] + compared[number + 1 :]
                if others and all(other for _, other in others):
                    agreements[ANY_PART, kind].append(agrees)
            if compared and all(agrees for _, agrees in compared):
                candidates[image] += [((ANY_PART, topic.kind), topic) for topic in about_organs]
        about_findings = list(finding_topics(found))
        for kind, agrees in _compare(about_findings, rows_of_image[image]):
            agreements[body_part[image], kind].append(agrees)
        candidates[image] += [((body_part[image], topic.kind), topic) for topic in about_findings]
    shares = {asked: sum(cases) / len(cases) for asked, cases in agreements.items()}
    return {
        image: [
            topic
            for (part, kind), topic in of_image
            if shares.get((part, kind), 1.0 if part == ANY_PART else 0.0) >= AGREEMENT
        ]
        for image, of_image in candidates.items()
    }


def _compare(topics: Sequence[Topic], rows: Sequence[Row]) -> list[tuple[str, bool]]:
    """The kind of each topic that a row asks too, and whether both give the same answer."""
    by_question = {key(wording): topic for topic in topics for wording in topic.wordings}
    pairs = [(by_question.get(key(row["question"])), row["answer"]) for row in rows]
    return [(topic.kind, topic.answer.lower() == answer.lower()) for topic, answer in pairs if topic]


def _relative_boxes(row: Row) -> list[RelativeBox]:
    width, height = open_image(row["image"]).size
    boxes = []
    for box in row["boxes"]:
        x, y, w, h = box["bbox"]
        boxes.append(RelativeBox(box["label"], x / width, y / height, (x + w) / width, (y + h) / height))
    return boxes
