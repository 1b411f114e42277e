"""Questions with options: how often the right one is chosen, and whether its place among them matters.

Rows have `choices` (texts), and `answer` or `answers` name the right one. Two texts are the same option if they are
the same answer by `processing.answers.answer_identity`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metrics.intervals import mean_with_interval
from processing.answers import answer_identity
from processing.choices import letter_of


def own_spelling(row: Mapping[str, Any], answer: str) -> str:
    """The answer as the row's options spell it; as it is where it is none of them."""
    place = _place(row, answer)
    return answer if place is None else row["choices"][place]


def chosen_answers(
    rows: Sequence[Mapping[str, Any]], numbers: Sequence[int], candidates: Sequence[str], written: Sequence[str]
) -> list[str]:
    """The answers of a model that chooses some and writes others.

    Args:
        rows: some with `choices`.
        numbers: of the chosen one among the row's own choices, or else among the candidates; -1 where it is written.
        candidates: of rows without choices.
        written: one a row.
    """
    return [
        text if number < 0 else (row.get("choices") or candidates)[number]
        for row, number, text in zip(rows, numbers, written, strict=True)
    ]


def choice_accuracy(rows: Sequence[Mapping[str, Any]], predictions: Sequence[str]) -> dict[str, float]:
    """`choice_accuracy`, the percentage of the rows with choices whose right option is chosen, and `choice_total`, how
    many rows that are. Empty where there are none."""
    right = [_is_right(row, text) for row, text in zip(rows, predictions, strict=True) if row.get("choices")]
    return {"choice_accuracy": 100.0 * sum(right) / len(right), "choice_total": len(right)} if right else {}


def count_unknown(rows: Sequence[Mapping[str, Any]], vocabulary: Sequence[str]) -> dict[str, int]:
    """`out_of_vocabulary`, how many rows have no gold answer in a vocabulary; where rows have choices, also
    `choice_out_of_vocabulary`, how many of these."""
    known = {answer_identity(answer) for answer in vocabulary}
    unknown = [not known & _right_identities(row) for row in rows]
    counts = {"out_of_vocabulary": sum(unknown)}
    if any(row.get("choices") for row in rows):
        choices = sum(is_unknown for row, is_unknown in zip(rows, unknown, strict=True) if row.get("choices"))
        counts["choice_out_of_vocabulary"] = choices
    return counts


def choice_figures(
    rows: Sequence[Mapping[str, Any]], predictions: Sequence[str], out_of_vocabulary: int | None = None
) -> list[dict[str, Any]]:
    """Figures of the rows with choices, of all and by the place of the right option; empty where there are none.

    Args:
        rows: with `answer` and `image_id`, some with `choices`.
        predictions: one a row.
        out_of_vocabulary: of `count_unknown`.

    Returns:
        `group` is choices; `value` is all, or the letter of the right option: A is the first one. `questions` and
        `images` are counts. `choice_accuracy` is `[mean, low, high]` of `metrics.intervals.mean_with_interval`, and
        `chance` the mean of an option drawn at random, both in percent. `chosen` is how many rows of all were answered
        by an option of that letter. The first entry has `out_of_vocabulary`.
    """
    pairs = [(row, text) for row, text in zip(rows, predictions, strict=True) if row.get("choices")]
    if not pairs:
        return []
    right = np.array([100.0 * _is_right(row, text) for row, text in pairs])
    chance = np.array([100.0 / len(row["choices"]) for row, _ in pairs])
    places = [_place(row, row["answer"]) for row, _ in pairs]
    chosen = [_place(row, text) for row, text in pairs]

    def entry(value: str, inside: np.ndarray, times_chosen: int) -> dict[str, Any]:
        images = [pairs[i][0]["image_id"] for i in np.flatnonzero(inside)]
        return {
            "group": "choices",
            "value": value,
            "questions": len(images),
            "images": len(set(images)),
            "choice_accuracy": mean_with_interval(right[inside], images),
            "chance": round(float(chance[inside].mean()), 2),
            "chosen": times_chosen,
        }

    everything = entry("all", np.full(len(pairs), True), sum(place is not None for place in chosen))
    return [everything | {"out_of_vocabulary": out_of_vocabulary}] + [
        entry(letter_of(place), np.array([other == place for other in places]), chosen.count(place))
        for place in sorted({place for place in places if place is not None})
    ]


def _right_identities(row: Mapping[str, Any]) -> set[str]:
    return {answer_identity(answer) for answer in row.get("answers") or [row["answer"]]}


def _is_right(row: Mapping[str, Any], prediction: str) -> bool:
    return answer_identity(prediction) in _right_identities(row)


def _place(row: Mapping[str, Any], answer: str) -> int | None:
    """The number of an answer among the row's options, None where it is none of them."""
    identity = answer_identity(answer)
    return next((i for i, text in enumerate(row.get("choices") or ()) if answer_identity(text) == identity), None)
