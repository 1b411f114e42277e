"""Charts of an audit. They show figures alone, no image and no text of the data."""

import io
import textwrap
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metrics.plots import ACCENT

COLORS = {"all": ACCENT, "open": "#d08a2e", "closed": "#7a8f8c"}
SEEN = {
    "same": ("the very image in training", "#a3271b"),
    "near": ("a near neighbour in training", "#d08a2e"),
    "none": ("neither", ACCENT),
}


def make_charts(report: Mapping[str, Any]) -> dict[str, bytes]:
    """The charts of a report as PNG files, by name; those without anything to show are left out."""
    charts = {}
    if report["seen_in_training"]:
        charts["seen_in_training.png"] = _seen_chart(report["seen_in_training"])
    for split, entries in report["question_alone"].items():
        charts[f"question_alone_{split}.png"] = _question_chart(entries, split)
    return charts


def _seen_chart(seen: Mapping[str, Mapping[str, Mapping[str, int]]]) -> bytes:
    """A bar for each split: the shares of its rows by what training has seen of their image."""
    figure = Figure(figsize=(7, 1.3 + 0.5 * len(seen)), layout="constrained")
    axes = figure.subplots()
    for place, counts in enumerate(seen.values()):
        total, left = sum(count["rows"] for count in counts.values()), 0.0
        for kind, (title, color) in SEEN.items():
            share = 100 * counts[kind]["rows"] / total
            axes.barh(place, share, left=left, color=color, label=title if place == 0 else None)
            if share >= 5:
                text = f"{share:.0f} %, {counts[kind]['images']:,} images"
                axes.text(left + share / 2, place, text, ha="center", va="center", color="white", fontsize=8)
            left += share
    axes.set(yticks=range(len(seen)), yticklabels=list(seen), xlabel="percent of the rows", xlim=(0, 100))
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(SEEN), frameon=False, fontsize=8)
    return _png(figure, axes)


def _question_chart(entries: list[dict[str, Any]], split: str) -> bytes:
    """Exact Match of each way to answer without the image, with its interval."""
    figure = Figure(figsize=(7, 1.2 + 0.8 * len(entries)), layout="constrained")
    axes = figure.subplots()
    kinds = list(entries[0]["figures"])
    for place, entry in enumerate(entries):
        for i, kind in enumerate(kinds):
            mean, low, high = entry["figures"][kind]["exact_match"]
            y = place + 0.25 * (i - (len(kinds) - 1) / 2)
            label = f"{kind} ({entry['figures'][kind]['n']:,})" if place == 0 else None
            axes.barh(y, mean, 0.22, color=COLORS[kind], label=label)
            if low is not None:
                axes.plot([low, high], [y, y], color="black", linewidth=1)
    axes.set(yticks=range(len(entries)), xlim=(0, 100))
    axes.set_yticklabels([textwrap.fill(entry["name"], 24) for entry in entries])
    axes.set(title=f"{split} questions", xlabel="Exact Match in percent, with 95 % intervals")
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)
    return _png(figure, axes)


def _png(figure: Figure, axes: Axes) -> bytes:
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, dpi=120, metadata={"Software": None})
    return file.getvalue()
