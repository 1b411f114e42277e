"""Where rows come from: every kind of data set is read into the raw rows of `processing.sources.rows`."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from processing.errors import UserError
from processing.sources.phantom import read_phantom
from processing.sources.rows import FACTS, Row, Source
from processing.sources.tables import TABLE_SUFFIXES
from processing.sources.values import is_word_for_missing

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_source(
    dataset: str,
    column_names: Iterable[str] = (),
    image_folder: str | None = None,
    *,
    config: str | None = None,
    revision: str | None = None,
) -> Source:
    """Reads the rows of a data set, whose kind its name or its files tell.

    Args:
        dataset: a SLAKE or VQA-RAD folder, a folder of tables (Parquet, JSON, JSON Lines or CSV) or one of them,
            `phantom` (60 generated images), `phantom:N` or `phantom:NxS` (patients of S slices), or the id
            `user/name` of a Hub data set repo.
        column_names: `field=column` pairs for tables whose columns have other names.
        image_folder: the folder that a table's image paths are relative to; the table's own folder by default.
        config: the configuration to read, by the names of the data set's README.md.
        revision: branch, tag or commit of a Hub data set; `main` by default.

    Raises:
        UserError: there is no such data set, a file can't be read as what its name says, or column names, an image
            folder, a configuration or a revision are given for a data set that has none. Some files are read, and
            refused, not before their rows are.
    """
    column_names = list(column_names)
    source = _read_source(dataset, column_names, image_folder, config, revision)
    source.rows = _without_words_for_missing(source.rows)
    if source.kind != "table":
        for flag, given in (("--column_names", column_names), ("--image_folder", image_folder)):
            if given:
                raise UserError(f"{flag} is for tables, and {dataset} is read as {_name(source)}; leave it out.")
        if config is not None:
            raise UserError(f"--dataset_config: {dataset} is read as {_name(source)}, which has none; leave it out.")
    if revision is not None and source.repo is None:
        raise UserError(f"--dataset_revision is for data sets of the Hub, and {dataset} is none; leave it out.")
    return source


def _without_words_for_missing(rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        row.update((field, None) for field in FACTS if is_word_for_missing(row.get(field)))
        yield row


def _name(source: Source) -> str:
    return {"slake": "SLAKE", "vqa_rad": "VQA-RAD"}.get(source.kind, source.kind)


def _read_source(
    dataset: str, column_names: Iterable[str], image_folder: str | None, config: str | None, revision: str | None
) -> Source:
    if not dataset:
        raise UserError("--dataset is empty; name a data set (if you gave a shell variable, check that it is set).")
    if phantom := read_phantom(dataset):
        return phantom
    path = Path(os.path.expanduser(dataset))
    if os.path.exists(path):
        from processing.sources.local import read_path  # datasets takes a while to import

        return read_path(path, config, column_names, image_folder)
    if HUB_ID.fullmatch(dataset) and path.suffix.lower() not in TABLE_SUFFIXES:
        from processing.sources.hub import read_repo

        return read_repo(dataset, revision, config, column_names, image_folder)
    raise UserError(
        f"--dataset {dataset}: there is no such file or folder, and it is not the id of a Hub data set (user/name); "
        "give a SLAKE or VQA-RAD folder, a Parquet, JSON, JSONL or CSV file or a folder of them, a Hub id, or phantom."
    )
