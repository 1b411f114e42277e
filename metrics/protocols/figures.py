"""Figures of predictions under each protocol: all questions, open and closed ones, with intervals."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from metrics.intervals import mean_with_interval
from metrics.protocols.definitions import protocols

NO_NEIGHBOUR = ", no near neighbour"


class Answered(NamedTuple):
    """A question and what a model answered.

    Attributes:
        id: of the question, as text.
        prediction: "" for no answer.
        answers: the gold ones; empty where they are not known.
        answer_type: OPEN or CLOSED; None where it is not known.
        image_id: None where it is not known.
        question: None where it is not known.
        overlap: of its image with the training images, by `processing.splits.OVERLAPS`; None where it is not known.
    """

    id: str
    prediction: str
    answers: tuple[str, ...]
    answer_type: str | None = None
    image_id: str | None = None
    question: str | None = None
    overlap: str | None = None


class Figure(NamedTuple):
    """A protocol's mean over some questions, in percent.

    Attributes:
        protocol: its name.
        questions: `all`, `open` or `closed`, and the same with `, no near neighbour` behind it.
        n: how many questions the protocol counted.
        percent: the mean; None where n is 0.
        low, high: of its 95 % interval; None for fewer than 10 images.
    """

    protocol: str
    questions: str
    n: int
    percent: float | None
    low: float | None
    high: float | None


def make_figures(rows: Sequence[Answered], vocabulary: Collection[str] | None = None) -> list[Figure]:
    """The figures of all protocols.

    Where some rows are known to have images that training has seen, or near neighbours of them, each figure comes a
    second time for the rows that have none. Rows without an answer type count among all questions alone. Where a row
    has no image, each question is taken for independent of the others.

    Args:
        rows: each with a gold answer.
        vocabulary: see `protocols`.
    """
    apart = [row for row in rows if row.overlap == "none"]
    found = _figures(rows, "", vocabulary)
    if any(row.overlap for row in rows) and 0 < len(apart) < len(rows):
        found += _figures(apart, NO_NEIGHBOUR, vocabulary)
    return found


def _figures(rows: Sequence[Answered], part: str, vocabulary: Collection[str] | None) -> list[Figure]:
    """The figures of some rows, whose questions are named with `part` behind."""
    by_image = has_images(rows)
    found = []
    for protocol in protocols(vocabulary):
        scored = [(row, protocol.score(row.prediction, row.answers)) for row in rows]
        for questions, answer_type in (("all", None), ("open", "OPEN"), ("closed", "CLOSED")):
            if protocol.answer_type not in (None, answer_type):
                continue
            chosen = [(row, score) for row, score in scored if answer_type in (None, row.answer_type)]
            if not chosen:
                continue
            counted = [(row, score) for row, score in chosen if score is not None]
            percent: float | None = None
            low = high = None
            if counted:
                percentages = np.array([100.0 * score for _, score in counted])
                clusters = [str(row.image_id if by_image else row.id) for row, _ in counted]
                percent, low, high = mean_with_interval(percentages, clusters)
            found.append(Figure(protocol.name, questions + part, len(counted), percent, low, high))
    return found


def has_images(rows: Sequence[Answered]) -> bool:
    """Whether the image of every row is known."""
    return all(row.image_id is not None for row in rows)
