"""Scores of answers to questions about images, baselines, and what the Trainer calls to evaluate.

The score of one answer is 0 to 1. A figure of many questions is a percentage.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metrics import cmrc
from metrics.accuracy import is_accurate
from metrics.choices import choice_accuracy, chosen_answers, count_unknown, own_spelling
from metrics.squad_v2.scoring import exact_score, f1_score, normalize_answer, squad_v2_scores
from processing.answers import same_signs
from processing.errors import UserError

ANSWER_TYPES = ("OPEN", "CLOSED")


def golds(row: Mapping[str, Any]) -> list[str]:
    """The gold answers of a row, of which the best match counts: its `answers`, or `answer` where it has no several.

    As in SQuAD v2, one of several that normalises to nothing, such as "the", does not count beside others.
    """
    several = row.get("answers") or [row["answer"]]
    return [answer for answer in several if normalize_answer(answer)] or several


def score_answers(
    rows: Sequence[Mapping[str, Any]],
    predictions: Sequence[str],
    no_answer_probabilities: Sequence[float] | None = None,
) -> dict[str, float]:
    """Figures of predicted answers.

    Args:
        rows: with `answer` (gold, "" = no answer), `answer_type` and `language`; some may have several `answers`, of
            which the best match counts, or `choices`.
        predictions: one answer a row.
        no_answer_probabilities: one a row, for the best thresholds; 0 by default.

    Returns:
        `exact_match` and `f1` (see `answer_scores`), `accuracy` (see `metrics.accuracy`) and `total` of all rows;
        `exact_match`, `f1` and `total` with `open_` or `closed_` in front of the rows of an answer type, if there are
        any. Where there are rows with `choices` also `choice_accuracy` and `choice_total` (see `metrics.choices`).
        Where rows have an `overlap` with the training rows (`processing.splits.overlaps`) also `exact_match`, `f1`,
        `accuracy` and `total` with `no_neighbour_` in front, of those whose image has no near neighbour in training,
        and where the very image of some is in training, with `new_image_` in front of the others.
        Where there are rows in Chinese also `squad_v2_exact` and `squad_v2_f1`, which compare words in all languages.
        Where there are rows without an answer also `HasAns_*`, `NoAns_*` and the best thresholds, as the
        `squad_v2` module names them; they compare words too.

    Raises:
        ValueError: the lengths differ, or there are no rows.
    """
    if not len(rows):
        raise ValueError("There are no rows to score.")
    scores = all_scores(rows, predictions)
    accurate = are_accurate(rows, predictions)
    metrics = _exact_match_and_f1(scores) | {"accuracy": 100.0 * sum(accurate) / len(rows), "total": len(rows)}
    for answer_type in ANSWER_TYPES:
        chosen = [i for i, row in enumerate(rows) if row["answer_type"] == answer_type]
        if chosen:
            group = _exact_match_and_f1(scores[chosen]) | {"total": len(chosen)}
            metrics |= {f"{answer_type.lower()}_{name}": value for name, value in group.items()}
    metrics |= choice_accuracy(rows, predictions) | _by_overlap(rows, scores, accurate)
    in_chinese = any(row["language"] == "zh" for row in rows)
    without_answer = any(not row["answer"] for row in rows)
    if in_chinese or without_answer:
        squad_v2 = _squad_v2(rows, predictions, no_answer_probabilities)
        if in_chinese:
            metrics |= {"squad_v2_exact": squad_v2["exact"], "squad_v2_f1": squad_v2["f1"]}
        if without_answer:
            metrics |= {name: value for name, value in squad_v2.items() if name not in ("exact", "f1", "total")}
    return metrics


def _by_overlap(rows: Sequence[Mapping[str, Any]], scores: np.ndarray, accurate: Sequence[bool]) -> dict[str, float]:
    """The figures with `no_neighbour_` and `new_image_` in front."""
    overlaps = [row.get("overlap") for row in rows]
    parts: dict[str, tuple[str, ...]] = {"no_neighbour": ("none",)} if any(overlaps) else {}
    if "same" in overlaps:
        parts["new_image"] = ("none", "near")
    metrics: dict[str, float] = {}
    for part, kinds in parts.items():
        chosen = [i for i, overlap in enumerate(overlaps) if overlap in kinds]
        figures: dict[str, float] = {"total": len(chosen)}
        if chosen:
            right = sum(accurate[i] for i in chosen)
            figures |= _exact_match_and_f1(scores[chosen]) | {"accuracy": 100.0 * right / len(chosen)}
        metrics |= {f"{part}_{name}": value for name, value in figures.items()}
    return metrics


def _exact_match_and_f1(scores: np.ndarray) -> dict[str, float]:
    """Both in percent, of what `all_scores` returns."""
    exact_match, f1 = (100.0 * sum(scores[:, column].tolist()) / len(scores) for column in (0, 1))
    return {"exact_match": exact_match, "f1": f1}


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
            {"id": str(i), "answers": {"text": golds(row) if row["answer"] else [], "answer_start": []}}
            for i, row in enumerate(rows)
        ],
    )


class AnswerScores(NamedTuple):
    """Scores of one answer, 0 to 1."""

    exact_match: float
    f1: float
    llava_med_recall: float
    bleu_1: float


def answer_scores(prediction: str, gold: str, language: str | None = None) -> AnswerScores:
    """Scores an answer.

    Exact Match and F1 compare words, as SQuAD v2 does. In Chinese (`language` zh) they compare characters, as CMRC
    2018 does. The other two compare words in every language, after SQuAD's normalisation.

    `llava_med_recall` is the recall that LLaVA-Med (Li et al. 2023, https://arxiv.org/abs/2306.00890) reports for OPEN
    questions: t / (t + m), with t the words of the prediction that the gold answer has, and m the gold words that the
    prediction does not have. `bleu_1` is BLEU (Papineni et al. 2002) of single words.
    """
    exact, f1 = (cmrc.exact_score, cmrc.f1_score) if language == "zh" else (exact_score, f1_score)
    words, expected = (Counter(normalize_answer(text).split()) for text in (prediction, gold))
    found = sum(count for word, count in words.items() if word in expected)
    missing = sum(count for word, count in expected.items() if word not in words)
    recall = found / (found + missing) if found else 0.0
    bleu = 0.0
    if found:
        length, brevity = words.total(), min(0.0, 1 - expected.total() / words.total())
        bleu = (words & expected).total() / length * math.exp(brevity)
    return AnswerScores(exact(prediction, gold), f1(prediction, gold), recall, bleu)


def all_scores(rows: Sequence[Mapping[str, Any]], predictions: Sequence[str]) -> np.ndarray:
    """The `answer_scores` of one prediction a row, ``(N, 4)``; each is the best over the gold answers of the row.

    Args:
        rows: with `answer` and `language`; some may have `answers`.

    Raises:
        ValueError: the lengths differ.
    """
    return np.array([_scores_by_gold(row, text).max(0) for row, text in zip(rows, predictions, strict=True)])


def _scores_by_gold(row: Mapping[str, Any], prediction: str) -> np.ndarray:
    return np.array([answer_scores(prediction, gold, row["language"]) for gold in golds(row)])


def are_accurate(rows: Iterable[Mapping[str, Any]], predictions: Iterable[str]) -> list[bool]:
    """Whether each prediction is one of the gold answers by `metrics.accuracy.is_accurate`."""
    pairs = zip(rows, predictions, strict=True)
    return [any(is_accurate(text, gold) for gold in golds(row)) for row, text in pairs]


class ScoredAnswers(NamedTuple):
    """Answers to the questions of a split, scored once."""

    rows: Sequence[Mapping[str, Any]]
    predictions: Sequence[str]
    confidences: np.ndarray  # (N,), 0 to 1
    scores: np.ndarray  # (N, 4), of `all_scores`
    correct: np.ndarray  # (N,), 1 where an answer is an exact match with the signs of a gold answer, else 0


def score_each(
    rows: Sequence[Mapping[str, Any]], predictions: Sequence[str], confidences: Sequence[float]
) -> ScoredAnswers:
    """Scores the answers to the questions of a split, once for all that need the scores.

    Exact Match ignores signs, so it alone would call HER2- right where HER2+ is. `correct` does not.

    Args:
        rows: with `answer` and `language`; some may have `answers`. What reads the scored answers may need more
            columns.
        predictions: one answer a row.
        confidences: one a row, 0 to 1.

    Raises:
        ValueError: the lengths differ.
    """
    if len(confidences) != len(rows):
        raise ValueError(f"{len(rows)} rows have {len(confidences)} confidences; each row needs one.")
    by_gold = [(golds(row), _scores_by_gold(row, text)) for row, text in zip(rows, predictions, strict=True)]
    scores = np.array([scores.max(0) for _, scores in by_gold])
    correct = [
        max(exact * same_signs(text, gold) for gold, exact in zip(texts, scores[:, 0], strict=True))
        for text, (texts, scores) in zip(predictions, by_gold, strict=True)
    ]
    return ScoredAnswers(rows, predictions, np.asarray(confidences, dtype=float), scores, np.array(correct))


def majority_answers(train_rows: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The question-only baseline: the most frequent training answer to the very same question.

    A question that no training row asks gets the most frequent answer of all training rows. Ties go to the answer that
    is first in the alphabet.
    """
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for row in train_rows:
        by_question[row["question"].lower()][row["answer"]] += 1
        overall[row["answer"]] += 1

    majority = {question: _most_frequent(counts) for question, counts in by_question.items()}
    fallback = _most_frequent(overall)
    return [majority.get(row["question"].lower(), fallback) for row in rows]


def most_frequent_answer(train_rows: Iterable[Mapping[str, Any]]) -> str:
    """The baseline that reads neither question nor image: the most frequent training answer.

    Ties go to the answer that is first in the alphabet. Without rows it is "".
    """
    return _most_frequent(Counter(row["answer"] for row in train_rows))


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer), default="")


def _check_numbers(confidences: np.ndarray) -> None:
    """Refuses the answers of a model whose weights are no numbers any more."""
    if np.isnan(confidences).any():
        raise UserError(
            "The model's confidences are no numbers (NaN), so its training has diverged; use a smaller "
            "--learning_rate, or --bf16 True instead of FP16."
        )


def classification_metrics(
    rows: Mapping[int, Mapping[str, Any]], id2label: Mapping[int, str]
) -> Callable[[Any], dict[str, float]]:
    """The `compute_metrics` hook of a classifier over an answer vocabulary.

    Args:
        rows: rows of all splits by their `row` number.
        id2label: the answer vocabulary.

    Returns:
        A function of an `EvalPrediction`. Its `predictions` are label ids ``(N,)``, confidences and the probabilities
        of "no answer" ``(N,)``. Its `label_ids` are row numbers ``(N,)``. The figures have those of
        `metrics.choices.count_unknown` too.
    """

    def compute_metrics(evaluation: Any) -> dict[str, float]:
        label_ids, confidences, no_answer = evaluation.predictions
        _check_numbers(confidences)
        gold = [rows[int(number)] for number in evaluation.label_ids]
        answers = [own_spelling(row, id2label[int(label)]) for row, label in zip(gold, label_ids, strict=True)]
        figures = score_answers(gold, answers, [float(probability) for probability in no_answer])
        return figures | count_unknown(gold, list(id2label.values()))

    return compute_metrics


def generation_metrics(
    rows: Mapping[int, Mapping[str, Any]], decode: Callable[[Any], list[str]], candidates: Sequence[str] = ()
) -> Callable[[Any], dict[str, float]]:
    """The `compute_metrics` hook of a model that writes answers, or chooses them among a row's choices or candidates.

    Args:
        rows: rows of all splits by their `row` number.
        decode: tokens ``(N, T)`` to answers.
        candidates: the answers to choose among where a row has no `choices`; empty for a model that writes them.

    Returns:
        A function of an `EvalPrediction`. Its `predictions` are tokens ``(N, T)`` and confidences ``(N,)``. With
        candidates or choices they are also the numbers of the chosen ones ``(N,)``, as
        `metrics.choices.chosen_answers` takes them, and confidences of these answers ``(N,)``. Its `label_ids` are row
        numbers ``(N,)``.

        The figures are those of the written answers. With candidates or choices they are those of the chosen ones.
        With candidates `generated_exact_match` and `generated_f1` are added, of the written answers to the rows
        without choices. The probability of "no answer" is taken to be 1 - confidence.
    """

    def compute_metrics(evaluation: Any) -> dict[str, float]:
        gold = [rows[int(number)] for number in evaluation.label_ids]
        tokens, confidence, *choice = evaluation.predictions
        _check_numbers(confidence)
        written = answers = decode(tokens)
        if choice:
            numbers, confidence = choice
            _check_numbers(confidence)
            answers = chosen_answers(gold, numbers.tolist(), candidates, written)
        figures = score_answers(gold, answers, (1 - confidence).tolist())
        free = [i for i, row in enumerate(gold) if not row.get("choices")]
        if candidates and free:
            generated = score_answers([gold[i] for i in free], [written[i] for i in free])
            figures |= {f"generated_{name}": generated[name] for name in ("exact_match", "f1")}
        return figures

    return compute_metrics
