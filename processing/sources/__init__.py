"""Where rows come from: every kind of data set is read into the same raw rows.

A raw row is a dict with the fields of `processing.data.SCHEMA` (unchecked), `split` (None where the data set has no
splits) and `where`, the file and the number of the row in it, for messages.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from processing.errors import UserError
from processing.phantom.files import cached_phantoms
from processing.sources.slake import read_slake
from processing.sources.tables import TABLE_SUFFIXES, Source, read_records, split_files, table_rows
from processing.sources.vqa_rad import VQA_RAD_PUBLIC_FILE, vqa_rad_rows

PHANTOM = re.compile(r"phantom(?::(\d{1,7}))?")

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_source(dataset: str, column_names: Iterable[str] = (), image_folder: str | None = None) -> Source:
    """Reads the rows of a data set; what it is is told by what is there.

    Args:
        dataset: a SLAKE or VQA-RAD folder, a folder of tables, one JSON, JSONL or CSV file, `phantom` (60
            generated images) or `phantom:N`, or the id `user/name` of a Hub data set repo in SLAKE's format.
        column_names: `field=column` pairs for tables whose columns have other names.
        image_folder: the folder that a table's image paths are relative to; the table's own folder by default.

    Raises:
        UserError: nothing is there, or a file can't be read as what it claims to be.
    """
    if not dataset:
        raise UserError("--dataset is empty; name a data set (if it is a variable of the shell, is that set?).")
    if match := PHANTOM.fullmatch(dataset):
        return replace(read_slake(cached_phantoms(int(match[1] or 60))), kind="phantom")
    path = Path(dataset).expanduser()
    if path.is_dir():
        return _read_folder(path, column_names, image_folder)
    if path.is_file():
        return _read_file(path, column_names, image_folder)
    if HUB_ID.fullmatch(dataset):
        from processing.sources.hub import download_slake

        return read_slake(download_slake(dataset))
    raise UserError(
        f"--dataset {dataset}: there is no such file or folder, and it is no Hub data set id (user/name); "
        "give a SLAKE or VQA-RAD folder, a JSON, JSONL or CSV file, a Hub id, or phantom."
    )


def _read_folder(folder: Path, column_names: Iterable[str], image_folder: str | None) -> Source:
    if (folder / VQA_RAD_PUBLIC_FILE).is_file():
        return _read_file(folder / VQA_RAD_PUBLIC_FILE, column_names, image_folder)
    if (folder / "trainset.json").is_file() or (folder / "testset.json").is_file():
        files = {split: folder / f"{split}set.json" for split in ("train", "test")}
        rows = [
            row for split, file in files.items() if file.is_file() for row in vqa_rad_rows(read_records(file, split))
        ]
        return Source("vqa_rad", folder / "images", rows)
    if (folder / "imgs").is_dir() and split_files(folder, (".json",)):
        return read_slake(folder)
    if files := split_files(folder, TABLE_SUFFIXES):
        rows = [
            row for split, file in files.items() for row in table_rows(file, read_records(file, split), column_names)
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


def _read_file(file: Path, column_names: Iterable[str], image_folder: str | None) -> Source:
    records = read_records(file, None)
    if records and {"phrase_type", "image_name"} <= records[0][0].keys():
        # the public release keeps its images in `VQA_RAD Image Folder`, other copies in `images`
        folders = [file.parent / name for name in ("images", "VQA_RAD Image Folder")]
        folder = next((folder for folder in folders if folder.is_dir()), folders[0])
        return Source("vqa_rad", folder, vqa_rad_rows(records))
    return Source("table", Path(image_folder or file.parent), table_rows(file, records, column_names))
