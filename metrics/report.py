"""Figures as people read them: a table in the log, curves as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLUMNS = (("EM", "exact_match"), ("F1", "f1"), ("OPEN EM", "open_exact_match"), ("CLOSED EM", "closed_exact_match"))


def format_results(results: Mapping[str, Mapping[str, float]]) -> str:
    """A table with one line for each name: its number of questions and its figures in percent."""
    width = max(len(name) for name in results)
    lines = [f"{'':{width}}  {'questions':>9}" + "".join(f"  {title:>9}" for title, _ in COLUMNS)]
    for name, figures in results.items():
        cells = (f"{figures[key]:9.2f}" if key in figures else f"{'-':>9}" for _, key in COLUMNS)
        lines.append(f"{name:{width}}  {figures['total']:9,}" + "".join(f"  {cell}" for cell in cells))
    return "\n".join(lines)


def plot_curves(log_history: Sequence[Mapping[str, Any]], folder: str | Path) -> None:
    """Draws a Trainer's log history as `loss.png` and `metrics.png`; a curve without points is left out."""
    loss = {"training": _points(log_history, "loss"), "validation": _points(log_history, "eval_loss")}
    scores = {title: _points(log_history, f"eval_{key}") for title, key in COLUMNS}
    _plot(loss, "loss", Path(folder) / "loss.png")
    _plot(scores, "percent of validation questions", Path(folder) / "metrics.png")


def _points(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(entry["epoch"], entry[key]) for entry in log_history if key in entry and "epoch" in entry]


def _plot(curves: Mapping[str, list[tuple[float, float]]], label: str, file: Path) -> None:
    drawn = {name: points for name, points in curves.items() if points}
    if not drawn:
        return
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")  # no pyplot: it keeps global state
    axes = figure.subplots()
    for name, points in drawn.items():
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, label=name, marker="o" if len(points) < 30 else None, markersize=3)
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)
