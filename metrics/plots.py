"""Pictures: curves of a training, calibration, risk, and heat maps beside boxes."""

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
CHOICE_TITLES = {"choice_accuracy": "choice"}  # only where rows have choices
CASES_IN_A_ROW = 5
ACCENT = "#0b6e75"


def plot_curves(log_history: Sequence[Mapping[str, Any]], folder: str | Path) -> None:
    """Draws the log history of a Trainer as `loss.png` and `metrics.png`.

    A curve without points is left out, and so is a picture without curves.
    """
    loss = {"training": _points(log_history, "loss"), "validation": _points(log_history, "eval_loss")}
    scores = {title: _points(log_history, f"eval_{key}") for key, title in (TITLES | CHOICE_TITLES).items()}
    _plot_by_epoch(loss, "loss", Path(folder) / "loss.png")
    _plot_by_epoch(scores, "percent of validation questions", Path(folder) / "metrics.png")


def plot_reliability(bins: Sequence[Mapping[str, float]], file: str | Path) -> None:
    """Draws a reliability diagram, with the share of the answers in each bar.

    Args:
        bins: of `metrics.calibration.reliability`, as dicts.
        file: the picture to write.
    """
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes = figure.subplots()
    total = sum(part["answers"] for part in bins)
    for part in bins:
        width = part["high"] - part["low"]
        axes.bar(part["low"], part["accuracy"], width, align="edge", color=ACCENT, edgecolor="white")
        axes.text(
            part["low"] + width / 2, 0.01, f"{part['answers'] / total:.0%}", ha="center", fontsize=6, color="white"
        )
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    _frame_of_shares(axes, "confidence", "share of right answers")
    figure.savefig(file, dpi=120)


def plot_risk(curve: Sequence[Sequence[float]], file: str | Path) -> None:
    """Draws risk against coverage.

    Args:
        curve: pairs of coverage and risk.
        file: the picture to write.
    """
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes = figure.subplots()
    coverages, risks = zip(*curve, strict=True)
    axes.plot(coverages, risks, color=ACCENT)
    _frame_of_shares(axes, "coverage: share answered, the surest first", "risk: share of wrong answers")
    highest = max(risks)
    axes.set_ylim(0, 1.05 * highest if highest > 0 else 1)
    figure.savefig(file, dpi=120)


def plot_pointing(cases: Sequence[Case], file: str | Path) -> None:
    """Draws the best heat maps above the worst ones, with the boxes that they should be hot in.

    What an evidence head finds is dashed.

    The best maps have most heat inside the boxes, beyond what even heat has there. No image comes twice in a row.

    Args:
        cases: one or more, with `pointing`.
        file: the picture to write.
    """

    def lacking_heat(case: Case) -> float:
        assert case.pointing is not None
        return case.pointing.area - case.pointing.mass

    best_first = sorted(cases, key=lacking_heat)
    figure = Figure(figsize=(2.6 * CASES_IN_A_ROW, 6.6), layout="constrained")
    grid = figure.subplots(2, CASES_IN_A_ROW, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for title, ranked, line in (("best", best_first, grid[0]), ("worst", best_first[::-1], grid[1])):
        for case, axes in zip(_first_of_each_image(ranked), line, strict=False):
            _draw_case(case, axes, title)
    figure.savefig(file, dpi=80, pil_kwargs={"quality": 85})


def _first_of_each_image(cases: Sequence[Case]) -> list[Case]:
    first: dict[str, Case] = {}
    for case in cases:
        first.setdefault(case.row["image_id"], case)
    return list(first.values())


def _draw_case(case: Case, axes: Axes, title: str) -> None:
    assert case.heat is not None
    image = open_image(case.row["image"])
    frame = (0, image.width, image.height, 0)
    axes.imshow(image, extent=frame)
    heat = brightness(case.heat)
    axes.imshow(heat, extent=frame, cmap=COLORS, alpha=OPACITY * heat, interpolation="bilinear", vmin=0, vmax=1)
    for found in case.found:
        left, top, width, height = (share * side for share, side in zip(found.box, image.size * 2, strict=True))
        frame_of_it = Rectangle((left, top), width, height, fill=False, edgecolor="#ffbb55", linewidth=1.5)
        frame_of_it.set_linestyle("--")
        axes.add_patch(frame_of_it)
    for box in case.boxes:
        x, y, width, height = box["bbox"]
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="#66ccff", linewidth=1.5))
    named = ", ".join(sorted({box["label"] for box in case.boxes}))
    answer = f"{case.prediction} ({'right' if case.correct else 'wrong'})"
    lines = [*_wrapped(case.row["question"], 2), *_wrapped(answer, 1), *_wrapped(f"{title}: {named}", 1)]
    axes.set_title("\n".join(lines), fontsize=8)


def _wrapped(text: str, max_lines: int) -> list[str]:
    """Lines of a title, without what matplotlib can't draw or would take for a formula."""
    lines = textwrap.wrap(text, 34, max_lines=max_lines, placeholder=" ...")
    printable = ("".join(c if c.isprintable() else " " for c in line) for line in lines)
    return [line.replace("$", r"\$") for line in printable]


def _frame_of_shares(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _points(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(entry["epoch"], entry[key]) for entry in log_history if key in entry and "epoch" in entry]


def _plot_by_epoch(curves: Mapping[str, list[tuple[float, float]]], label: str, file: Path) -> None:
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
