"""Rows that stand twice, that contradict each other, and answers: how they spread, and which training never has."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from metrics.audit.table import Table
from processing.splits import TRAIN

FIRST = 20  # findings of a kind that are listed
TOP_ANSWERS = 15


def describe_bad_rows(bad: Iterable[Mapping[str, Any]], total: int) -> dict[str, Any]:
    """Rows that can't be used: how many of each kind, and the first.

    Args:
        bad: with `problem`, `detail` and `where`.
        total: number of rows, good ones included.
    """
    counts: Counter[str] = Counter()
    first: list[dict[str, Any]] = []
    for row in bad:
        counts[row["problem"]] += 1
        if len(first) < FIRST:
            first.append({name: row[name] for name in ("where", "problem", "detail")})
    problems = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return {"rows": counts.total(), "of": total, "problems": dict(problems), "first": first}


def find_duplicates(table: Table) -> dict[str, Any]:
    """Rows that have image, question and answer of an earlier one, whatever their ids."""
    pairs: list[tuple[int, int]] = []
    for group in table.groups():
        first: dict[str, int] = {}
        for row in group.tolist():
            earlier = first.setdefault(table.answers[row][0], row)
            if earlier != row:
                pairs.append((earlier, row))
    pairs.sort(key=lambda pair: pair[1])
    across = sum(table.split[a] != table.split[b] for a, b in pairs)
    listed = [{"row": table.place(row), "same_as": table.place(earlier)} for earlier, row in pairs[:FIRST]]
    return {"rows": len(pairs), "across_splits": int(across), "first": listed}


def find_contradictions(table: Table) -> dict[str, Any]:
    """Questions that are asked of one image several times and have no answer in common.

    A question with several right answers, which rows give one each, is among them.
    """
    groups = [group for group in table.groups() if not set.intersection(*(set(table.answers[i]) for i in group))]
    listed = [{"rows": [table.place(row) for row in group.tolist()]} for group in groups[:FIRST]]
    closed = sum(any(table.rows[row]["answer_type"] == "CLOSED" for row in group) for group in groups)
    return {
        "questions": len(groups),
        "closed_questions": closed,
        "rows": sum(map(len, groups)),
        "across_splits": sum(len(np.unique(table.split[group])) > 1 for group in groups),
        "first": listed,
    }


def unseen_answers(table: Table, split: int) -> dict[str, Any]:
    """The rows of a split none of whose gold answers a training row has: no classifier can answer them."""
    known = {identity for row in table.of_split(TRAIN) for identity in table.answers[row]}
    numbers = table.of_split(split).tolist()
    unseen = [row for row in numbers if known.isdisjoint(table.answers[row])]
    counts = Counter(table.answers[row][0] for row in unseen)
    most = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:FIRST]
    types = Counter(table.rows[row]["answer_type"] for row in unseen)
    return {
        "rows": len(unseen),
        "of": len(numbers),
        "open": types["OPEN"],
        "closed": types["CLOSED"],
        "answers": len(counts),
        "most_frequent": [{"answer": answer, "rows": rows} for answer, rows in most],
        "first": [table.place(row) for row in unseen[:FIRST]],
    }


def answer_distribution(table: Table, numbers: np.ndarray) -> dict[str, Any]:
    """How the answers of some rows spread.

    Returns:
        `rows`; different `images`, `questions` and `answers`; `open`, `closed` and `untyped` rows; `half`, the least
        number of answers that half of the rows have; and `top`, the most frequent answers, each as it is mostly
        written.
    """
    counts: Counter[str] = Counter()
    spellings: dict[str, Counter[str]] = {}
    for row in numbers.tolist():
        counts[table.answers[row][0]] += 1
        spellings.setdefault(table.answers[row][0], Counter())[table.rows[row]["answer"]] += 1
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    sums = np.cumsum([count for _, count in ordered])
    types = Counter(table.rows[row]["answer_type"] for row in numbers.tolist())
    return {
        "rows": len(numbers),
        "images": len(np.unique(table.image[numbers])),
        "questions": len({table.questions[row] for row in numbers.tolist()}),
        "open": types["OPEN"],
        "closed": types["CLOSED"],
        "untyped": types[None],
        "answers": len(counts),
        "half": int(np.searchsorted(sums, len(numbers) / 2)) + 1,
        "top": [
            {"answer": usual_spelling(spellings[name]), "rows": rows, "percent": round(100 * rows / len(numbers), 2)}
            for name, rows in ordered[:TOP_ANSWERS]
        ],
    }


def usual_spelling(counts: Counter[str]) -> str:
    """The most frequent spelling; of equally frequent ones the first in the alphabet."""
    return min(counts, key=lambda text: (-counts[text], text))
