"""Ids of questions: no row is lost for the id of another question, and no two rows of a split keep one id."""

import hashlib
from array import array
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from processing.answers import answer_identity
from processing.sources.rows import Row
from processing.sources.values import text_of

NONE = b"\0" * 16  # the digest of a row without an id


class QuestionIds:
    """The ids of the rows of a data set, as digests of 16 bytes, so that they fit into memory."""

    def __init__(self) -> None:
        self._ids, self._contents = array("Q"), array("Q")

    def add(self, row: Row, pixels: str) -> None:
        """Takes the id of the next row.

        Args:
            pixels: the digest of its image.
        """
        name = text_of(row["question_id"])
        if name is None:
            self._ids.frombytes(NONE)
            self._contents.frombytes(NONE)
            return
        content = (row["language"], pixels, row["question"].lower(), answer_identity(row["answer"]))
        self._ids.frombytes(_digest(row["split"], name))
        self._contents.frombytes(_digest(row["split"], name, *content))

    def repeated(self) -> np.ndarray:
        """The rows that stand in their split and language twice: id, image, question and answer are the same.

        The first of them is none. Rows without an id are never compared.
        """
        return np.concatenate([np.zeros(0, dtype=np.int64), *(group[1:] for group in _groups(self._contents))])

    def changes(self, left_out: np.ndarray, name_of: Callable[[int], tuple[str | None, str]]) -> dict[int, str]:
        """New ids for rows whose id an earlier row of the split has: 7-2 and 7-3 for the second and third 7.

        Args:
            left_out: rows that do not count.
            name_of: split and id of a row.
        """
        changed: dict[int, str] = {}
        groups = _groups(self._ids)
        taken = np.sort(_halves(self._ids)[:, 0] if groups else [])  # half a digest may skip a number, no more
        counts = np.ones(len(self._ids) // 2, dtype=bool)
        counts[left_out] = False
        for group in groups:
            split, name = name_of(int(group[0]))
            number = 1
            for row in group[counts[group]][1:].tolist():
                number += 1
                while _is_in(taken, _digest(split, f"{name}-{number}")):
                    number += 1
                changed[row] = f"{name}-{number}"
        return dict(sorted(changed.items()))


def _is_in(taken: np.ndarray, digest: bytes) -> bool:
    half = np.frombuffer(digest, dtype=np.uint64)[0]
    place = np.searchsorted(taken, half)
    return bool(place < len(taken) and taken[place] == half)


def _digest(*parts: str | None) -> bytes:
    return hashlib.blake2b(repr(parts).encode(errors="backslashreplace"), digest_size=16).digest()


def _halves(digests: array) -> np.ndarray:
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


def _groups(digests: array) -> list[np.ndarray]:
    """The rows, in their order, of each digest that several rows have."""
    if not digests:
        return []
    halves = _halves(digests)
    order = np.argsort(halves[:, 0], kind="stable")
    same = np.diff(halves[order, 0]) == 0
    maybe = order[np.append(same, False) | np.append(False, same)]
    maybe = maybe[halves[maybe].any(axis=1)]
    if not len(maybe):
        return []
    maybe = maybe[np.lexsort((maybe, halves[maybe, 1], halves[maybe, 0]))]
    starts = np.flatnonzero((halves[maybe[1:]] != halves[maybe[:-1]]).any(axis=1)) + 1
    return [group for group in np.split(maybe, starts) if len(group) > 1]


def id_of_row(row: Mapping[str, Any], given: Collection[str]) -> Any:
    """The id of a row in a file of predictions: its own, else its number, as row-7 where another's id is 7.

    Args:
        row: with `question_id` and `row`.
        given: the ids of the split's rows, as texts.
    """
    if row["question_id"] is not None:
        return row["question_id"]
    return f"row-{row['row']}" if str(row["row"]) in given else row["row"]
