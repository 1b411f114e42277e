"""Where rows come from: every kind of data set is read into the same raw rows.

A raw row is a dict with the fields of `processing.data.SCHEMA` (unchecked), `split` (None where the data set has no
splits) and `where`, the file and the number of the row in it, for messages.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from processing.errors import UserError
from processing.phantom import cached_phantoms

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "validate", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
SPLIT_NAMES = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
TABLE_SUFFIXES = (".json", ".jsonl", ".csv")
TABLE_FIELDS = (
    *("image", "question", "answer", "split", "image_id", "question_id"),
    *("answer_type", "content_type", "modality", "location", "language"),
)
PHANTOM = re.compile(r"phantom(?::(\d{1,7}))?")
VQA_RAD_PUBLIC_FILE = "VQA_RAD Dataset Public.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

Row = dict[str, Any]


@dataclass
class Source:
    """The rows of a data set, the folder that all its images must lie in, and which data set it is."""

    kind: str  # slake, vqa_rad, phantom or table
    root: Path
    rows: list[Row]


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
        return replace(_read_slake(cached_phantoms(int(match[1] or 60))), kind="phantom")
    path = Path(dataset).expanduser()
    if path.is_dir():
        return _read_folder(path, column_names, image_folder)
    if path.is_file():
        return _read_file(path, column_names, image_folder)
    if HUB_ID.fullmatch(dataset):
        from processing.hub import download_slake

        return _read_slake(download_slake(dataset))
    raise UserError(
        f"--dataset {dataset}: there is no such file or folder, and it is no Hub data set id (user/name); "
        "give a SLAKE or VQA-RAD folder, a JSON, JSONL or CSV file, a Hub id, or phantom."
    )


def _read_folder(folder: Path, column_names: Iterable[str], image_folder: str | None) -> Source:
    if (folder / VQA_RAD_PUBLIC_FILE).is_file():
        return _read_file(folder / VQA_RAD_PUBLIC_FILE, column_names, image_folder)
    if (folder / "trainset.json").is_file() or (folder / "testset.json").is_file():
        files = {split: folder / f"{split}set.json" for split in ("train", "test")}
        rows = [row for split, file in files.items() if file.is_file() for row in _vqa_rad_rows(_records(file, split))]
        return Source("vqa_rad", folder / "images", rows)
    if (folder / "imgs").is_dir() and _split_files(folder, (".json",)):
        return _read_slake(folder)
    if files := _split_files(folder, TABLE_SUFFIXES):
        rows = [row for split, file in files.items() for row in _table_rows(file, _records(file, split), column_names)]
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
    records = _records(file, None)
    if records and {"phrase_type", "image_name"} <= records[0][0].keys():
        # the public release keeps its images in `VQA_RAD Image Folder`, other copies in `images`
        folders = [file.parent / name for name in ("images", "VQA_RAD Image Folder")]
        folder = next((folder for folder in folders if folder.is_dir()), folders[0])
        return Source("vqa_rad", folder, _vqa_rad_rows(records))
    return Source("table", Path(image_folder or file.parent), _table_rows(file, records, column_names))


def _split_files(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """The one file of each split that the folder holds under any of the split's usual names."""
    found: dict[str, Path] = {}
    for split, aliases in SPLITS.items():
        files = [file for alias in aliases for suffix in suffixes if (file := folder / f"{alias}{suffix}").is_file()]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise UserError(f"--dataset {folder}: {names} both name the {split} split; keep one of them.")
        if files:
            found[split] = files[0]
    return found


def _read_slake(folder: Path) -> Source:
    rows = []
    for split, file in _split_files(folder, (".json",)).items():
        for record, row in _records(file, split):
            rows.append(
                row
                | {field: record.get(field) for field in ("question", "answer", "answer_type", "content_type")}
                | {"image": record.get("img_name"), "image_id": record.get("img_name")}
                | {"modality": record.get("modality"), "location": record.get("location")}
                | {"language": record.get("q_lang"), "question_id": record.get("qid")}
            )
    return Source("slake", folder / "imgs", rows)


def read_slake_boxes(image: Path) -> list[dict] | None:
    """The organ and lesion boxes of one SLAKE image, from the `detection.json` beside it.

    Returns:
        A list of `label` and `bbox` = [x, y, width, height] in pixels of the image, origin top left; None without one.
    """
    try:
        entries = json.loads((image.parent / "detection.json").read_text(encoding="utf-8"))
        return [{"label": str(k), "bbox": [float(x) for x in box]} for entry in entries for k, box in entry.items()]
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _vqa_rad_rows(records: list[tuple[dict, Row]]) -> list[Row]:
    rows = []
    for record, row in records:
        in_test = str(record.get("phrase_type")).startswith("test")
        rows.append(
            row
            | {"split": row["split"] or ("test" if in_test else "train")}
            | {"image": record.get("image_name"), "image_id": record.get("image_name")}
            | {"question": record.get("question"), "answer": record.get("answer"), "question_id": record.get("qid")}
            | {"answer_type": record.get("answer_type"), "content_type": record.get("question_type")}
            | {"location": record.get("image_organ"), "language": "en"}
        )
    return rows


def _table_rows(file: Path, records: list[tuple[dict, Row]], column_names: Iterable[str]) -> list[Row]:
    columns = _parse_column_names(column_names)
    present = {column for record, _ in records for column in record}
    required = [columns[field] for field in ("image", "question", "answer")]
    if missing := [column for column in required if column not in present]:
        raise UserError(
            f"{file}: no column {' and no column '.join(map(repr, missing))} (found: "
            f"{', '.join(map(repr, sorted(present))) or 'none'}); name yours by --column_names image=... question=..."
        )
    rows = []
    for record, row in records:
        values = {field: record.get(column) for field, column in columns.items()}
        values["split"] = row["split"] or values["split"] or None
        values["image_id"] = values["image_id"] or values["image"]
        rows.append(row | values)
    return rows


def _parse_column_names(column_names: Iterable[str]) -> dict[str, str]:
    columns = {field: field for field in TABLE_FIELDS}
    for pair in column_names:
        field, separator, column = pair.partition("=")
        if not separator or not column or field not in columns:
            raise UserError(
                f"--column_names {pair}: expected field=column with a field out of {', '.join(TABLE_FIELDS)}."
            )
        columns[field] = column
    return columns


def _records(file: Path, split: str | None) -> list[tuple[dict, Row]]:
    """Each record of a file with the start of its raw row; rows are counted from 1."""
    readers: dict[str, Callable[[Path], list[dict]]] = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": read_csv}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"{file}: unknown kind of table; use a .json, .jsonl or .csv file.")
    records = []
    for number, record in enumerate(reader(file), start=1):
        if not isinstance(record, dict):
            raise UserError(f"{file} row {number}: expected an object with named fields, got {type(record).__name__}.")
        records.append((record, {"split": split, "where": f"{file.name} row {number}"}))
    return records


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror}).") from error


def _parse_json(text: str, file: Path, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line + error.lineno - 1}, column {error.colno}"
        raise UserError(f"{file}: not valid JSON at {where} ({error.msg}); mend or remove it.") from error
    except RecursionError as error:
        raise UserError(f"{file}: JSON nested too deeply; expected a list of flat objects.") from error


def _read_json(file: Path) -> list[dict]:
    records = _parse_json(_read_text(file), file)
    if not isinstance(records, list):
        raise UserError(f"{file}: expected a JSON list of rows, got {type(records).__name__}.")
    return records


def _read_jsonl(file: Path) -> list[dict]:
    lines = enumerate(_read_text(file).split("\n"), start=1)
    return [_parse_json(line, file, number) for number, line in lines if line.strip()]


def read_csv(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by its header.

    Raises:
        UserError: it can't be read, or as `parse_csv`.
    """
    return parse_csv(_read_text(file), file)


def parse_csv(text: str, file: Path) -> list[dict[str, str]]:
    """The rows of a CSV text by its header; `file` is its name in messages.

    Raises:
        UserError: it is no CSV, or a row has other fields than the header.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header, *rows = [row for row in reader if row] or [[]]
    except csv.Error as error:
        raise UserError(f"{file} line {reader.line_num}: not valid CSV ({error}); mend or remove it.") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(
                f"{file} row {number}: {len(row)} fields where the header has {len(header)}; quote text with commas."
            )
    return [dict(zip(header, row, strict=True)) for row in rows]
