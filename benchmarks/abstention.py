"""Does a model that abstains keep its promise? A simulation of answers whose errors cluster by image.

    python -m benchmarks.abstention [--runs 1000]

The confidences are true: of the answers with 80 %, four in five are right. The errors of an image are beta-binomial:
at each confidence, the probability of an error is drawn for the image from the beta distribution whose mean is the
doubt, and the correlation of two errors is the same everywhere; with a correlation of 1 an image is all right or all
wrong among its answers of one confidence. A promise is broken where the true risk of the chosen threshold exceeds the
target. That may happen in 5 % of the runs.
"""

import argparse
import math
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, expit

from metrics.abstention import choose_threshold
from metrics.intervals import LEVEL, error_bound
from metrics.report import markdown_table
from processing.errors import run_command

MEAN, DEVIATION = 2.2, 2.0  # of the log-odds of the confidences, which make a risk of 20 %
QUESTIONS = 10  # an image, on average
MOST_QUESTIONS = 60  # of an image where the numbers differ


class Setting(NamedTuple):
    """What is simulated."""

    images: int
    equal_sizes: bool  # each image has QUESTIONS; else their number is geometric, up to MOST_QUESTIONS
    shared_confidence: float  # share of the variance of the log-odds that an image's questions have in common
    correlation: float  # of the errors of two questions of an image, at one confidence
    target: float  # risk
    rare: float = 0.0  # probability that an image has MOST_QUESTIONS instead, with no right answer


class Result(NamedTuple):
    """Shares of the runs, 0 to 1, and mean coverage, 0 where no threshold was found."""

    broken: float
    found: float
    coverage: float
    broken_before: float  # by `binomial_threshold`
    coverage_before: float


def binomial_threshold(confidences: np.ndarray, correct: np.ndarray, target_risk: float) -> float | None:
    """The rule of version 0.1: the binomial bound of the questions, as if each were of another image.

    Geifman, El-Yaniv 2017, algorithm 1: a binary search that divides the doubt among its steps.
    """
    thresholds = np.sort(confidences)[::-1]
    steps = math.ceil(math.log2(len(thresholds) + 1))
    low, high, found = 0, len(thresholds), None
    for _ in range(steps):
        if low >= high:
            break
        number = (low + high + 1) // 2
        answered = confidences >= thresholds[number - 1]
        errors = (1 - correct[answered]).sum()
        if error_bound(errors, answered.sum(), 1 - (1 - LEVEL) / steps) <= target_risk:
            low, found = number, float(thresholds[number - 1])
        else:
            high = number - 1
    return found


def draw(setting: Setting, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences, what is right, and the number of the image of each answer, each ``(N,)``."""
    sizes = np.full(setting.images, QUESTIONS)
    if not setting.equal_sizes:
        sizes = np.minimum(generator.geometric(1 / QUESTIONS, setting.images), MOST_QUESTIONS)
    is_rare = generator.random(setting.images) < setting.rare
    sizes = np.where(is_rare, MOST_QUESTIONS, sizes)
    images = np.repeat(np.arange(setting.images), sizes)
    shared = math.sqrt(setting.shared_confidence) * generator.normal(size=setting.images)[images]
    own = math.sqrt(1 - setting.shared_confidence) * generator.normal(size=len(images))
    confidences = expit(MEAN + DEVIATION * (shared + own))
    doubts, quantiles = 1 - confidences, generator.random(setting.images)[images]
    if setting.correlation == 0:
        risks = doubts
    elif setting.correlation == 1:
        risks = (quantiles < doubts).astype(float)
    else:
        weight = 1 / setting.correlation - 1
        risks = betaincinv(doubts * weight, confidences * weight, quantiles)
    correct = (generator.random(len(images)) >= risks) & ~is_rare[images]
    return confidences, correct.astype(float), images


def true_curve(rare: float) -> tuple[np.ndarray, np.ndarray]:
    """Falling thresholds, and the true risk of each."""
    confidences = np.sort(expit(np.random.default_rng(9).normal(MEAN, DEVIATION, 400_000)))[::-1]
    share = rare * MOST_QUESTIONS / (rare * MOST_QUESTIONS + (1 - rare) * QUESTIONS)
    return confidences, share + (1 - share) * (1 - confidences).cumsum() / np.arange(1, len(confidences) + 1)


def count_broken_promises(setting: Setting, runs: int) -> Result:
    """Chooses thresholds in that many simulated validation splits, and compares them with the truth."""
    generator = np.random.default_rng(1)
    curve = true_curve(setting.rare)
    totals = np.zeros(5)
    for _ in range(runs):
        confidences, correct, images = draw(setting, generator)
        abstention = choose_threshold(confidences, correct, images, setting.target)
        before = binomial_threshold(confidences, correct, setting.target)
        now = [0.0, 0.0, 0.0] if abstention is None else _judge(abstention.threshold, setting.target, *curve)
        totals += now + ([0.0, 0.0] if before is None else _judge(before, setting.target, *curve)[::2])
    broken, found, coverage, broken_before, coverage_before = (totals / runs).tolist()
    return Result(broken, found, coverage, broken_before, coverage_before)


def _judge(threshold: float, target: float, thresholds: np.ndarray, risks: np.ndarray) -> list[float]:
    """Whether the promise is broken (0 or 1), 1 for a threshold that was found, and the true coverage."""
    answered = max(1, int(np.searchsorted(-thresholds, -threshold, side="right")))
    return [float(risks[answered - 1] > target), 1.0, answered / len(thresholds)]


def main(argv: list[str]) -> None:
    """Prints a table of the settings."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.abstention", description="Does abstention keep its promise?"
    )
    parser.add_argument("--runs", type=int, default=1_000, help="simulated validation splits of each setting")
    options = parser.parse_args(argv)
    lines = []
    worst = 0.0
    for target in (0.05, 0.1):
        for images in (50, 100, 300):
            for equal_sizes, shared in ((True, 0.0), (True, 0.5), (False, 0.5), (False, 1.0)):
                results = [
                    count_broken_promises(Setting(images, equal_sizes, shared, correlation, target), options.runs)
                    for correlation in (0.0, 0.3, 1.0)
                ]
                worst = max(worst, *(result.broken for result in results))
                sizes = "10" if equal_sizes else "1 to 60"
                cells = [
                    f"{now.broken:.1%} ({now.broken_before:.1%}); {now.coverage:.0%} ({now.coverage_before:.0%})"
                    for now in results
                ]
                lines.append([f"{target:.0%}", str(images), sizes, f"{shared:.1f}", *cells])
    head = ["target", "images", "questions of each", "confidence shared", "correlation 0", "0.3", "1"]
    print(markdown_table(head, lines))
    print(f"\nLargest share of broken promises: {worst:.1%} of {options.runs:,} runs\n")
    lines = []
    for images, target, rare in ((100, 0.1, 0.01), (100, 0.1, 0.02), (300, 0.1, 0.01), (300, 0.1, 0.02)):
        result = count_broken_promises(Setting(images, True, 0.0, 0.0, target, rare), options.runs)
        lines.append([f"{target:.0%}", str(images), f"{rare:.0%}", f"{result.broken:.1%}", f"{result.coverage:.0%}"])
    head = ["target", "images", f"images of {MOST_QUESTIONS} questions, all wrong", "broken promises", "coverage"]
    print(markdown_table(head, lines))


if __name__ == "__main__":
    run_command(main)
