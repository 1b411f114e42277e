"""Rows of any known data set as one `DatasetDict` with one schema, validated and free of leaks."""

import heapq
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import datasets
from tqdm import tqdm

from processing.errors import UserError, shorten
from processing.good_rows import GoodRows
from processing.known_data_sets import SourceInfo, describe_source
from processing.problems import Problem, describe_problems
from processing.sources import read_source
from processing.sources.rows import Row, Source
from processing.sources.slake import SOURCE, read_slake_boxes
from processing.sources.values import language_code
from processing.splits import (
    LEFT_OUT,
    TEST,
    Places,
    choose_to_evaluate,
    hold_out_tuning_rows,
    overlaps,
    refuse_leaks,
    refuse_shared,
    split_rows,
)
from processing.spool import Spool
from processing.storage import write_jsonl
from processing.validation import RowChecker

logger = logging.getLogger(__name__)

NAMED_LANGUAGES = 10  # that a message names
PROGRESS_AFTER = 5  # seconds until a progress bar is shown
FLAGS_OF_ONE = re.compile(r"--(column_names|image_folder|dataset_config|dataset_revision)\b")


@dataclass
class CheckedRows:
    """The rows of a data set, the good ones told from the bad ones.

    Attributes:
        source: of the rows.
        total: how many there are, in the language that was asked for.
        good: those that can be used, in the splits that the data set names.
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
    """The rows of a data set as it has them, until the block ends. The arguments are those of `load_vqa_dataset`.

    Raises:
        UserError: the data set can't be read, or it holds no rows at all.
    """
    source = read_source(dataset, column_names, image_folder, config=dataset_config, revision=dataset_revision)
    with GoodRows() as good:
        bad, total = _load(source, good, language, allow_no_answer)
        if not total:
            raise UserError(f"{dataset}: it holds no rows at all.")
        yield CheckedRows(source, total, good, bad)


def load_vqa_dataset(
    dataset: str,
    *,
    language: str = "en",
    column_names: Iterable[str] = (),
    image_folder: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    on_bad_rows: str = "skip",
    leaks: str = "refuse",
    allow_no_answer: bool = False,
    split_by: str | None = None,
    split_seed: int = 0,
    tuning_split: bool = False,
    eval_dataset: str | None = None,
    skipped_rows_file: str | Path | None = None,
) -> datasets.DatasetDict:
    """Loads, validates and splits a data set.

    Args:
        dataset: see `processing.sources.read_source`.
        language: `en`, `zh` or `all`; rows of a data set that names no language are always kept.
        column_names, image_folder: for tables, see `read_source`.
        dataset_config, dataset_revision: for data sets that have them, see `read_source`.
        on_bad_rows: `skip` warns and writes them to `skipped_rows_file`; `error` refuses the data set.
        leaks: see `processing.splits.refuse_leaks`.
        allow_no_answer: keeps rows with an empty answer.
        split_by, split_seed: see `processing.splits.split_rows`; the seed is also that of `tuning_split`.
        tuning_split: see `processing.splits.hold_out_tuning_rows`.
        eval_dataset: another data set, whose test split becomes the test split here. Where it has none it is the
            validation split, and all rows where it has no splits. Only the language and what to do with bad rows
            count for it of the other options.

    Returns:
        The splits `train`, `validation` and `test` as far as there are rows for them, with the features `SCHEMA` and,
        as `info`, which data set it is.

    Raises:
        UserError: the data set can't be used; the message says why and what to do.
    """
    source = read_source(dataset, column_names, image_folder, config=dataset_config, revision=dataset_revision)
    other = None
    if eval_dataset is not None:
        with _names_eval_dataset(eval_dataset):
            other = read_source(eval_dataset)

    def load(source: Source, name: str, rows: GoodRows) -> None:
        bad, total = _load(source, rows, language, allow_no_answer)
        if bad:
            report = describe_problems(bad, total)
            if on_bad_rows == "error":
                raise UserError(f"{name}: {report}\nFix them, or skip them with --on_bad_rows skip.")
            if len(bad) == total:
                raise UserError(f"{name}: no rows left. {report}")
            if skipped_rows_file is not None:
                skipped.extend(bad)
                write_jsonl(skipped_rows_file, skipped)
                report += f"\n  They are skipped, and listed in {skipped_rows_file}."
            logger.warning("%s: %s", name, report)
        elif not rows:
            raise UserError(f"{name}: it holds no rows at all.")

    skipped: Spool[Row] = Spool()
    with GoodRows(own_splits=split_by is None) as rows, GoodRows() as other_rows:
        load(source, f"--dataset {dataset}", rows)
        places = rows.places()
        split_rows(places, split_seed, split_by)
        refuse_leaks(places, leaks)
        if tuning_split:
            hold_out_tuning_rows(places, split_seed)
        if other is not None:
            with _names_eval_dataset(eval_dataset):
                load(other, f"--eval_dataset {eval_dataset}", other_rows)
            others = other_rows.places()
            choose_to_evaluate(others)
            places.split[places.split == TEST] = LEFT_OUT
            refuse_shared(places, others, leaks)
        result = rows.to_dataset_dict(places.split, overlaps(places), _describe(source, places))
        if other is not None:
            overlap, info = overlaps(others, places), _describe(other, others)
            result |= other_rows.to_dataset_dict(others.split, overlap, info, sum(map(len, result.values())))
        return result


@contextmanager
def _names_eval_dataset(name: str | None) -> Iterator[None]:
    """Lets errors about a data set name the flag that it was given by."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"--dataset\b", "--eval_dataset", str(error))
        if "--eval_dataset" not in text:
            text = f"--eval_dataset {name}: {text}"
        if FLAGS_OF_ONE.search(text):
            text += " (Such flags are for --dataset alone: change the files of this one.)"
        raise UserError(text) from error


def _describe(source: Source, places: Places) -> SourceInfo:
    return describe_source(source, places.used_images(places.split != LEFT_OUT))


def _load(source: Source, rows: GoodRows, language: str, allow_no_answer: bool) -> tuple[Spool[Row], int]:
    """Reads and checks the rows of a source.

    Returns:
        The bad rows, and the number of all rows of the language.
    """
    raw, names = _read_rows(source, language)
    checker = RowChecker(source, names, allow_no_answer=allow_no_answer)
    return _check_rows(raw, checker, rows, source), len(raw)


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


def _check_rows(rows: Spool[Row], checker: RowChecker, good: GoodRows, source: Source) -> Spool[Row]:
    """Puts the good rows into `good` and returns the bad ones, both in their order."""
    boxes_of = lru_cache(1_000)(partial(read_slake_boxes, root=Path(os.path.realpath(source.root))))
    have_own_folders = source.kind in ("slake", "phantom")
    bad: Spool[Row] = Spool()
    for number, row in enumerate(tqdm(rows, "Checking rows", unit="row", unit_scale=True, delay=PROGRESS_AFTER)):
        image = checker.check(row)
        if isinstance(image, Problem):
            bad.append(row | {"number": number})
            continue
        if have_own_folders or SOURCE.fullmatch(os.path.basename(row["image"])):
            row["boxes"] = boxes_of(Path(row["image"]))
        good.append(row, image, number)
    ordered = heapq.merge(bad, good.repeated_rows(), key=lambda row: row["number"])
    return Spool({name: value for name, value in row.items() if name != "number"} for row in ordered)
