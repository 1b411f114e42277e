"""Figures as people read them: a table in the log, curves as pictures, and the folder `report/` of a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metrics.calibration import calibration_error, log_loss, reliability, risk_coverage
from metrics.vqa import all_scores, breakdown
from processing.utils import write_atomically

RISKS = (0.05, 0.1)
CURVE_POINTS = 200  # of risk against coverage that are written down
REPORT_HEAD = """# Report

All figures are percent of questions, with the 95 % interval of 2,000 bootstrap samples whose images are drawn with all
their questions; of fewer than ten images there is none. EM: the answer equals the gold answer after SQuAD v2's
normalisation (lower case, without punctuation and the words a, an, the). F1: the mean harmonic mean of precision and
recall of words. Chinese answers are scored by characters, as CMRC 2018 does. Recall, of OPEN questions: LLaVA-Med's
share of gold words that were answered; BLEU-1 likewise. The most frequent answer of the training rows knows neither
question nor image; the one to the very same question does not know the image. Confidence is right where of the answers
with a confidence of 80 % four in five are exact matches; the expected calibration error is the mean distance over 15
bins. Risk is the share of wrong ones among the answers given.
"""
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


def make_report(
    rows: Sequence[Mapping[str, Any]],
    predictions: Sequence[str],
    confidences: Sequence[float],
    baselines: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """What is to be told of the answers to a split's questions.

    Args:
        rows, predictions, baselines: as for `metrics.vqa.breakdown`.
        confidences: of the predictions, 0 to 1.

    Returns:
        `figures` of `breakdown`; `calibration`: ECE (0 to 1), log loss (nats) and the bins of the reliability diagram;
        `silence`: the area under risk against coverage, the curve itself, and the coverage at each of `RISKS`.
    """
    sure, correct = np.array(confidences), all_scores(rows, predictions)[:, 0]
    curve = risk_coverage(sure, correct)
    points = np.unique(np.linspace(0, len(sure) - 1, min(len(sure), CURVE_POINTS)).astype(int))
    return {
        "figures": breakdown(rows, predictions, baselines),
        "calibration": {
            "mean_confidence": round(float(sure.mean()), 4),
            "expected_calibration_error": round(calibration_error(sure, correct), 4),
            "log_loss": round(log_loss(sure, correct), 4),
            "bins": [part._asdict() for part in reliability(sure, correct)],
        },
        "silence": {
            "area": round(curve.area, 4),
            "coverage_at_risk": {str(risk): round(curve.coverage_at(risk)[0], 4) for risk in RISKS},
            "curve": [[round(float(part[i]), 4) for part in (curve.coverage, curve.risk)] for i in points],
        },
    }


def write_report(reports: Mapping[str, dict[str, Any]], folder: str | Path) -> None:
    """Writes `report.json`, `report.md` and its plots.

    Args:
        reports: by split, of `make_report`.
        folder: of the report; it is made where it is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [REPORT_HEAD]
    for split, report in reports.items():
        _plot_reliability(report["calibration"]["bins"], folder / f"reliability_{split}.png")
        _plot_risk(report["silence"]["curve"], folder / f"risk_{split}.png")
        parts.append(_describe(split, report))
    write_atomically(folder / "report.json", json.dumps(reports, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "report.md", "\n".join(parts))


def _describe(split: str, report: Mapping[str, Any]) -> str:
    figures, calibration, silence = (report[name] for name in ("figures", "calibration", "silence"))
    names = list(figures[0]["baselines"])
    head = [
        "kind of question",
        "questions",
        "images",
        "EM",
        "F1",
        "recall",
        "BLEU-1",
        *(f"EM, {name}" for name in names),
    ]
    lines = [f"## {split.capitalize()}", "", *_table_head(head)]
    for entry in figures:
        kind = "all" if entry["group"] == "all" else f"{entry['group'].replace('_', ' ')}: {entry['value']}"
        cells = [_escape(kind), f"{entry['questions']:,}", f"{entry['images']:,}"]
        cells += [_interval(entry.get(name)) for name in ("exact_match", "f1", "llava_med_recall", "bleu_1")]
        lines.append("| " + " | ".join(cells + [f"{entry['baselines'][name]:.2f}" for name in names]) + " |")
    covered = ", ".join(
        f"{float(coverage):.1%} of the questions at a risk of {float(risk):.0%}"
        for risk, coverage in silence["coverage_at_risk"].items()
    )
    return "\n".join(
        [
            *lines,
            "",
            f"Mean confidence {calibration['mean_confidence']:.1%}, expected calibration error "
            f"{calibration['expected_calibration_error']:.1%}, log loss {calibration['log_loss']:.3f}. Area under "
            f"risk against coverage {silence['area']:.4f}; the surest answers reach {covered}.",
            "",
            f"![Accuracy against confidence](reliability_{split}.png) ![Risk against coverage](risk_{split}.png)",
            "",
        ]
    )


def _table_head(names: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def _interval(figure: Sequence[float | None] | None) -> str:
    if figure is None:
        return ""
    value, low, high = figure
    return f"{value:.2f}" if low is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _plot_reliability(bins: Sequence[Mapping[str, float]], file: Path) -> None:
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


def _plot_risk(curve: Sequence[Sequence[float]], file: Path) -> None:
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*curve, strict=True), color="#0b6e75")
    _frame(axes, "coverage: share answered, the surest first", "risk: share of wrong answers")
    axes.set_ylim(0, 1.05 * max(risk for _, risk in curve) or 1)
    figure.savefig(file, dpi=120)


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
