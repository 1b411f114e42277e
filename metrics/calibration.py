"""Whether confidence means something: calibration, and what silence below a threshold would bring.

`confidences` are 0 to 1, ``(N,)``, and `correct` is 0 or 1, ``(N,)``: whether an answer is an exact match.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from metrics.intervals import LEVEL, error_bound

BINS = 15
TEMPERATURES = np.geomspace(0.25, 4, 65)  # in steps of 4 %; the middle one is 1
MIN_ANSWERS = 100  # fewer say too little to calibrate by
TINY = 1e-6  # confidences nearer to 0 or 1 count as that near


class Bin(NamedTuple):
    """A bar of the reliability diagram."""

    low: float
    high: float
    answers: int
    confidence: float  # mean
    accuracy: float


def reliability(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The bins of equal width ``(low, high]`` that hold an answer; 0 belongs to the first."""
    places = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for i in np.unique(places):
        inside = places == i
        means = float(confidences[inside].mean()), float(correct[inside].mean())
        found.append(Bin(float(i / bins), float((i + 1) / bins), int(inside.sum()), *means))
    return found


def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """ECE: the mean distance of confidence and accuracy over bins of equal width, weighted by their answers, 0 to 1
    (Naeini et al. 2015; Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""
    found = reliability(confidences, correct, bins)
    return sum(part.answers * abs(part.confidence - part.accuracy) for part in found) / len(confidences)


def log_loss(confidences: np.ndarray, correct: np.ndarray) -> float:
    """The mean negative log-likelihood of right and wrong, in nats."""
    clipped = np.clip(confidences, TINY, 1 - TINY)
    return float(-np.where(correct > 0, np.log(clipped), np.log1p(-clipped)).mean())


def best_temperature(confidences: np.ndarray, correct: np.ndarray) -> float:
    """The one of `TEMPERATURES` that gives answers the least `log_loss` (temperature scaling, Guo et al. 2017, there
    with the likelihood of the gold answer).

    Args:
        confidences: of the answers at each of them, ``(N, temperatures)``.
    """
    return float(TEMPERATURES[np.argmin([log_loss(column, correct) for column in confidences.T])])


def fit_scale(confidences: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the log-odds of confidences with the least `log_loss`, where there are no logits of other
    answers to divide (Platt 1999, "Probabilistic Outputs for Support Vector Machines")."""
    odds = logit(np.clip(confidences, TINY, 1 - TINY))
    slope, offset = minimize(lambda scale: log_loss(expit(scale[0] * odds + scale[1]), correct), [1.0, 0.0]).x
    return float(slope), float(offset)


def scaled(confidences: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """Confidences whose log-odds are scaled by `fit_scale`."""
    return expit(slope * logit(np.clip(confidences, TINY, 1 - TINY)) + offset)


class RiskCoverage(NamedTuple):
    """What answering the surest questions alone would bring, for every number of them, the surest first."""

    thresholds: np.ndarray  # (N,) confidence of the last one answered
    coverage: np.ndarray  # (N,) share that is answered
    risk: np.ndarray  # (N,) share of wrong ones among them

    @property
    def area(self) -> float:
        """AURC: the mean risk over all coverages (Geifman, El-Yaniv 2017, https://arxiv.org/abs/1705.08500)."""
        return float(self.risk.mean())

    def coverage_at(self, risk: float) -> tuple[float, float]:
        """The largest coverage with at most that risk, and its threshold; ``(0, inf)`` where there is none."""
        within = np.flatnonzero((self.risk <= risk) & (np.append(np.diff(self.thresholds), -1) != 0))
        if not len(within):
            return 0.0, math.inf
        return float(self.coverage[within[-1]]), float(self.thresholds[within[-1]])


def risk_coverage(confidences: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """The curve of risk against coverage. Answers of the same confidence share their errors, so that their order does
    not matter."""
    order = np.argsort(-confidences, kind="stable")
    thresholds, wrong = confidences[order], 1.0 - correct[order]
    _, index, counts = np.unique(thresholds, return_inverse=True, return_counts=True)
    wrong = (np.bincount(index, wrong) / counts)[index]
    numbers = np.arange(1, len(order) + 1)
    return RiskCoverage(thresholds, numbers / len(order), wrong.cumsum() / numbers)


class Abstention(NamedTuple):
    """A threshold below which a model stays silent."""

    threshold: float  # of the confidence
    coverage: float  # share of questions that it answers
    risk: float  # share of wrong ones among these
    bound: float  # with the confidence asked for, the true risk is at most that


def choose_threshold(
    confidences: np.ndarray, correct: np.ndarray, target_risk: float, confidence: float = LEVEL
) -> Abstention | None:
    """The threshold that answers most and keeps the promise that at most `target_risk` of the answers are wrong.

    "Selection with guaranteed risk" of Geifman and El-Yaniv 2017, algorithm 1: a binary search whose every look has
    its share of the doubt, as a threshold chosen from many by its bound alone would break the promise too often.

    Returns:
        None where no threshold keeps it.
    """
    thresholds = np.sort(confidences)[::-1]
    looks = math.ceil(math.log2(len(thresholds) + 1))
    low, high, found = 0, len(thresholds), None
    for _ in range(looks):
        if low >= high:
            break
        number = (low + high + 1) // 2
        threshold = thresholds[number - 1]
        answered = confidences >= threshold
        total, errors = int(answered.sum()), int((1 - correct[answered]).sum())
        bound = error_bound(errors, total, 1 - (1 - confidence) / looks)
        if bound <= target_risk:
            low = number
            found = Abstention(float(threshold), total / len(confidences), errors / total, bound)
        else:
            high = number - 1
    return found


def describe_abstention(abstention: Abstention | None) -> str:
    """What `choose_threshold` found, in a sentence."""
    if abstention is None:
        return "no threshold keeps it on these validation rows, so the model answers everything."
    return (
        f"silent below a confidence of {abstention.threshold:.3f}; that answers {abstention.coverage:.1%} of the validation "
        f"rows, {abstention.risk:.1%} of these answers wrong, and on other rows of the kind at most {abstention.bound:.1%}."
    )
