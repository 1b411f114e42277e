"""Rows of any known data set as one `DatasetDict` with one schema, validated and free of leaks."""

import heapq
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import datasets
from tqdm import tqdm

from processing.errors import UserError, shorten
from processing.good_rows import GoodRows
from processing.known_data_sets import describe_source
from processing.problems import Problem, describe_problems
from processing.sources import read_source
from processing.sources.rows import Row, Source
from processing.sources.slake import read_slake_boxes
from processing.sources.values import language_code
from processing.splits import LEFT_OUT, hold_out_tuning_rows, refuse_leaks, split_by_image
from processing.spool import Spool
from processing.storage import write_jsonl
from processing.validation import RowChecker

logger = logging.getLogger(__name__)

NAMED_LANGUAGES = 10  # that a message names
PROGRESS_AFTER = 5  # seconds until a progress bar is shown


@dataclass
class CheckedRows:
    """The rows of a data set, the good ones told from the bad ones.

    Attributes:
        source: of the rows.
        total: how many there are, in the language that was asked for.
        good: those that can be used.
        bad: the others, in their order, with `problem`, `detail` and `where`.
    """

    source: Source
    total: int
    good: GoodRows
    bad: Spool[Row]


@contextmanager
def checked_rows(
    dataset: str,
    *,
    language: str = "en",
    column_names: Iterable[str] = (),
    image_folder: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    allow_no_answer: bool = False,
) -> Iterator[CheckedRows]:
    """The rows of a data set in the splits that it names itself, until the block ends; arguments as `load_vqa_dataset`.

    Raises:
        UserError: the data set can't be read, or it holds no rows.
    """
    source = read_source(dataset, column_names, image_folder, config=dataset_config, revision=dataset_revision)
    rows, names = _read_rows(source, language)
    if not rows:
        raise UserError(f"--dataset {dataset}: it holds no rows at all.")
    with GoodRows() as good:
        bad = _check_rows(rows, RowChecker(source, names, allow_no_answer=allow_no_answer), good, source.kind)
        yield CheckedRows(source, len(rows), good, bad)


def load_vqa_dataset(
    dataset: str,
    *,
    language: str = "en",
    column_names: Iterable[str] = (),
    image_folder: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    on_bad_rows: str = "skip",
    drop_leaking_rows: bool = False,
    allow_no_answer: bool = False,
    split_seed: int = 0,
    tuning_split: bool = False,
    skipped_rows_file: str | Path | None = None,
) -> datasets.DatasetDict:
    """Loads, validates and splits a data set.

    Args:
        dataset: see `processing.sources.read_source`.
        language: `en`, `zh` or `all`; rows of a data set that names no language are always kept.
        column_names, image_folder: for tables, see `read_source`.
        dataset_config, dataset_revision: for data sets that have them, see `read_source`.
        on_bad_rows: `skip` warns and writes them to `skipped_rows_file`; `error` refuses the data set.
        drop_leaking_rows: see `processing.splits.refuse_leaks`.
        allow_no_answer: keeps rows with an empty answer.
        split_seed: seed of the split by image where the data set has none, and of `tuning_split`.
        tuning_split: see `processing.splits.hold_out_tuning_rows`.

    Returns:
        The splits `train`, `validation` and `test` as far as there are rows for them, with the features `SCHEMA` and,
        as `info`, which data set it is.

    Raises:
        UserError: the data set can't be used; the message says why and what to do.
    """
    with checked_rows(
        dataset,
        language=language,
        column_names=column_names,
        image_folder=image_folder,
        dataset_config=dataset_config,
        dataset_revision=dataset_revision,
        allow_no_answer=allow_no_answer,
    ) as checked:
        good, bad = checked.good, checked.bad
        if bad:
            report = describe_problems(bad, checked.total)
            if on_bad_rows == "error":
                raise UserError(f"--dataset {dataset}: {report}\nFix them, or skip them with --on_bad_rows skip.")
            if not good:
                raise UserError(f"--dataset {dataset}: no rows left. {report}")
            if skipped_rows_file is not None:
                write_jsonl(skipped_rows_file, bad)
                report += f"\n  They are skipped, and listed in {skipped_rows_file}."
            logger.warning("%s", report)
        new_ids = good.unique_ids()
        places = good.places()
        split_by_image(places, split_seed)
        refuse_leaks(places, drop_leaking_rows=drop_leaking_rows)
        if tuning_split:
            hold_out_tuning_rows(places, split_seed)
        info = describe_source(checked.source, places.used_images(places.split != LEFT_OUT))
        return good.to_dataset_dict(places.split, new_ids, info)


def _read_rows(source: Source, language: str) -> tuple[Spool[Row], dict[str, None]]:
    """The rows of a language and those that name none, and the names of all their images.

    In the rows, `en` and `zh` stand for all names of these languages.
    """
    rows: Spool[Row] = Spool()
    names: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    for row in tqdm(source.rows, "Reading rows", unit="row", unit_scale=True, delay=PROGRESS_AFTER):
        row["language"] = language_code(row["language"])
        if language != "all" and row["language"] not in (None, language):
            left_out[shorten(str(row["language"]))] += 1
            continue
        rows.append(row)
        if isinstance(row["image"], str):
            names[row["image"]] = None
    if left_out:
        _tell_languages(language, left_out, len(rows))
    return rows, names


def _tell_languages(language: str, left_out: Counter[str], kept: int) -> None:
    """Which rows are left out for their language."""
    common = left_out.most_common(NAMED_LANGUAGES)
    if not kept:
        found = ", ".join(f"{name} ({count:,} rows)" for name, count in common)
        raise UserError(
            f"--language {language}: no row is in that language; the data set has {found}; add --language all."
        )
    others = f" and {len(left_out) - len(common):,} more" if len(left_out) > len(common) else ""
    logger.warning(
        "--language %s leaves out %s of %s rows: %s%s.",
        language,
        f"{left_out.total():,}",
        f"{kept + left_out.total():,}",
        ", ".join(f"{name} ({count:,})" for name, count in common),
        others,
    )


def _check_rows(rows: Spool[Row], checker: RowChecker, good: GoodRows, kind: str) -> Spool[Row]:
    """Puts the good rows into `good` and returns the bad ones, both in their order."""
    boxes_of = lru_cache(1_000)(read_slake_boxes) if kind in ("slake", "phantom") else None
    bad: Spool[Row] = Spool()
    for number, row in enumerate(tqdm(rows, "Checking rows", unit="row", unit_scale=True, delay=PROGRESS_AFTER)):
        image = checker.check(row)
        if isinstance(image, Problem):
            bad.append(row | {"number": number})
            continue
        if boxes_of is not None:
            row["boxes"] = boxes_of(Path(row["image"]))
        good.append(row, image, number)
    ordered = heapq.merge(bad, good.repeated_rows(), key=lambda row: row["number"])
    return Spool({name: value for name, value in row.items() if name != "number"} for row in ordered)
