"""Tables of rows: JSON, JSON Lines and CSV files."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from processing.errors import UserError, quoted
from processing.sources.csv_tables import read_csv
from processing.sources.json_tables import RepeatedField, read_json
from processing.sources.rows import FIELDS, SPLITS, Row
from processing.sources.values import image_path, is_missing

READERS: Mapping[str, Callable[[Path], list[Any]]] = {
    ".json": read_json,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
}
TABLE_SUFFIXES = tuple(READERS)
REQUIRED = ("image", "question", "answer")
NAMED_COLUMNS = 20  # that a message names


class Record(NamedTuple):
    """One entry of a file.

    Attributes:
        values: by the names that the file gives its columns; None where they are missing.
        row: the beginning of the raw row that is made of it: `split` and `where`.
    """

    values: dict[str, Any]
    row: Row


def split_files(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """The one file of each split that the folder holds under any of the split's usual names.

    Raises:
        UserError: two files name the same split.
    """
    names: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.is_file():
            names.setdefault(file.name.lower(), []).append(file)
    found: dict[str, Path] = {}
    for split, aliases in SPLITS.items():
        files = [file for alias in aliases for suffix in suffixes for file in names.get(f"{alias}{suffix}", [])]
        if len(files) > 1:
            both = " and ".join(file.name for file in files)
            raise UserError(f"--dataset {folder}: {both} both name the {split} split; keep one of them.")
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
        UserError: there is no row, or no column for image, question or answer; two columns have nearly the same name;
            or a pair is not of that form.
    """
    columns = _parse_column_names(column_names)
    if not records:
        raise UserError(f"{file}: it has no rows; write them into it.")
    present = {column for record in records for column in record.values}
    found = {}
    for field, name in columns.items():
        if name == field and len(similar := _similar_columns(name, present)) > 1:
            both = " and ".join(quoted(column) for column in similar[:2])
            raise UserError(f"{file}: the columns {both} are nearly the same; keep one, or name it by --column_names.")
        found[field] = find_column(name, present)
    if missing := [columns[field] for field in REQUIRED if found[field] is None]:
        names = ", ".join(quoted(name) for name in sorted(present)[:NAMED_COLUMNS])
        raise UserError(
            f"{file}: no column {' and no column '.join(map(repr, missing))} (found: {names or 'none'}); "
            f"{_mend_of_columns(records, present)}"
        )
    columns |= {field: column for field, column in found.items() if column is not None}
    rows = []
    for record in records:
        values = {field: record.values.get(column) for field, column in columns.items()}
        values["split"] = record.row["split"] or values["split"]
        values["image"] = image_path(values["image"])
        values["image_id"] = values["image"] if values["image_id"] is None else values["image_id"]
        rows.append(record.row | values)
    return rows


def _mend_of_columns(records: Sequence[Record], present: set[str]) -> str:
    if any(isinstance(value, dict | list) for value in records[0].values.values()):
        return "write one flat object a row, with the fields image, question and answer."
    if len(present) < len(REQUIRED):
        return "save the table with commas or tabs between its columns and their names in the first line."
    return "name yours by --column_names image=... question=..., or write their names into the first line."


def find_column(name: str, present: Iterable[str]) -> str | None:
    """The column of this name, else the only one whose name looks the same; None without one."""
    if name in (present := list(present)):
        return name
    similar = _similar_columns(name, present)
    return similar[0] if len(similar) == 1 else None


def _similar_columns(name: str, present: Iterable[str]) -> list[str]:
    """The columns whose names differ from this one in case, spaces, hyphens and underscores at most."""
    return sorted(column for column in present if _letters(column) == _letters(name))


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


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
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"{file}: unknown kind of table; save it as a .json, .jsonl, .csv or .tsv file.")
    records = []
    for number, values in enumerate(reader(file), start=1):
        if not isinstance(values, dict):
            raise UserError(f"{file} row {number}: expected an object with named fields, got {type(values).__name__}.")
        if isinstance(values, RepeatedField):
            raise UserError(f"{file} row {number}: two fields are named {quoted(values.name)}; keep one of them.")
        present = {name: None if is_missing(value) else value for name, value in values.items()}
        records.append(Record(present, {"split": split, "where": f"{file.name} row {number}"}))
    return records
