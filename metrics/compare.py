"""Whether one run is really better than another on the same questions.

    python -m metrics.compare RUN_A RUN_B [--split test]

Each is the `--output_dir` of a run. The difference of Exact Match and F1 has an interval and a p-value by the
bootstrap over images, in which both runs answer the same drawn images; McNemar's exact test (McNemar 1947) looks at
the questions that one of them alone gets right.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from metrics.intervals import LEVEL, resampled_means
from metrics.vqa import AnswerScores, all_scores
from processing.errors import UserError, run_command

SAMPLES = 10_000
FIGURES = AnswerScores._fields[:2]  # Exact Match and F1


class Difference(NamedTuple):
    """How far B is above A, in percent."""

    figure: str
    a: float
    b: float
    low: float
    high: float
    p_value: float  # two-sided, of no difference


class Comparison(NamedTuple):
    """What two runs' answers to the same questions tell."""

    questions: int
    images: int
    differences: list[Difference]
    only_a: int  # questions that A alone gets right
    only_b: int
    mcnemar: float  # p-value, two-sided


def compare(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]], samples: int = SAMPLES) -> Comparison:
    """Compares answers to the same questions, row by row.

    Args:
        a, b: rows of a predictions file, in the same order.
        samples: of the bootstrap.
    """
    scores = [all_scores(rows, [row["prediction"] for row in rows])[:, : len(FIGURES)] for rows in (a, b)]
    gain = scores[1] - scores[0]
    images = [row["image_id"] for row in a]
    means = resampled_means(gain, images, samples)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    # of the two tails the smaller one, twice; the sample itself counts as one that was drawn
    tails = [(1 + (sign * means <= 0).sum(0)) / (1 + samples) for sign in (1, -1)]
    p_values = np.minimum(1, 2 * np.minimum(*tails))
    columns = zip(*(100 * part.mean(0) for part in scores), 100 * low, 100 * high, p_values, strict=True)
    differences = [Difference(name, *map(float, column)) for name, column in zip(FIGURES, columns, strict=True)]
    only_a, only_b = int((gain[:, 0] < 0).sum()), int((gain[:, 0] > 0).sum())
    mcnemar = float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return Comparison(len(a), len(set(images)), differences, only_a, only_b, mcnemar)


def read_predictions(run: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a run's predictions file, sorted by question.

    Raises:
        UserError: there is none, or it was written before it named images.
    """
    file = run / f"predictions_{split}.jsonl"
    if not file.is_file():
        raise UserError(
            f"{file}: there is no such file; give the --output_dir of a run that evaluated the {split} split."
        )
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if any("image_id" not in row for row in rows):
        raise UserError(f"{file}: its rows have no image_id; evaluate the model again with --do_train False.")
    return sorted(rows, key=_question)


def _question(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("id", "image_id", "question", "answer"))


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: a run has no predictions, or they answer different questions.
    """
    parser = argparse.ArgumentParser(
        "python -m metrics.compare", description="Tells whether run B is better than run A."
    )
    parser.add_argument("run_a", type=Path, help="--output_dir of a run")
    parser.add_argument("run_b", type=Path, help="that of another run on the same questions")
    parser.add_argument("--split", default="validation", help="validation or test")
    options = parser.parse_args(argv)
    a, b = (read_predictions(run, options.split) for run in (options.run_a, options.run_b))
    if list(map(_question, a)) != list(map(_question, b)):
        runs = f"{options.run_a} and {options.run_b}"
        raise UserError(f"{runs} answer different {options.split} questions; evaluate both on the same data.")
    found = compare(a, b)
    print(f"{found.questions:,} {options.split} questions on {found.images:,} images")
    print(f"A is {options.run_a}, B is {options.run_b}")
    for part in found.differences:
        print(
            f"{part.figure}: A {part.a:.2f}, B {part.b:.2f}, B - A {part.b - part.a:+.2f} "
            f"({LEVEL:.0%} interval {part.low:+.2f} to {part.high:+.2f}, {_p_text(part.p_value)})"
        )
    mcnemar = _p_text(found.mcnemar)
    print(f"right in A alone {found.only_a}, in B alone {found.only_b}: McNemar's exact test {mcnemar}")


def _p_text(p_value: float) -> str:
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.4f}"


if __name__ == "__main__":
    run_command(main)
