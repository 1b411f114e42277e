"""Whether one run is really better than another on the same questions.

    python -m metrics.compare RUN_A RUN_B [--split test]

Each run is named by its `--output_dir`. The differences of Exact Match and F1 have an interval and a p-value of the
paired bootstrap over images: each sample has the same images for both runs. Beside the questions that only one of the
runs answers right stands the p-value of a permutation test over images, as the questions of one are not independent.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metrics.intervals import LEVEL, interval_of_mean, resampled_means
from metrics.vqa import all_scores
from processing.command_line import CommandParser
from processing.errors import UserError, run_command

PROG = "python -m metrics.compare"
EXAMPLES = """example:
  {prog} out/seed-42 out/seed-43 --split test
"""
SAMPLES = 10_000
FIGURES = ("exact_match", "f1")  # the first two of `metrics.vqa.AnswerScores`


class Difference(NamedTuple):
    """A figure of runs A and B, in percent."""

    figure: str
    a: float
    b: float
    low: float  # of the interval of b - a
    high: float
    p_value: float  # two-sided, of no difference


class Comparison(NamedTuple):
    """Two runs on the same questions."""

    questions: int
    images: int
    differences: list[Difference]
    only_a: int  # questions that only A answers right
    only_b: int  # questions that only B answers right
    permutation: float  # two-sided p-value over images


def compare(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]], samples: int = SAMPLES) -> Comparison:
    """Compares the answers of two runs to the same questions.

    Args:
        a, b: rows of their predictions files, in the same order.
        samples: number of bootstrap samples.
    """
    scores_a, scores_b = _scores(a), _scores(b)
    gain = scores_b - scores_a
    images = [row["image_id"] for row in a]
    means = resampled_means(gain, images, samples)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    for column in np.flatnonzero(np.ptp(gain, axis=0) == 0):  # each sample of the bootstrap is the same
        low[column], high[column] = interval_of_mean(gain[:, column], images, (-1, 1))
    # The p-value is twice the smaller tail. The data themselves count as one more sample.
    below, above = ((1 + tail.sum(0)) / (1 + samples) for tail in (means <= 0, means >= 0))
    p_values = np.minimum(1, 2 * np.minimum(below, above))
    mean_a, mean_b = scores_a.mean(0), scores_b.mean(0)
    differences = [
        Difference(
            figure=figure,
            a=float(100 * mean_a[i]),
            b=float(100 * mean_b[i]),
            low=float(100 * low[i]),
            high=float(100 * high[i]),
            p_value=float(p_values[i]),
        )
        for i, figure in enumerate(FIGURES)
    ]
    only_a, only_b = int((gain[:, 0] < 0).sum()), int((gain[:, 0] > 0).sum())
    p_value = permutation_test(gain[:, 0], images)
    return Comparison(len(a), len(set(images)), differences, only_a, only_b, p_value)


def permutation_test(gains: np.ndarray, images: Sequence[str]) -> float:
    """The two-sided p-value of no difference between two runs, exactly.

    If there is none, all gains of an image may as well have the other sign (Fisher 1935, "The Design of Experiments",
    section 21). The p-value is the share of the ways to choose the signs whose sum is as far from 0 as that of the
    data. The sums of all ways are counted image by image. With one question an image this is McNemar's exact test.

    Args:
        gains: of the questions, whole numbers, ``(N,)``.
        images: the image of each question, ``(N,)``.
    """
    _, index = np.unique(np.asarray(images), return_inverse=True)
    sums = np.bincount(index, gains).round().astype(int)
    farthest = int(np.abs(sums).sum())
    shares = np.zeros(2 * farthest + 1)  # of the ways that give each sum from -farthest to farthest
    shares[farthest] = 1
    for step in np.abs(sums[sums != 0]):
        shares = (np.roll(shares, step) + np.roll(shares, -step)) / 2
    distance = abs(np.arange(-farthest, farthest + 1))
    return min(1.0, float(shares[distance >= abs(int(sums.sum()))].sum()))


def _scores(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """`FIGURES` of each row of a predictions file, ``(N, 2)``."""
    return all_scores(rows, [row["prediction"] for row in rows])[:, : len(FIGURES)]


def read_predictions(run: Path, split: str) -> list[dict[str, Any]]:
    """The rows of the predictions file of a run, sorted by question.

    Raises:
        UserError: the file is missing, or an older version wrote it without `image_id`.
    """
    file = run / f"predictions_{split}.jsonl"
    if not file.is_file():
        raise UserError(
            f"{file}: there is no such file; give the --output_dir of a run that evaluated the {split} split."
        )
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if any("image_id" not in row for row in rows):
        raise UserError(f"{file}: its rows have no image_id; evaluate the model again with --do_train False.")
    return sorted(rows, key=_question_key)


def _question_key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in ("id", "image_id", "question", "answer", "answers"))


def make_parser(prog: str = PROG) -> CommandParser:
    """The parser of the command line; `prog` is what its help calls the program."""
    parser = CommandParser(
        prog,
        description="Finds out whether run B is better than run A on the same questions, or only by chance.",
        epilog=EXAMPLES.format(prog=prog),
    )
    parser.add_argument("run_a", type=Path, help="folder of a run")
    parser.add_argument("run_b", type=Path, help="folder of another run on the same questions")
    parser.add_argument("--split", default="validation", help="predictions to compare: validation or test")
    return parser


def main(argv: list[str], prog: str = PROG) -> None:
    """The command line.

    Raises:
        UserError: a run has no predictions, or the runs answer different questions.
    """
    options = make_parser(prog).parse(argv)
    a, b = (read_predictions(run, options.split) for run in (options.run_a, options.run_b))
    if [_question_key(row) for row in a] != [_question_key(row) for row in b]:
        runs = f"{options.run_a} and {options.run_b}"
        raise UserError(f"{runs} answer different {options.split} questions; evaluate both on the same data.")
    comparison = compare(a, b)
    print(f"{comparison.questions:,} {options.split} questions on {comparison.images:,} images")
    print(f"A is {options.run_a}, B is {options.run_b}")
    for part in comparison.differences:
        print(
            f"{part.figure}: A {part.a:.2f}, B {part.b:.2f}, B - A {part.b - part.a:+.2f} "
            f"({LEVEL:.0%} interval {part.low:+.2f} to {part.high:+.2f}, {_p_text(part.p_value)})"
        )
    only_one = f"right in A alone {comparison.only_a}, in B alone {comparison.only_b}"
    print(f"{only_one}: permutation test over images {_p_text(comparison.permutation)}")


def _p_text(p_value: float) -> str:
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.4f}"


if __name__ == "__main__":
    run_command(main)
