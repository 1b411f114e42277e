"""Whether a confidence can be trusted: calibration, and abstention below a threshold.

`confidences` are 0 to 1, ``(N,)``. `correct` is 1 where an answer is right (`metrics.vqa.ScoredAnswers`) and 0
elsewhere, ``(N,)``.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from metrics.intervals import LEVEL, error_bound

BINS = 15
TEMPERATURES = np.geomspace(0.25, 4, 65)  # in steps of 4 %; the middle one is 1
MIN_ANSWERS = 100  # the fewest that a model is calibrated on
TINY = 1e-6  # confidences are clipped to TINY and 1 - TINY, so that their log-odds are finite


class Bin(NamedTuple):
    """A bar of the reliability diagram."""

    low: float  # confidences above it, except that the first bin holds 0
    high: float  # and up to it
    answers: int
    confidence: float  # mean
    accuracy: float  # share of right answers


def reliability(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The bins of equal width ``(low, high]`` that hold an answer. The first one also holds a confidence of 0."""
    numbers = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    diagram = []
    for number in np.unique(numbers):
        inside = numbers == number
        diagram.append(
            Bin(
                low=float(number / bins),
                high=float((number + 1) / bins),
                answers=int(inside.sum()),
                confidence=float(confidences[inside].mean()),
                accuracy=float(correct[inside].mean()),
            )
        )
    return diagram


def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (ECE), 0 to 1.

    It is the mean distance of confidence and accuracy over bins of equal width, weighted by the answers in them
    (Naeini et al. 2015; Guo et al. 2017, https://arxiv.org/abs/1706.04599).
    """
    diagram = reliability(confidences, correct, bins)
    return sum(part.answers * abs(part.confidence - part.accuracy) for part in diagram) / len(confidences)


def log_loss(confidences: np.ndarray, correct: np.ndarray) -> float:
    """The mean negative log-likelihood of an answer being right or wrong, in nats."""
    clipped = np.clip(confidences, TINY, 1 - TINY)
    return float(-np.where(correct > 0, np.log(clipped), np.log1p(-clipped)).mean())


def best_temperature(confidences: np.ndarray, correct: np.ndarray) -> float:
    """Temperature scaling: the one of `TEMPERATURES` with the least `log_loss`.

    Guo et al. 2017 minimise the negative log-likelihood of the gold answer instead.

    Args:
        confidences: at each temperature, ``(N, temperatures)``.
        correct: ``(N,)``.
    """
    return float(TEMPERATURES[np.argmin([log_loss(column, correct) for column in confidences.T])])


def fit_scale(confidences: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    """Platt scaling: the slope and offset of the log-odds with the least `log_loss`.

    It serves models without the logits of other answers, which a temperature would divide (Platt 1999, "Probabilistic
    Outputs for Support Vector Machines").
    """
    odds = logit(np.clip(confidences, TINY, 1 - TINY))
    slope, offset = minimize(lambda scale: log_loss(expit(scale[0] * odds + scale[1]), correct), [1.0, 0.0]).x
    return float(slope), float(offset)


def scaled(confidences: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """Confidences with their log-odds scaled by the slope and offset of `fit_scale`."""
    return expit(slope * logit(np.clip(confidences, TINY, 1 - TINY)) + offset)


class RiskCoverage(NamedTuple):
    """Risk against coverage: entry i is for answering the i + 1 questions of the highest confidence only."""

    thresholds: np.ndarray  # (N,) lowest confidence among the questions answered
    coverage: np.ndarray  # (N,) share of the questions that is answered
    risk: np.ndarray  # (N,) share of wrong ones among the answers

    @property
    def area(self) -> float:
        """AURC: the mean risk over all coverages (Geifman, El-Yaniv 2017, https://arxiv.org/abs/1705.08500)."""
        return float(self.risk.mean())

    def coverage_at(self, risk: float) -> tuple[float, float]:
        """The largest coverage of at most that risk, and its threshold.

        Returns:
            ``(0, inf)`` where every coverage has a higher risk.
        """
        # A threshold answers all questions of one confidence, so only the last of them is a coverage that exists.
        last_of_equals = np.append(np.diff(self.thresholds), -1) != 0
        within = np.flatnonzero((self.risk <= risk) & last_of_equals)
        if not len(within):
            return 0.0, math.inf
        return float(self.coverage[within[-1]]), float(self.thresholds[within[-1]])


def risk_coverage(confidences: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """The curve of risk against coverage.

    Answers of equal confidence share their errors evenly, so that their order does not matter.
    """
    order = np.argsort(-confidences, kind="stable")
    thresholds, wrong = confidences[order], 1.0 - correct[order]
    _, index, counts = np.unique(thresholds, return_inverse=True, return_counts=True)
    wrong = (np.bincount(index, wrong) / counts)[index]
    numbers = np.arange(1, len(order) + 1)
    return RiskCoverage(thresholds, numbers / len(order), wrong.cumsum() / numbers)


class Abstention(NamedTuple):
    """A confidence threshold below which a model gives no answer."""

    threshold: float
    coverage: float  # share of the questions that is answered
    risk: float  # share of wrong ones among the answers
    bound: float  # upper bound of the true risk, at the level of confidence that was asked for


def choose_threshold(
    confidences: np.ndarray, correct: np.ndarray, target_risk: float, confidence: float = LEVEL
) -> Abstention | None:
    """The threshold with the largest coverage that guarantees a risk of at most `target_risk`.

    "Selection with guaranteed risk" of Geifman and El-Yaniv 2017, algorithm 1: a binary search. The doubt
    ``1 - confidence`` is divided among its steps, because a threshold chosen among many by its own bound would break
    the guarantee too often.

    Args:
        confidences, correct: of validation rows.
        target_risk: the highest share of wrong ones among the answers, 0 to 1.
        confidence: the probability that the guarantee holds.

    Returns:
        None where no threshold gives the guarantee.
    """
    thresholds = np.sort(confidences)[::-1]
    steps = math.ceil(math.log2(len(thresholds) + 1))
    low, high, found = 0, len(thresholds), None
    for _ in range(steps):
        if low >= high:
            break
        number = (low + high + 1) // 2
        threshold = thresholds[number - 1]
        answered = confidences >= threshold
        total, errors = int(answered.sum()), int((1 - correct[answered]).sum())
        bound = error_bound(errors, total, 1 - (1 - confidence) / steps)
        if bound <= target_risk:
            low = number
            found = Abstention(float(threshold), total / len(confidences), errors / total, bound)
        else:
            high = number - 1
    return found


def describe_abstention(abstention: Abstention | None) -> str:
    """What `choose_threshold` found, in a sentence."""
    if abstention is None:
        return "no threshold keeps it on the validation rows, so the model answers every question."
    return (
        f"silent below a confidence of {abstention.threshold:.3f}. The model answers {abstention.coverage:.1%} of the "
        f"validation rows, and {abstention.risk:.1%} of these answers are wrong. On other rows of this kind at most "
        f"{abstention.bound:.1%} are."
    )
