"""Ids of questions: no row is lost for the id of another question, and no two rows of a split keep one id."""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from processing.answers import answer_identity
from processing.errors import shorten
from processing.problems import Problem
from processing.sources.rows import Row
from processing.sources.values import text_of

logger = logging.getLogger(__name__)


def problem_of_repetition(row: Row, digest: str, known: set[tuple]) -> Problem | None:
    """The problem of a row that stands in its split and language twice: id, image, question and answer are the same.

    Args:
        digest: of the image.
        known: the rows before it, to which it is added. Rows without an id are never compared.
    """
    name = text_of(row["question_id"])
    if name is None:
        return None
    content = (digest, row["question"].lower(), answer_identity(row["answer"]))
    key = (row["split"], row["language"], name, *content)
    if key in known:
        return Problem("duplicate id, image, question and answer", shorten(name))
    known.add(key)
    return None


def make_ids_unique(rows: list[Row]) -> None:
    """Puts a number behind each id that an earlier row of the split has: 7, 7-2, 7-3. Says so once."""
    taken: dict[str | None, set[str]] = defaultdict(set)
    for row in rows:
        if (name := text_of(row["question_id"])) is not None:
            taken[row["split"]].add(name)
    numbers: dict[tuple[str | None, str], int] = {}
    changed = []
    for row in rows:
        name, split = text_of(row["question_id"]), row["split"]
        if name is None:
            continue
        number = numbers.get((split, name), 0) + 1
        while number > 1 and f"{name}-{number}" in taken[split]:
            number += 1
        numbers[split, name] = number
        if number > 1:
            row["question_id"] = f"{name}-{number}"
            taken[split].add(row["question_id"])
            changed.append((row["where"], name, row["question_id"]))
    if changed:
        where, name, new = changed[0]
        logger.warning(
            "The question_id of %s of %s rows is that of another question of their split, so a number is put behind "
            "it: %s has %s instead of %s.",
            f"{len(changed):,}",
            f"{len(rows):,}",
            where,
            shorten(new),
            shorten(name),
        )


def id_of_row(row: Mapping[str, Any], given: Collection[str]) -> Any:
    """The id of a row in a file of predictions: its own, else its number, as row-7 where another's id is 7.

    Args:
        row: with `question_id` and `row`.
        given: the ids of the split's rows, as texts.
    """
    if row["question_id"] is not None:
        return row["question_id"]
    return f"row-{row['row']}" if str(row["row"]) in given else row["row"]
