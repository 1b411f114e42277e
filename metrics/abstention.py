"""Abstention: which questions a model answers, and how many of its answers may be wrong.

`confidences` are 0 to 1, ``(N,)``. `correct` is 1 where an answer is right (`metrics.vqa.ScoredAnswers`) and 0
elsewhere, ``(N,)``. `images` names the image of each question, ``(N,)``.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metrics.intervals import LEVEL, clustered_error_bound, mean_with_interval

STEPS = 50  # coverages that are tried, evenly spaced
SILENT_EVERYWHERE = 2.0  # a threshold that no confidence reaches


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
    confidences: np.ndarray, correct: np.ndarray, images: Sequence[str], target_risk: float, confidence: float = LEVEL
) -> Abstention | None:
    """The threshold with the largest coverage whose risk is at most `target_risk`, with that much confidence.

    The bound of a risk is `metrics.intervals.clustered_error_bound`: images are independent, the questions of one are
    not. Thresholds are tested one after the other, each with a larger coverage, until a bound exceeds the target
    (fixed sequence testing; Angelopoulos et al. 2021, "Learn then Test", https://arxiv.org/abs/2110.01052). Only the
    first test of a threshold whose true risk is too high can break the promise, so each may use the whole doubt
    ``1 - confidence``. The sequence must not depend on what is right. It starts at the coverage whose bound would be
    lowest if the confidences were true: with fewer answers too few are known, with more too many are wrong.

    Args:
        confidences, correct, images: of validation rows.
        target_risk: the highest share of wrong ones among the answers, 0 to 1.
        confidence: the probability that the promise holds.

    Returns:
        None where the first threshold does not keep it.
    """
    _, index = np.unique(np.asarray(images), return_inverse=True)
    ranked = np.sort(confidences)[::-1]
    numbers = np.ceil(len(ranked) * np.arange(1, STEPS + 1) / STEPS).astype(int)
    thresholds = np.unique(ranked[numbers - 1])[::-1]
    doubts = 1 - confidences
    variances = confidences * doubts

    def bound(threshold: float, errors: np.ndarray, variances: np.ndarray) -> float:
        answered = confidences >= threshold
        of_images = np.bincount(index[answered], errors[answered]), np.bincount(index[answered])
        return clustered_error_bound(*of_images, confidence, variances[answered].sum())

    first = int(np.argmin([bound(threshold, doubts, variances) for threshold in thresholds]))
    found = None
    for threshold in thresholds[first:]:
        risk_bound = bound(threshold, 1 - correct, np.zeros(len(correct)))
        if risk_bound > target_risk:
            break
        answered = confidences >= threshold
        risk = 1 - float(correct[answered].mean())
        found = Abstention(float(threshold), float(answered.mean()), risk, risk_bound)
    return found


def describe_abstention(abstention: Abstention | None) -> str:
    """What `choose_threshold` found, in a sentence."""
    if abstention is None:
        return (
            "no threshold keeps it with 95 % certainty on so few validation images, or with so many wrong answers, so "
            "the model is saved to give no answer at all; train with a higher --target_risk or without it."
        )
    return (
        f"silent below a confidence of {abstention.threshold:.3f}. The model answers {abstention.coverage:.1%} of the "
        f"validation rows, and {abstention.risk:.1%} of these answers are wrong. On other images of this kind at most "
        f"{abstention.bound:.1%} are, with {LEVEL:.0%} certainty."
    )


def abstention_figures(
    confidences: np.ndarray,
    correct: np.ndarray,
    images: Sequence[str],
    threshold: float,
    target_risk: float | None = None,
) -> dict[str, Any]:
    """What a threshold does to a split.

    Returns:
        `threshold`; `target_risk`, 0 to 1, None where it is not known; `answers`, how many are given; `coverage` and
        `risk` as `[value, low, high]` of `metrics.intervals.mean_with_interval`, in percent. `risk` is None where
        there is no answer.
    """
    answered = confidences >= threshold
    shown = [image for image, given in zip(images, answered, strict=True) if given]
    return {
        "threshold": threshold,
        "target_risk": target_risk,
        "answers": int(answered.sum()),
        "coverage": mean_with_interval(100.0 * answered, images),
        "risk": mean_with_interval(100 * (1 - correct[answered]), shown) if shown else None,
    }
