"""Figures of a file of predictions, with and without the images that training has nearly seen."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from metrics.protocols.figures import Answered, make_figures
from metrics.protocols.formats import read_predictions
from metrics.protocols.joining import first_ids, join
from processing.errors import UserError

TITLES = {
    "same": "those whose image is in training",
    "near": "those whose image has a near neighbour in training",
    "none": "those whose image has none in training",
}


def predicted_figures(file: Path, dataset: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The figures of predictions for a split under every protocol of `metrics.protocols`.

    Args:
        file: of the predictions.
        dataset: the splits, as `load_vqa_dataset` returns them.
        split: that the predictions are for.

    Returns:
        `file`, `format`, `split`; counts of `questions`, of `strangers` (predictions for no question of the split), of
        questions that are `missing` and of `empty` predictions; and `figures` of all questions, and of those of each
        kind of `processing.splits.OVERLAPS` where there are several.

    Raises:
        UserError: the file can't be read, or joined with the data set.
    """
    predictions = read_predictions(file)
    if not predictions.format.has_ids:
        raise UserError(
            f"--predictions {file}: {predictions.format.name} have no ids of questions, so their images can't be "
            "found; score them by python -m metrics.protocols."
        )
    joined = join(predictions, dataset, split)
    figures = [{"of": "all questions", "figures": _figures(joined.rows, joined.vocabulary)}]
    for kind, title in TITLES.items():
        chosen = [row for row in joined.rows if row.overlap == kind]
        if chosen and len(chosen) < len(joined.rows):
            figures.append({"of": title, "figures": _figures(chosen, joined.vocabulary)})
    return {
        "file": file.name,
        "format": predictions.format.name,
        "split": split,
        "questions": len(joined.rows),
        "strangers": _listed(joined.strangers),
        "missing": _listed(joined.missing),
        "empty": predictions.empty,
        "figures": figures,
    }


def _figures(rows: Sequence[Answered], vocabulary: Collection[str] | None) -> list[dict[str, Any]]:
    """The figures of some rows together, whatever training has seen of them."""
    return [figure._asdict() for figure in make_figures([row._replace(overlap=None) for row in rows], vocabulary)]


def _listed(ids: Sequence[str]) -> dict[str, Any]:
    return {"count": len(ids), "first": first_ids(ids) if ids else ""}
