"""Where rows come from: every kind of data set is read into the raw rows of `processing.sources.rows`."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from processing.errors import UserError
from processing.sources.phantom import read_phantom
from processing.sources.rows import FACTS, Source
from processing.sources.slake import read_slake
from processing.sources.tables import TABLE_SUFFIXES, Record, read_records, split_files, table_rows
from processing.sources.values import is_word_for_missing
from processing.sources.vqa_rad import (
    PUBLIC_FILE,
    has_vqa_rad_splits,
    is_vqa_rad,
    read_vqa_rad_splits,
    vqa_rad_source,
)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_source(dataset: str, column_names: Iterable[str] = (), image_folder: str | None = None) -> Source:
    """Reads the rows of a data set, whose kind its name or its files tell.

    Args:
        dataset: a SLAKE or VQA-RAD folder, a folder of tables, one JSON, JSON Lines or CSV file, `phantom` (60
            generated images) or `phantom:N`, or the id `user/name` of a Hub data set repo in SLAKE's format.
        column_names: `field=column` pairs for tables whose columns have other names.
        image_folder: the folder that a table's image paths are relative to; the table's own folder by default.

    Raises:
        UserError: there is no such data set, a file can't be read as what its name says, or column names or an image
            folder are given for a data set that knows its own.
    """
    column_names = list(column_names)
    source = _read_source(dataset, column_names, image_folder)
    for row in source.rows:
        row |= {field: None for field in FACTS if is_word_for_missing(row.get(field))}
    if source.kind != "table":
        for flag, given in (("--column_names", column_names), ("--image_folder", image_folder)):
            if given:
                name = {"slake": "SLAKE", "vqa_rad": "VQA-RAD"}.get(source.kind, source.kind)
                raise UserError(f"{flag} is for tables, and {dataset} is read as {name}; leave it out.")
    return source


def _read_source(dataset: str, column_names: Iterable[str], image_folder: str | None) -> Source:
    if not dataset:
        raise UserError("--dataset is empty; name a data set (if you gave a shell variable, check that it is set).")
    if phantom := read_phantom(dataset):
        return phantom
    path = Path(os.path.expanduser(dataset))
    if os.path.isdir(path):
        return _read_folder(path, column_names, image_folder)
    if os.path.isfile(path):
        return _read_file(path, column_names, image_folder)
    if HUB_ID.fullmatch(dataset) and path.suffix.lower() not in TABLE_SUFFIXES:
        from processing.sources.hub import download_slake  # huggingface_hub takes a while to import

        return read_slake(download_slake(dataset))
    raise UserError(
        f"--dataset {dataset}: there is no such file or folder, and it is not the id of a Hub data set (user/name); "
        "give a SLAKE or VQA-RAD folder, a JSON, JSONL or CSV file, a Hub id, or phantom."
    )


def _read_folder(folder: Path, column_names: Iterable[str], image_folder: str | None) -> Source:
    if (folder / PUBLIC_FILE).is_file():
        return _read_file(folder / PUBLIC_FILE, column_names, image_folder)
    if has_vqa_rad_splits(folder):
        return read_vqa_rad_splits(folder)
    if (folder / "imgs").is_dir() and split_files(folder, (".json",)):
        return read_slake(folder)
    if files := split_files(folder, TABLE_SUFFIXES):
        rows = [
            row
            for file, records in _with_rows({file: read_records(file, split) for split, file in files.items()}).items()
            for row in table_rows(file, records, column_names)
        ]
        return Source("table", Path(image_folder or folder), rows)
    tables = sorted(file for file in folder.iterdir() if file.suffix.lower() in TABLE_SUFFIXES)
    if len(tables) == 1:
        return _read_file(tables[0], column_names, image_folder)
    found = ", ".join(table.name for table in tables) or "no table at all"
    raise UserError(
        f"--dataset {folder}: the folder is neither SLAKE (train.json, imgs/) nor VQA-RAD (trainset.json, images/) "
        f"and has no train, validation or test table (found: {found}); name the one file to read."
    )


def _with_rows(tables: dict[Path, list[Record]]) -> dict[Path, list[Record]]:
    """The tables that are not empty; all of them where none has a row."""
    return {file: records for file, records in tables.items() if records} or tables


def _read_file(file: Path, column_names: Iterable[str], image_folder: str | None) -> Source:
    records = read_records(file, None)
    if is_vqa_rad(records):
        return vqa_rad_source(file.parent, records)
    return Source("table", Path(image_folder or file.parent), table_rows(file, records, column_names))
