"""Figures by kind of question, with their intervals."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from metrics.intervals import mean_with_interval
from metrics.squad_v2.scoring import normalize_answer
from metrics.vqa import ANSWER_TYPES, AnswerScores, ScoredAnswers, all_scores, are_accurate

KINDS = ("content_type", "modality", "location", "language")  # columns; each of their values is a kind of question
NEIGHBOUR = "near neighbour in training"
NO_NEIGHBOUR = "none"
SHARED, NOT_SHARED = "image shared with training", "no"
OVERLAPS = {"none": NO_NEIGHBOUR, "near": "yes", "same": "the same image"}  # by `processing.splits.OVERLAPS`
YES_NO = ("yes", "no", "是", "是的", "否", "不是")


def breakdown(answers: ScoredAnswers, baselines: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Figures of all questions and of each kind of question, in percent.

    Args:
        answers: their rows have `answer` (some also `answers`), `answer_type`, `image_id` and the columns of `KINDS`.
        baselines: other answers to the same rows, by name.

    Returns:
        An entry for each kind that a row has. `group` and `value` name the kind, mostly a column and a value of it.
        `questions` and `images` are counts. `exact_match`, `f1`, `accuracy` and, of OPEN questions, `llava_med_recall`
        and `bleu_1` are `[mean, low, high]` of `metrics.intervals.mean_with_interval`. `baselines` has the Exact Match
        of each baseline.
    """
    rows, scores = answers.rows, answers.scores
    accurate = np.array(are_accurate(rows, answers.predictions))
    exact_matches = {name: all_scores(rows, texts)[:, 0] for name, texts in baselines.items()}
    table = []
    for group, value, chosen in _kinds(rows):
        images = [rows[i]["image_id"] for i in chosen]
        figures = AnswerScores._fields if value == "OPEN" else AnswerScores._fields[:2]
        entry: dict[str, Any] = {"group": group, "value": value, "questions": len(chosen), "images": len(set(images))}
        for column, figure in enumerate(figures):
            entry[figure] = mean_with_interval(100 * scores[chosen, column], images)
        entry["accuracy"] = mean_with_interval(100.0 * accurate[chosen], images)
        entry["baselines"] = {
            name: round(100 * float(matches[chosen].mean()), 2) for name, matches in exact_matches.items()
        }
        table.append(entry)
    return table


def _kinds(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[int]]]:
    """Group, value and the numbers of the rows of each kind that has any."""
    yield "all", "", list(range(len(rows)))
    overlaps = [row.get("overlap") for row in rows]
    if "same" in overlaps:
        yield SHARED, NOT_SHARED, [i for i, overlap in enumerate(overlaps) if overlap in ("none", "near")]
    for overlap, value in OVERLAPS.items():
        if chosen := [i for i, found in enumerate(overlaps) if found == overlap]:
            yield NEIGHBOUR, value, chosen
    for answer_type in ANSWER_TYPES:
        if chosen := [i for i, row in enumerate(rows) if row["answer_type"] == answer_type]:
            yield "answer_type", answer_type, chosen
    for yes_no, value in ((True, "yes or no"), (False, "other CLOSED")):
        chosen = [
            i
            for i, row in enumerate(rows)
            if row["answer_type"] == "CLOSED" and (normalize_answer(row["answer"]) in YES_NO) == yes_no
        ]
        if chosen:
            yield "closed", value, chosen
    for column in KINDS:
        for column_value in sorted({row[column] for row in rows if row[column]}):
            yield column, column_value, [i for i, row in enumerate(rows) if row[column] == column_value]
