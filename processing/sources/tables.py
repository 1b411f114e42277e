"""Tables of rows: JSON, JSON Lines and CSV files."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from processing.errors import UserError, quoted
from processing.sources.columns import ColumnFinder, label_column, option_columns, options_of, split_answers
from processing.sources.csv_tables import read_csv
from processing.sources.json_tables import RepeatedField, read_json
from processing.sources.rows import FIELDS, SPLITS, Row
from processing.sources.values import image_path, is_missing

logger = logging.getLogger(__name__)

READERS: Mapping[str, Callable[[Path], Iterable[Any]]] = {  # what they return can be read several times
    ".json": read_json,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
}
PARQUET = ".parquet"  # which `processing.sources.parquet` reads
TABLE_SUFFIXES = (PARQUET, *READERS)


class Record(NamedTuple):
    """One entry of a file.

    Attributes:
        values: by the names that the file gives its columns; None where they are missing.
        row: the beginning of the raw row that is made of it: `split` and `where`.
        image_id: what the file calls an image that is kept inside it.
    """

    values: dict[str, Any]
    row: Row
    image_id: str | None = None


@dataclass(frozen=True)
class Records:
    """The entries of a file, which are read as often as needed and never all at once.

    Attributes:
        columns: the names of all their fields.
        is_nested: the first one holds objects or lists instead of cells.
        count: how many there are.
        read: reads them from the beginning.
    """

    columns: frozenset[str]
    is_nested: bool
    count: int
    read: Callable[[], Iterator[Record]]

    def __iter__(self) -> Iterator[Record]:
        return self.read()


def split_files(files: Iterable[str], suffixes: Iterable[str], label: str) -> dict[str, str]:
    """The one file of each split among these, under any of the split's usual names.

    Args:
        files: names relative to a folder; those in folders of it are left out.
        label: how a message begins.

    Raises:
        UserError: two files name the same split.
    """
    names: dict[str, list[str]] = {}
    for file in sorted(files):
        names.setdefault(file.lower(), []).append(file)
    found: dict[str, str] = {}
    for split, aliases in SPLITS.items():
        same = [file for alias in aliases for suffix in suffixes for file in names.get(f"{alias}{suffix}", [])]
        if len(same) > 1:
            raise UserError(f"{label}: {' and '.join(same)} both name the {split} split; keep one of them.")
        if same:
            found[split] = same[0]
    return found


def table_rows(table: Any, records: Records, finder: ColumnFinder) -> Iterator[Row]:
    """The raw rows of a table.

    A row with several gold answers has them as `answers`, one with options as `choices` and `answer_label`. Cells of
    options that are no texts are left out with a warning.

    Args:
        table: its name in messages.
        records: of the table.
        finder: of the columns of the data set.

    Raises:
        UserError: as `ColumnFinder.find`.
    """
    present = records.columns
    columns = finder.find(table, present, records.is_nested)
    options, label = option_columns(present), label_column(present)
    unread = 0
    for record in records:
        values = {field: record.values.get(columns[field]) if field in columns else None for field in FIELDS}
        values["split"] = record.row["split"] or values["split"]
        values["image"] = image_path(values["image"])
        if values["image_id"] is None:
            values["image_id"] = record.image_id or values["image"]
        values["answer"], answers = split_answers(values["answer"])
        if answers:
            values["answers"] = answers
        if choices := options_of(record.values, options):
            values["choices"] = choices
            values["answer_label"] = record.values.get(label) if label else None
        else:
            unread += any(record.values.get(column) is not None for column in options)
        yield record.row | values
    if unread:
        logger.warning(
            "%s: the options of %s rows (%s) are neither texts nor an object of texts, so they are left out; write a "
            "list of texts.",
            table,
            f"{unread:,}",
            ", ".join(map(quoted, options)),
        )


def read_records(file: Path, split: str | None, name: str | None = None) -> Records:
    """The records of a table; messages count them from 1.

    Args:
        name: of the file, in messages; its last part by default.
        split: that of all its rows, where it is known.

    Raises:
        UserError: it is not a table, can't be read, or has an entry that is not an object.
    """
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"{file}: unknown kind of table; save it as a .json, .jsonl, .csv or .tsv file.")
    entries = reader(file)
    columns: dict[str, None] = {}
    number, is_nested = 0, False
    for number, values in enumerate(entries, start=1):
        if not isinstance(values, dict):
            raise UserError(f"{file} row {number}: expected an object with named fields, got {type(values).__name__}.")
        if isinstance(values, RepeatedField):
            raise UserError(f"{file} row {number}: two fields are named {quoted(values.name)}; keep one of them.")
        if number == 1:
            is_nested = any(isinstance(value, dict | list) for value in values.values())
        columns.update(dict.fromkeys(values))

    def read() -> Iterator[Record]:
        for number, values in enumerate(entries, start=1):
            present = {name: None if is_missing(value) else value for name, value in values.items()}
            yield Record(present, {"split": split, "where": f"{name or file.name} row {number}"})

    return Records(frozenset(columns), is_nested, number, read)
