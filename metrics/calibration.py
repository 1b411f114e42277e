"""Whether a confidence can be trusted: how far it is from accuracy, and the fits that bring it closer.

`confidences` are 0 to 1, ``(N,)``. `correct` is 1 where an answer is right (`metrics.vqa.ScoredAnswers`) and 0
elsewhere, ``(N,)``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from metrics.intervals import LEVEL, resampled_means

BINS = 15
TEMPERATURES = np.geomspace(0.25, 4, 65)  # in steps of 4 %; the middle one is 1
MIN_ANSWERS = 100  # the fewest that a model is calibrated on
DRAWS = 500  # of the answers of a perfectly calibrated model
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
    numbers = _bin_numbers(confidences, bins)
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


def _bin_numbers(confidences: np.ndarray, bins: int) -> np.ndarray:
    return np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)


def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (ECE), 0 to 1.

    It is the mean distance of confidence and accuracy over bins of equal width, weighted by the answers in them
    (Naeini et al. 2015; Guo et al. 2017, https://arxiv.org/abs/1706.04599).
    """
    diagram = reliability(confidences, correct, bins)
    return sum(part.answers * abs(part.confidence - part.accuracy) for part in diagram) / len(confidences)


def calibration_error_interval(
    confidences: np.ndarray, correct: np.ndarray, images: Sequence[str], level: float = LEVEL, bins: int = BINS
) -> tuple[float, float]:
    """The interval of `calibration_error`, by the basic bootstrap over images, 0 to 1.

    Chance alone makes an ECE larger, in each sample as much as in the data. The basic bootstrap (Davison, Hinkley
    1997, section 5.2) mirrors the samples at the ECE of the data, which takes that much off. Near 0, where an ECE
    can't fall further, it takes off too much: the interval is widened to the ECE itself, and down to 0 where
    ``1 - level`` or more of perfectly calibrated models have such an ECE.
    """
    error = calibration_error(confidences, correct, bins)
    gaps = np.zeros((len(confidences), bins))
    gaps[np.arange(len(confidences)), _bin_numbers(confidences, bins)] = confidences - correct
    errors = np.abs(resampled_means(gaps, images)).sum(1)
    high, low = 2 * error - np.quantile(errors, [(1 - level) / 2, (1 + level) / 2])
    if error <= np.quantile(_perfect_errors(confidences, bins), level):
        low = 0.0
    return max(0.0, float(low)), min(1.0, max(error, float(high)))


def perfect_calibration_error(confidences: np.ndarray, bins: int = BINS, seed: int = 0) -> float:
    """The mean `calibration_error` of a perfectly calibrated model with these confidences, 0 to 1.

    Each answer is right with the probability that is its confidence, drawn `DRAWS` times. With few answers chance
    alone makes an ECE of some percent.
    """
    return float(np.mean(_perfect_errors(confidences, bins, seed)))


def _perfect_errors(confidences: np.ndarray, bins: int, seed: int = 0) -> list[float]:
    numbers, generator = _bin_numbers(confidences, bins), np.random.default_rng(seed)
    errors = []
    for _ in range(DRAWS):
        gaps = np.bincount(numbers, confidences - (generator.random(len(confidences)) < confidences))
        errors.append(float(np.abs(gaps).sum() / len(confidences)))
    return errors


def log_loss(confidences: np.ndarray, correct: np.ndarray) -> float:
    """The mean negative log-likelihood, in nats, of an answer being right with the probability `correct` ``(N,)``.

    `correct` may lie between 0 and 1.
    """
    clipped = np.clip(confidences, TINY, 1 - TINY)
    return float(-(correct * np.log(clipped) + (1 - correct) * np.log1p(-clipped)).mean())


def best_temperature(confidences: np.ndarray, correct: np.ndarray) -> float:
    """Temperature scaling: the one of `TEMPERATURES` with the least `log_loss`.

    Guo et al. 2017 minimise the negative log-likelihood of the gold answer instead.

    Args:
        confidences: at each temperature, ``(N, temperatures)``.
        correct: ``(N,)``.
    """
    return float(TEMPERATURES[np.argmin([log_loss(column, correct) for column in confidences.T])])


def fit_scale(confidences: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    """Platt scaling: the slope and offset of the log-odds with the least log loss.

    It serves models without the logits of other answers, which a temperature would divide. The targets are those of
    Platt 1999, "Probabilistic Outputs for Support Vector Machines", section 2.2: of r right and w wrong answers, a
    right one has (r + 1) / (r + 2) and a wrong one 1 / (w + 2). So the fit is finite where they can be separated. The
    loss is taken of the log-odds, unclipped, so that every answer that is too sure counts.
    """
    odds = logit(np.clip(confidences, TINY, 1 - TINY))
    right = float(correct.sum())
    wrong = len(correct) - right
    targets = np.where(correct > 0, (right + 1) / (right + 2), 1 / (wrong + 2))

    def loss(scale: np.ndarray) -> tuple[float, np.ndarray]:
        scores = scale[0] * odds + scale[1]
        slopes = expit(scores) - targets
        value = (np.logaddexp(0, scores) - targets * scores).mean()
        return float(value), np.array([(slopes * odds).mean(), slopes.mean()])

    slope, offset = minimize(loss, [1.0, 0.0], jac=True).x
    return float(slope), float(offset)


def scaled(confidences: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """Confidences with their log-odds scaled by the slope and offset of `fit_scale`."""
    return expit(slope * logit(np.clip(confidences, TINY, 1 - TINY)) + offset)
