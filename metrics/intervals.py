"""How far a figure can be trusted: intervals for means over questions and bounds for error rates."""

from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv

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
    """The percentile interval of the mean of `values` ``(N,)``, from `resampled_means`."""
    low, high = np.quantile(resampled_means(values, images, samples, seed), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_with_interval(values: np.ndarray, images: Sequence[str]) -> list[float | None]:
    """`[mean, low, high]` of percentages ``(N,)``, rounded to two digits.

    There is no interval for fewer than `MIN_IMAGES` images: low and high are then None.
    """
    mean = round(float(values.mean()), 2)
    if len(set(images)) < MIN_IMAGES:
        return [mean, None, None]
    return [mean, *(round(limit, 2) for limit in bootstrap_interval(values, images))]


def interval_text(figure: Sequence[float | None] | None) -> str:
    """The text of what `mean_with_interval` returns; empty for None."""
    if figure is None:
        return ""
    value, low, high = figure
    return f"{value:.2f}" if low is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def error_bound(errors: int, total: int, confidence: float = LEVEL) -> float:
    """The one-sided upper bound of an error rate, 0 to 1, by Clopper and Pearson 1934 (Biometrika 26:404).

    Args:
        errors, total: counts.
        confidence: the probability that the true rate is not above the bound.
    """
    if errors >= total:
        return 1.0
    return float(betaincinv(errors + 1, total - errors, confidence))
