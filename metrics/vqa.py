"""Figures of visual question answering: SQuAD v2 scores in all and by answer type, and the baseline beside them.

All figures are percentages of questions. An answer type that no row has is left out.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from metrics.squad_v2.scoring import squad_v2_scores

ANSWER_TYPES = ("OPEN", "CLOSED")


def score_answers(
    rows: Sequence[Mapping[str, Any]],
    predictions: Sequence[str],
    no_answer_probabilities: Sequence[float] | None = None,
) -> dict[str, float]:
    """SQuAD v2 scores of predicted answers.

    Args:
        rows: with `answer` (gold, "" = no answer) and `answer_type`.
        predictions: one answer a row.
        no_answer_probabilities: one a row, for the best thresholds; 0 by default.

    Returns:
        `exact_match`, `f1`, `total`, the same with `open_` and `closed_` before them, and where there are rows without
        an answer `HasAns_*`, `NoAns_*` and the best thresholds as the `squad_v2` module names them.
    """
    scores = _squad_v2(rows, predictions, no_answer_probabilities)
    metrics = {"exact_match": scores["exact"], "f1": scores["f1"], "total": scores["total"]}
    for answer_type in ANSWER_TYPES:
        chosen = [i for i, row in enumerate(rows) if row["answer_type"] == answer_type]
        if chosen:
            group = _squad_v2([rows[i] for i in chosen], [predictions[i] for i in chosen])
            name = answer_type.lower()
            metrics |= {f"{name}_exact_match": group["exact"], f"{name}_f1": group["f1"]}
            metrics[f"{name}_total"] = group["total"]
    if "NoAns_total" in scores:
        metrics |= {name: value for name, value in scores.items() if name not in ("exact", "f1", "total")}
    return metrics


def _squad_v2(
    rows: Sequence[Mapping[str, Any]],
    predictions: Sequence[str],
    no_answer_probabilities: Sequence[float] | None = None,
) -> dict[str, float]:
    probabilities = no_answer_probabilities or [0.0] * len(rows)
    return squad_v2_scores(
        [
            {"id": str(i), "prediction_text": text, "no_answer_probability": float(probability)}
            for i, (text, probability) in enumerate(zip(predictions, probabilities, strict=True))
        ],
        [
            {"id": str(i), "answers": {"text": [row["answer"]] if row["answer"] else [], "answer_start": []}}
            for i, row in enumerate(rows)
        ],
    )


def majority_answers(train_rows: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The question-only baseline: the most frequent training answer to the very same question, else of all questions.

    Ties go to the answer that is first in the alphabet.
    """
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for row in train_rows:
        by_question[row["question"].lower()][row["answer"]] += 1
        overall[row["answer"]] += 1

    def most_frequent(counts: Counter[str]) -> str:
        return min(counts, key=lambda answer: (-counts[answer], answer), default="")

    majority = {question: most_frequent(counts) for question, counts in by_question.items()}
    fallback = most_frequent(overall)
    return [majority.get(row["question"].lower(), fallback) for row in rows]


def classification_metrics(
    rows: Mapping[int, Mapping[str, Any]], id2label: Mapping[int, str]
) -> Callable[[Any], dict[str, float]]:
    """The `compute_metrics` hook of a classifier over an answer vocabulary.

    Args:
        rows: rows of all splits by their `row` number.
        id2label: the answer vocabulary.

    Returns:
        A function of an `EvalPrediction` whose `predictions` are label ids, confidences and no-answer probabilities,
        ``(N,)`` each, and whose `label_ids` are row numbers ``(N,)``.
    """

    def compute_metrics(evaluation: Any) -> dict[str, float]:
        label_ids, _, no_answer = evaluation.predictions
        return score_answers(
            [rows[int(number)] for number in evaluation.label_ids],
            [id2label[int(label)] for label in label_ids],
            [float(probability) for probability in no_answer],
        )

    return compute_metrics


def generation_metrics(
    rows: Mapping[int, Mapping[str, Any]], decode: Callable[[Any], list[str]], candidates: Sequence[str] = ()
) -> Callable[[Any], dict[str, float]]:
    """The `compute_metrics` hook of a model that writes its answers or chooses them among candidates.

    Args:
        rows: rows of all splits by their `row` number.
        decode: tokens ``(N, T)`` to answers.
        candidates: what can be chosen.

    Returns:
        A function of an `EvalPrediction` whose `predictions` are tokens ``(N, T)``, confidences ``(N,)`` and, with
        candidates, the numbers of the chosen ones ``(N,)`` and their probabilities, and whose `label_ids` are row
        numbers ``(N,)``. Its figures are those of the choice, and `generated_exact_match` and `generated_f1` stand
        beside them; without candidates they are those of the written answers.
    """

    def compute_metrics(evaluation: Any) -> dict[str, float]:
        gold = [rows[int(number)] for number in evaluation.label_ids]
        generated = score_answers(gold, decode(evaluation.predictions[0]))
        if not candidates:
            return generated
        chosen = score_answers(gold, [candidates[int(number)] for number in evaluation.predictions[2]])
        return chosen | {f"generated_{name}": generated[name] for name in ("exact_match", "f1")}

    return compute_metrics
