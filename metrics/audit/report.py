"""What the audit finds, as one report that is written as JSON and shown as a page."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metrics.audit.findings import (
    answer_distribution,
    describe_bad_rows,
    find_contradictions,
    find_duplicates,
    unseen_answers,
)
from metrics.audit.overlaps import describe_overlap, find_overlaps, seen_in_training
from metrics.audit.predicted import predicted_figures
from metrics.audit.question_only import question_alone
from metrics.audit.table import Table, make_table
from processing.data import CheckedRows
from processing.errors import UserError
from processing.known_data_sets import describe_source
from processing.neighbours import THRESHOLD, clusters
from processing.problems import describe_problems
from processing.splits import LEFT_OUT, NO_SPLIT, ORDER, TEST, TRAIN, VALIDATION, overlaps, split_rows

logger = logging.getLogger(__name__)

FAILURES = {
    "leaks": "images or groups that are in two splits",
    "neighbours": "images that look almost like one in an earlier split",
    "contradictions": "questions that are answered in two ways",
    "bad_rows": "rows that can't be used",
}


def make_report(
    checked: CheckedRows, name: str, *, split_seed: int = 0, predictions: Path | None = None, split: str | None = None
) -> tuple[dict[str, Any], Table]:
    """Audits a data set.

    Args:
        checked: its rows.
        name: what the report calls it.
        split_seed: of the split that a data set without one would get.
        predictions: a file of a model's answers.
        split: that they are for; by default test, or validation where there is no test split.

    Returns:
        The report: `data`, `bad_rows`, `splits` (of each the `answer_distribution`), `overlaps`, `duplicates`,
        `contradictions`, `unseen_answers`, `question_alone`, and `predictions` or None; and the rows that it is of.

    Raises:
        UserError: no row can be used, or the predictions can't be read or joined.
    """
    if not checked.good:
        raise UserError(f"{name}: no rows left. {describe_problems(checked.bad, checked.total)}")
    places = checked.good.places()
    present = {int(code) for code in np.unique(places.split)} - {LEFT_OUT}
    splits = "the data set's own"
    if not present & {VALIDATION, TEST}:
        splits = f"none of its own; by image, as train.py makes them (--split_seed {split_seed})"
        try:
            split_rows(places, split_seed)
        except UserError as error:
            splits = f"none of its own, and none can be made: {error}"
    elif NO_SPLIT in present:
        splits += f"; {(places.split == NO_SPLIT).sum():,} rows have none"
    info = describe_source(checked.source, places.used_images(places.split != LEFT_OUT))
    overlap = overlaps(places)
    table = make_table(checked.good, places, overlap)
    logger.info("%s: %s rows on %s images.", name, f"{len(table.rows):,}", f"{len(table.images):,}")
    later = [code for code in table.splits() if code != TRAIN]
    has_training = TRAIN in table.splits()
    logger.info("Answering without the images ...")
    report: dict[str, Any] = {
        "data": {
            "name": name,
            "known_as": info.dataset_name,
            "revision": info.revision,
            "rows": checked.total,
            "usable_rows": len(table.rows),
            "images": len(table.images),
            "groups_of_near_identical_images": int(clusters([image.thumbnail for image in table.images]).max()) + 1,
            "near_identical_above": THRESHOLD,
            "splits": splits.rstrip("."),
        },
        "bad_rows": describe_bad_rows(checked.bad, checked.total),
        "splits": {ORDER[code]: answer_distribution(table, table.of_split(code)) for code in table.splits()},
        "answers": answer_distribution(table, np.arange(len(table.rows))),
        "seen_in_training": {ORDER[code]: seen_in_training(table, code) for code in later if has_training},
        "overlaps": [describe_overlap(table, found) for found in find_overlaps(table)],
        "duplicates": find_duplicates(table),
        "contradictions": find_contradictions(table),
        "unseen_answers": {ORDER[code]: unseen_answers(table, code) for code in later if has_training},
        "question_alone": {ORDER[code]: question_alone(table, code) for code in later if has_training},
        "predictions": None,
    }
    if predictions is not None:
        chosen = split or ("test" if "test" in report["splits"] else "validation")
        dataset = checked.good.to_dataset_dict(places.split, overlap, info)
        report["predictions"] = predicted_figures(predictions, dataset, chosen)
    return report, table


def count_failures(report: Mapping[str, Any]) -> dict[str, int]:
    """How often each of `FAILURES` was found."""
    return {
        "leaks": sum(overlap["same"]["images"] + overlap["groups"] for overlap in report["overlaps"]),
        "neighbours": sum(overlap["near"]["images"] for overlap in report["overlaps"]),
        "contradictions": report["contradictions"]["questions"],
        "bad_rows": report["bad_rows"]["rows"],
    }
