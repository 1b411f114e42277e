"""Figures as pictures."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # no pyplot: it keeps global state
from matplotlib.patches import Rectangle

from metrics.cases import COLORS, OPACITY, Case, brightness
from processing.images import open_image

TITLES = {"exact_match": "EM", "f1": "F1", "open_exact_match": "OPEN EM", "closed_exact_match": "CLOSED EM"}
CASES_IN_A_ROW = 5


def plot_curves(log_history: Sequence[Mapping[str, Any]], folder: str | Path) -> None:
    """Draws a Trainer's log history as `loss.png` and `metrics.png`; a curve without points is left out."""
    loss = {"training": _points(log_history, "loss"), "validation": _points(log_history, "eval_loss")}
    scores = {title: _points(log_history, f"eval_{key}") for key, title in TITLES.items()}
    _plot(loss, "loss", Path(folder) / "loss.png")
    _plot(scores, "percent of validation questions", Path(folder) / "metrics.png")


def plot_reliability(bins: Sequence[Mapping[str, float]], file: str | Path) -> None:
    """Draws the bins of `metrics.calibration.reliability`, each with its share of the answers."""
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes = figure.subplots()
    total = sum(part["answers"] for part in bins)
    for part in bins:
        width = part["high"] - part["low"]
        axes.bar(part["low"], part["accuracy"], width, align="edge", color="#0b6e75", edgecolor="white")
        axes.text(
            part["low"] + width / 2, 0.01, f"{part['answers'] / total:.0%}", ha="center", fontsize=6, color="white"
        )
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    _frame(axes, "confidence", "share of exact matches")
    figure.savefig(file, dpi=120)


def plot_risk(curve: Sequence[Sequence[float]], file: str | Path) -> None:
    """Draws points of coverage and risk."""
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*curve, strict=True), color="#0b6e75")
    _frame(axes, "coverage: share answered, the surest first", "risk: share of wrong answers")
    axes.set_ylim(0, 1.05 * max(risk for _, risk in curve) or 1)
    figure.savefig(file, dpi=120)


def plot_pointing(cases: Sequence[Case], file: str | Path) -> None:
    """Draws heat maps and the boxes that they should show: above those with most of their heat inside, beyond what
    even heat has there, below those with least; in each row no image twice.

    Args:
        cases: one or more, with a heat map that lies beside boxes.
    """

    def lack(case: Case) -> float:
        assert case.pointing is not None
        return case.pointing.area - case.pointing.mass

    ranked = sorted(cases, key=lack)
    rows = [_of_different_images(part)[:CASES_IN_A_ROW] for part in (ranked, ranked[::-1])]
    figure = Figure(figsize=(2.6 * CASES_IN_A_ROW, 6.6), layout="constrained")
    grid = figure.subplots(2, CASES_IN_A_ROW, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for title, members, line in zip(("best", "worst"), rows, grid, strict=True):
        for case, axes in zip(members, line, strict=False):
            _draw_case(case, axes, title)
    figure.savefig(file, dpi=80, pil_kwargs={"quality": 85})


def _of_different_images(cases: Sequence[Case]) -> list[Case]:
    return list({case.row["image_id"]: case for case in reversed(cases)}.values())[::-1]


def _draw_case(case: Case, axes: Axes, title: str) -> None:
    assert case.heat is not None
    image = open_image(case.row["image"])
    frame = (0, image.width, image.height, 0)
    axes.imshow(image, extent=frame)
    heat = brightness(case.heat)
    axes.imshow(heat, extent=frame, cmap=COLORS, alpha=OPACITY * heat, interpolation="bilinear", vmin=0, vmax=1)
    for box in case.boxes:
        x, y, *size = box["bbox"]
        axes.add_patch(Rectangle((x, y), *size, fill=False, edgecolor="#66ccff", linewidth=1.5))
    named = ", ".join(sorted({box["label"] for box in case.boxes}))
    answer = f"{case.prediction} ({'right' if case.correct else 'wrong'})"
    parts = ((case.row["question"], 2), (answer, 1), (f"{title}: {named}", 1))
    lines = [line for part, most in parts for line in textwrap.wrap(part, 34, max_lines=most, placeholder=" ...")]
    text = "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)
    axes.set_title(text.replace("$", r"\$"), fontsize=8)


def _frame(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _points(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(entry["epoch"], entry[key]) for entry in log_history if key in entry and "epoch" in entry]


def _plot(curves: Mapping[str, list[tuple[float, float]]], label: str, file: Path) -> None:
    drawn = {name: points for name, points in curves.items() if points}
    if not drawn:
        return
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, points in drawn.items():
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, label=name, marker="o" if len(points) < 30 else None, markersize=3)
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)
