"""How far a figure can be trusted: intervals for means over questions and bounds for error rates."""

from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

SAMPLES = 2_000
LEVEL = 0.95
MIN_IMAGES = 10  # fewer do not tell how far another sample may be


def resampled_means(values: np.ndarray, images: Sequence[str], samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """Cluster bootstrap: means over the questions of images drawn with replacement.

    The questions of one image are not independent. Drawing them one by one would give intervals that are too narrow,
    so an image is drawn with all its questions (Davison, Hinkley 1997, "Bootstrap Methods and their Application",
    section 3.8).

    Args:
        values: of the questions, ``(N,)`` or ``(N, figures)``.
        images: the image of each question, ``(N,)``.
        samples: how often as many images as there are get drawn.

    Returns:
        ``(samples,)`` or ``(samples, figures)``.
    """
    _, index, counts = np.unique(np.asarray(images), return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, index, values)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=samples)
    questions = drawn @ counts
    return (drawn @ sums) / (questions[:, None] if values.ndim == 2 else questions)


def bootstrap_interval(
    values: np.ndarray, images: Sequence[str], level: float = LEVEL, samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the mean of `values` ``(N,)``, from `resampled_means`.

    Values that are all the same have an interval of no width; `interval_of_mean` knows better.
    """
    low, high = np.quantile(resampled_means(values, images, samples, seed), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_of_mean(
    values: np.ndarray, images: Sequence[str], limits: tuple[float, float], level: float = LEVEL
) -> tuple[float, float]:
    """The interval of the mean of `values` ``(N,)`` that lie between `limits`.

    It is `bootstrap_interval`. Where all values are the same, every sample of the bootstrap is too, and it tells
    nothing. Then the exact binomial bound by the number n of images is taken (Clopper, Pearson 1934): with certainty
    `level`, at most 1 - (1 - level)^(1/n) of all images have other values, which are anywhere between the limits.
    """
    low, high = limits
    if np.ptp(values) > 0:
        return bootstrap_interval(values, images, level)
    value, others = float(values[0]), error_bound(0, len(set(images)), level)
    return value - others * (value - low), value + others * (high - value)


def mean_with_interval(
    values: np.ndarray, images: Sequence[str], limits: tuple[float, float] = (0, 100)
) -> list[float | None]:
    """`[mean, low, high]` of percentages ``(N,)``, rounded to two digits.

    There is no interval for fewer than `MIN_IMAGES` images: low and high are then None.

    Args:
        values: between the limits.
        images: the image of each question, ``(N,)``.
        limits: the least and the largest value that there can be, as for `interval_of_mean`.
    """
    mean = round(float(values.mean()), 2)
    if len(set(images)) < MIN_IMAGES:
        return [mean, None, None]
    return [mean, *(round(limit, 2) for limit in interval_of_mean(values, images, limits))]


def interval_text(figure: Sequence[float | None] | None) -> str:
    """The text of what `mean_with_interval` returns; empty for None."""
    if figure is None:
        return ""
    value, low, high = figure
    return f"{value:.2f}" if low is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def error_bound(errors: float, total: float, confidence: float = LEVEL) -> float:
    """The one-sided upper bound of an error rate, 0 to 1, by Clopper and Pearson 1934 (Biometrika 26:404).

    Args:
        errors, total: counts of independent answers, which may be fractions.
        confidence: the probability that the true rate is not above the bound.
    """
    if errors >= total:
        return 1.0
    return float(betaincinv(errors + 1, total - errors, confidence))


def clustered_error_bound(
    errors: np.ndarray, answers: np.ndarray, confidence: float = LEVEL, variance_within: float = 0.0
) -> float:
    """The one-sided upper bound of an error rate, 0 to 1, where the answers about one image may err together.

    The bound of Clopper and Pearson takes the effective number of answers: as many independent ones would vary as much
    as the answers of these images do (Korn, Graubard 1998, "Confidence Intervals for Proportions With Small Expected
    Number of Positive Counts Estimated From Survey Data", Survey Methodology 24:193). Few errors tell little about how
    they cluster, and no error tells nothing. So the variance is computed with one more image, all of whose answers are
    wrong: it has as many as the image of a random answer has on average. Where all images have equally many answers
    and each image is all right or all wrong, the bound of no errors is about that of Clopper and Pearson over images.

    Args:
        errors, answers: of each image, ``(images,)``. Images without answers do not count.
        confidence: the probability that the true rate is not above the bound.
        variance_within: of the number of all errors, beyond what `errors` shows; for expected errors.
    """
    errors, answers = errors[answers > 0], answers[answers > 0].astype(float)
    total = answers.sum()
    if not total:
        return 1.0
    added = (answers**2).sum() / total
    rate = (errors.sum() + added) / (total + added)
    images = len(answers) + 1
    squares = ((errors - rate * answers) ** 2).sum() + ((1 - rate) * added) ** 2 + variance_within
    if not squares:  # each answer is wrong
        return 1.0
    variance = images / (images - 1) * squares / (total + added) ** 2
    by_few_images = (ndtri(confidence) / stdtrit(images - 1, confidence)) ** 2
    effective = min(rate * (1 - rate) / variance * by_few_images, total)
    return error_bound(errors.sum() / total * effective, effective, confidence)
