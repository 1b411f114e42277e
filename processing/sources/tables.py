"""Tables of rows: JSON, JSON Lines and CSV files."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from processing.errors import UserError
from processing.sources.rows import FIELDS, SPLITS, Row

TABLE_SUFFIXES = (".json", ".jsonl", ".csv")


class Record(NamedTuple):
    """One entry of a file.

    Attributes:
        values: by the names that the file gives its columns.
        row: the beginning of the raw row that is made of it: `split` and `where`.
    """

    values: dict[str, Any]
    row: Row


def split_files(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """The one file of each split that the folder holds under any of the split's usual names.

    Raises:
        UserError: two files name the same split.
    """
    found: dict[str, Path] = {}
    for split, aliases in SPLITS.items():
        files = [file for alias in aliases for suffix in suffixes if (file := folder / f"{alias}{suffix}").is_file()]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise UserError(f"--dataset {folder}: {names} both name the {split} split; keep one of them.")
        if files:
            found[split] = files[0]
    return found


def table_rows(file: Path, records: Sequence[Record], column_names: Iterable[str]) -> list[Row]:
    """The raw rows of a table.

    Args:
        file: its name in messages.
        records: of the file.
        column_names: `field=column` pairs for columns that have other names than `FIELDS`.

    Raises:
        UserError: there is no column for image, question or answer, or a pair is not of that form.
    """
    columns = _parse_column_names(column_names)
    present = {column for record in records for column in record.values}
    required = [columns[field] for field in ("image", "question", "answer")]
    if missing := [column for column in required if column not in present]:
        raise UserError(
            f"{file}: no column {' and no column '.join(map(repr, missing))} (found: "
            f"{', '.join(map(repr, sorted(present))) or 'none'}); name yours by --column_names image=... question=..."
        )
    rows = []
    for record in records:
        values = {field: record.values.get(column) for field, column in columns.items()}
        values["split"] = record.row["split"] or values["split"] or None
        values["image_id"] = values["image_id"] or values["image"]
        rows.append(record.row | values)
    return rows


def _parse_column_names(column_names: Iterable[str]) -> dict[str, str]:
    columns = {field: field for field in FIELDS}
    for pair in column_names:
        field, separator, column = pair.partition("=")
        if not separator or not column or field not in columns:
            raise UserError(f"--column_names {pair}: expected field=column with a field out of {', '.join(FIELDS)}.")
        columns[field] = column
    return columns


def read_records(file: Path, split: str | None) -> list[Record]:
    """The records of a table; messages count them from 1.

    Args:
        split: that of all its rows, where it is known.

    Raises:
        UserError: it is not a table, can't be read, or has an entry that is not an object.
    """
    readers: dict[str, Callable[[Path], list[Any]]] = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": read_csv}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"{file}: unknown kind of table; use a .json, .jsonl or .csv file.")
    records = []
    for number, values in enumerate(reader(file), start=1):
        if not isinstance(values, dict):
            raise UserError(f"{file} row {number}: expected an object with named fields, got {type(values).__name__}.")
        records.append(Record(values, {"split": split, "where": f"{file.name} row {number}"}))
    return records


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror}).") from error


def _parse_json(text: str, file: Path, line: int = 1) -> Any:
    """Parses a text that begins at a line of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line + error.lineno - 1}, column {error.colno}"
        raise UserError(f"{file}: not valid JSON at {where} ({error.msg}); correct or remove it.") from error
    except RecursionError as error:
        raise UserError(f"{file}: JSON nested too deeply; expected a list of flat objects.") from error


def _read_json(file: Path) -> list[Any]:
    records = _parse_json(_read_text(file), file)
    if not isinstance(records, list):
        raise UserError(f"{file}: expected a JSON list of rows, got {type(records).__name__}.")
    return records


def _read_jsonl(file: Path) -> list[Any]:
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
        UserError: it is not CSV, or a row has another number of fields than the header.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header, *rows = [row for row in reader if row] or [[]]
    except csv.Error as error:
        raise UserError(f"{file} line {reader.line_num}: not valid CSV ({error}); correct or remove it.") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(
                f"{file} row {number}: {len(row)} fields where the header has {len(header)}; quote text with commas."
            )
    return [dict(zip(header, row, strict=True)) for row in rows]
