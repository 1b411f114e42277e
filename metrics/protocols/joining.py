"""What a file of predictions does not say, from the data set whose questions were answered."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from metrics.protocols.figures import Answered
from metrics.protocols.formats import Predictions, answer_type_of
from processing.errors import UserError, shorten
from processing.question_ids import id_of_row

logger = logging.getLogger(__name__)

NAMED_IDS = 3  # in a message


class Joined(NamedTuple):
    """Predictions with the facts of their questions.

    Attributes:
        rows: those that are of a question of the split.
        strangers: ids of predictions that are not.
        missing: ids of questions of the split without a prediction.
        vocabulary: the answers of the training rows; None where the data set has none.
    """

    rows: list[Answered]
    strangers: list[str]
    missing: list[str]
    vocabulary: set[str] | None


def join(predictions: Predictions, dataset: Mapping[str, Any], split: str) -> Joined:
    """Finds each prediction's question by its id, and takes from the data set what the file does not have.

    A question is another one where the file has a text that does not hold the data set's. Where the data set gives its
    questions no ids, their numbers are ids for files that have the texts of the questions.

    Args:
        predictions: of a format that has ids.
        dataset: the splits, as `load_vqa_dataset` returns them.
        split: that the predictions are for.

    Raises:
        UserError: the format has no ids, there is no such split, or no prediction is for one of its questions.
    """
    if not predictions.format.has_ids:
        raise UserError(
            f"{predictions.format.name} have no ids of questions, so --dataset can't find theirs; leave it out."
        )
    if split not in dataset:
        raise UserError(f"--split {split}: the data set has no such split, but {' and '.join(dataset)}.")
    with_text = all(row.question for row in predictions.rows)
    questions = _questions_by_id(dataset[split], numbers=with_text)
    rows, strangers = [], []
    for row in predictions.rows:
        found = questions.get(row.id)
        if found is None or not _same_question(row, found):
            strangers.append(row.id)
        else:
            rows.append(_completed(row, found))
    if not rows:
        raise UserError(
            f"None of the {len(strangers):,} predictions ({first_ids(strangers)}) is for a question of the {split} "
            f"split ({first_ids(list(questions))}); choose another --split or --dataset."
        )
    answered = {row.id for row in rows}
    missing = [id_ for id_ in questions if id_ not in answered]
    vocabulary = None
    if "train" in dataset:
        vocabulary = {answer for row in dataset["train"] for answer in _gold_answers(row)}
    return Joined(rows, strangers, missing, vocabulary)


def first_ids(ids: Sequence[str]) -> str:
    """The first ids of some, for a message."""
    named = ", ".join(shorten(id_) for id_ in ids[:NAMED_IDS])
    return f"{named}, ..." if len(ids) > NAMED_IDS else named or "none has an id"


def _questions_by_id(rows: Iterable[Mapping[str, Any]], *, numbers: bool) -> dict[str, Mapping[str, Any]]:
    rows = list(rows)
    given = {str(row["question_id"]) for row in rows}
    return {str(id_of_row(row, given)): row for row in rows if numbers or row["question_id"] is not None}


def _same_question(row: Answered, found: Mapping[str, Any]) -> bool:
    return row.question is None or _words(found["question"]) in _words(row.question)


def _words(text: str) -> str:
    return " ".join(text.casefold().split())


def _completed(row: Answered, found: Mapping[str, Any]) -> Answered:
    return row._replace(
        answers=row.answers or _gold_answers(found),
        answer_type=row.answer_type or answer_type_of(found["answer_type"]),
        image_id=row.image_id or found["image_id"],
        overlap=found.get("overlap", row.overlap),
    )


def _gold_answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row.get("answers") or [row["answer"]])
