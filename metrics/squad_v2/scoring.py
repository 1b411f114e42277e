"""Exact Match and F1 as SQuAD v2 defines them, in plain Python.

This file imports neither `evaluate` nor torch, so a caller who only wants the scores does not load them.

Source: Rajpurkar, Jia, Liang (2018), "Know What You Don't Know: Unanswerable Questions for SQuAD",
https://arxiv.org/abs/1806.03822, and the behaviour of its evaluation script, version 2.0.
"""

import logging
import math
import re
import string
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import accumulate
from operator import attrgetter, itemgetter
from typing import NamedTuple, TypedDict

logger = logging.getLogger(__name__)

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


class Prediction(TypedDict):
    """An answer of a model, and the probability that it gives to "no answer"."""

    id: str
    prediction_text: str
    no_answer_probability: float


class Answers(TypedDict):
    """Gold answers; an empty `text` marks a question without an answer."""

    text: list[str]
    answer_start: list[int]


class Reference(TypedDict):
    """The gold answers of one question."""

    id: str
    answers: Answers


class ScoredQuestion(NamedTuple):
    """One question's scores (0 to 1) before any threshold is applied."""

    exact: float
    f1: float
    has_answer: bool
    is_answered: bool
    no_answer_probability: float


def normalize_answer(text: str) -> str:
    """Lowers the case, drops ASCII punctuation, then the words a, an, the, and squeezes whitespace."""
    # The order matters: without its hyphen, "type-A" has no article.
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_score(prediction: str, gold: str) -> float:
    """1.0 where both answers are the same after `normalize_answer`, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(gold))


def f1_score(prediction: str, gold: str) -> float:
    """F1 over the bags of tokens of both normalised answers, 0 to 1.

    With c tokens in common (counted as often as both hold them), P = c / |prediction|, R = c / |gold|:
    F1 = 2 P R / (P + R). If either answer normalises to nothing, F1 is 1 where both do and 0 otherwise.
    """
    return _token_f1(normalize_answer(prediction), normalize_answer(gold))


def squad_v2_scores(
    predictions: Collection[Prediction], references: Collection[Reference], no_answer_threshold: float = 1.0
) -> dict[str, float]:
    """All SQuAD v2 figures, in percent, in the order of the official metric.

    Args:
        predictions: one for each question. Of several with the same id the last one counts.
        references: one for each question. Of several with the same id the last one counts.
        no_answer_threshold: a prediction with a `no_answer_probability` strictly above it counts as "no answer".

    Returns:
        `exact`, `f1` and `total` of all questions; the same with `HasAns_` in front of questions with an answer and
        with `NoAns_` in front of those without, if there are any; `best_exact`, `best_exact_thresh`, `best_f1` and
        `best_f1_thresh`. Totals are counts, thresholds are probabilities.

    Raises:
        ValueError: there is nothing to score, or a prediction has no text or no probability.
    """
    prediction_of = {prediction["id"]: prediction for prediction in predictions}
    reference_of = {reference["id"]: reference for reference in references}
    missing = [id_ for id_ in reference_of if id_ not in prediction_of]
    _warn(missing, repeated=len(predictions) - len(prediction_of) + len(references) - len(reference_of))

    scored = {
        id_: _score_question(prediction_of[id_], reference)
        for id_, reference in reference_of.items()
        if id_ in prediction_of
    }
    if not scored:
        raise ValueError(
            f"No question to score: {len(references)} references and {len(predictions)} predictions share no id."
        )

    figures: dict[str, float] = {}
    questions = list(scored.values())
    for prefix, group in (
        ("", questions),
        ("HasAns_", [question for question in questions if question.has_answer]),
        ("NoAns_", [question for question in questions if not question.has_answer]),
    ):
        if group:
            figures |= _group_figures(prefix, group, no_answer_threshold)

    # The order of the predictions decides between equal probabilities.
    in_prediction_order = [scored[id_] for id_ in prediction_of if id_ in scored]
    for name in ("exact", "f1"):
        figures[f"best_{name}"], figures[f"best_{name}_thresh"] = _best_threshold(in_prediction_order, name)
    return figures


def _token_f1(normalized_prediction: str, normalized_gold: str) -> float:
    prediction_tokens, gold_tokens = normalized_prediction.split(), normalized_gold.split()
    if not prediction_tokens or not gold_tokens:
        return float(prediction_tokens == gold_tokens)
    common = (Counter(prediction_tokens) & Counter(gold_tokens)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(prediction_tokens), common / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def _score_question(prediction: Prediction, reference: Reference) -> ScoredQuestion:
    """The scores against the gold answer that fits best."""
    text, probability = prediction["prediction_text"], prediction["no_answer_probability"]
    if text is None or probability is None or math.isnan(probability):
        raise ValueError(
            f"Prediction {prediction['id']!r} needs a prediction_text (empty for no answer) and a "
            f"no_answer_probability (0.0 if the model has none), got {text!r} and {probability!r}."
        )
    golds = reference["answers"]["text"] or []
    normalized_text = normalize_answer(text)
    # Otherwise an empty answer would match a gold answer such as "the".
    normalized_golds = [normalized for gold in golds if (normalized := normalize_answer(gold))] or [""]
    return ScoredQuestion(
        exact=float(normalized_text in normalized_golds),
        f1=max(_token_f1(normalized_text, gold) for gold in normalized_golds),
        # Not the normalised ones: [""] is a question with an answer, and only [] is one without.
        has_answer=bool(golds),
        is_answered=bool(text),
        no_answer_probability=probability,
    )


def _group_figures(prefix: str, group: Sequence[ScoredQuestion], threshold: float) -> dict[str, float]:
    def percent(name: str) -> float:
        scores = (
            float(not question.has_answer) if question.no_answer_probability > threshold else getattr(question, name)
            for question in group
        )
        return 100.0 * sum(scores) / len(group)

    return {f"{prefix}exact": percent("exact"), f"{prefix}f1": percent("f1"), f"{prefix}total": len(group)}


def _best_threshold(questions: Sequence[ScoredQuestion], name: str) -> tuple[float, float]:
    """The best score in percent that a threshold can reach, and the lowest threshold that reaches it.

    The search starts at the threshold 0.0, where every question counts as "no answer": a point for each question
    without an answer. Then predictions are counted by rising probability. A question with an answer adds its score. A
    question without an answer takes a point if its prediction is not the empty string, whatever that normalises to.
    Predictions of equal probability are counted one by one, as in the official script, so the best score may lie
    between two that no threshold separates.
    """
    rising = sorted(questions, key=attrgetter("no_answer_probability"))
    gains = (getattr(question, name) if question.has_answer else -float(question.is_answered) for question in rising)
    totals = accumulate(gains, initial=float(sum(not question.has_answer for question in questions)))
    thresholds = [0.0, *(question.no_answer_probability for question in rising)]
    # max keeps the first of equal totals.
    best_total, threshold = max(zip(totals, thresholds, strict=True), key=itemgetter(0))
    return 100.0 * best_total / len(questions), threshold


def _warn(missing: Sequence[str], repeated: int) -> None:
    if missing:
        logger.warning(
            "Missing prediction for %d questions (the first is %r): no figure counts them.", len(missing), missing[0]
        )
    if repeated:
        logger.warning("%d ids occur more than once: the last prediction or reference counts.", repeated)
