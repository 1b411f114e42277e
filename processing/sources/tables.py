"""Tables of rows: JSON, JSON Lines and CSV files."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processing.errors import UserError

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

Row = dict[str, Any]


@dataclass
class Source:
    """The rows of a data set, the folder that all its images must lie in, and which data set it is."""

    kind: str  # slake, vqa_rad, phantom or table
    root: Path
    rows: list[Row]


def split_files(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
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


def table_rows(file: Path, records: list[tuple[dict, Row]], column_names: Iterable[str]) -> list[Row]:
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


def read_records(file: Path, split: str | None) -> list[tuple[dict, Row]]:
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
