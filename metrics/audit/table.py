"""The rows of a data set as the audit compares them."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from processing.answers import answer_identity
from processing.good_rows import GoodRows
from processing.image_checks import CheckedImage
from processing.splits import LEFT_OUT, ORDER, Places

COLUMNS = ("question", "answer", "answers", "answer_type", "language", "image_id", "image", "where")


def question_identity(question: str) -> str:
    """What questions share that differ in case, white space and punctuation alone."""
    marked = ("" if char == "'" else " " if unicodedata.category(char)[0] == "P" else char for char in question)
    return " ".join("".join(marked).casefold().split()) or question


@dataclass
class Table:
    """The N rows that can be used, and their different images.

    Attributes:
        rows: with `question`, `answer`, `answers` (all gold answers), `answer_type`, `language`, `image_id`, `image`
            (the file) and `where` (the name of the table and the number of the row in it).
        questions: of each row the `question_identity`.
        answers: of each row the identities of its gold answers; that of `answer` is the first.
        image: the place in `images` of each row's, ``(N,)``.
        images: no two of which have the same pixels.
        files: of each image one file.
        group: a number for the group (patient, study) of each row, ``(N,)``; -1 where the data set names none.
        split: the place in `processing.splits.ORDER` of each row's, ``(N,)``; `NO_SPLIT` where there is none.
        overlap: of each row, ``(N,)``, as of `processing.splits.overlaps`.
    """

    rows: list[dict[str, Any]]
    questions: list[str]
    answers: list[tuple[str, ...]]
    image: np.ndarray
    images: list[CheckedImage]
    files: list[Path]
    group: np.ndarray
    split: np.ndarray
    overlap: np.ndarray

    def of_split(self, split: int) -> np.ndarray:
        """The numbers of the rows of a split."""
        return np.flatnonzero(self.split == split)

    def splits(self) -> list[int]:
        """The splits that have rows, in their order."""
        return [code for code in range(len(ORDER)) if (self.split == code).any()]

    def place(self, row: int) -> dict[str, Any]:
        """Where a row stands, for a list of findings."""
        found = self.rows[row]
        name = ORDER[self.split[row]] if self.split[row] >= 0 else None
        facts: dict[str, Any] = {"where": found["where"], "split": name, "image_id": found["image_id"]}
        return facts | {"question": found["question"], "answer": found["answer"]}

    def groups(self) -> Iterator[np.ndarray]:
        """The rows about one image with one question, wherever there are several; in the order of the first."""
        found: dict[tuple[int, str], list[int]] = {}
        for number, key in enumerate(zip(self.image.tolist(), self.questions, strict=True)):
            found.setdefault(key, []).append(number)
        yield from (np.array(group) for group in found.values() if len(group) > 1)


def make_table(good: GoodRows, places: Places, overlap: np.ndarray) -> Table:
    """The rows of a data set without those that stand twice.

    Args:
        good: the rows that can be used.
        places: of each of them; those that are left out are no rows of the table.
        overlap: of each of them, as of `processing.splits.overlaps`.
    """
    kept = places.split != LEFT_OUT
    rows = [_as_row(values) for values, wanted in zip(good.columns(*COLUMNS), kept, strict=True) if wanted]
    _, first_row, image = np.unique(places.pixels()[kept], return_index=True, return_inverse=True)
    return Table(
        rows,
        [question_identity(row["question"]) for row in rows],
        [tuple(dict.fromkeys(answer_identity(text) for text in (row["answer"], *row["answers"]))) for row in rows],
        image,
        [places.images[number] for number in places.image[kept][first_row]],
        [Path(rows[row]["image"]) for row in first_row],
        places.group[kept],
        places.split[kept],
        overlap[kept],
    )


def _as_row(values: tuple) -> dict[str, Any]:
    row = dict(zip(COLUMNS, values, strict=True))
    return row | {"answers": row["answers"] or [row["answer"]]}
