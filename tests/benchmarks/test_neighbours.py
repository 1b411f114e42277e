"""benchmarks.neighbours: recall and precision of thresholds, by hand and of the phantoms in docs/neighbours.md."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.neighbours import Found, Images, count_found, main

PAGE = Path(__file__).parents[2] / "docs" / "neighbours.md"


def test_shares_are_those_counted_by_hand():
    # Two patients, a of three slices and b of two. Near at 0.9: a0-a1, a0-b0 and b0-b1.
    upper = [[0, 0.95, 0.1, 0.92, 0], [0, 0, 0.3, 0, 0], [0, 0, 0, 0.2, 0.9], [0, 0, 0, 0, 0.99], [0] * 5]
    correlations = np.array(upper) + np.array(upper).T + np.eye(5)
    groups = np.array(["a", "a", "a", "b", "b"], dtype=object)
    images = Images(correlations, np.array([True, False, True, False, False]), groups)
    found = count_found(images, 0.9)
    assert found.leaks == (2, 3)  # a1 and b0 by a0; b1's 0.9 with a2 is not above
    assert found.pairs == 3
    assert found[2:] == pytest.approx((2 / 3, 2 / 4, 2 / 3))
    assert count_found(images, 0.995) == Found((0, 3), 0, 0.0, 0.0, None)
    nameless = images._replace(groups=np.array([None] * 5, dtype=object))
    assert count_found(nameless, 0.9) == Found((2, 3), 3, None, None, None)


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", line.replace(",", "").split("|", 2)[2])]


def test_command_line_prints_the_figures_of_the_page(patients, capsys):
    main(["--datasets", str(patients)])
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {patients} ")]
    told = [line for line in PAGE.read_text().splitlines() if line.startswith("| `phantom:240x4` ")]
    assert len(printed) == len(told) == 3
    for line, expected in zip(printed, told, strict=True):
        assert numbers(line)[:3:2] == numbers(expected)[:3:2]  # the threshold, and the images outside training
        assert numbers(line) == pytest.approx(numbers(expected), rel=0.05, abs=2)
