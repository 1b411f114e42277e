"""Rows of JSON and JSON Lines files, whichever of both the file's name says."""

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from itertools import islice
from pathlib import Path
from typing import Any

from processing.errors import UserError, quoted
from processing.sources.rows import FIELDS, SPLIT_NAMES
from processing.sources.text_files import read_text
from processing.sources.values import number_text

MAX_DIGITS = 4_300  # of a whole number; Python refuses to convert longer ones
NAMED_FIELDS = 10  # of an object, in a message

_space = re.compile(r"[ \t\n\r]*")


class RepeatedField(dict):
    """A JSON object that has two fields of one name, of which Python keeps the last."""

    def __init__(self, values: dict[str, Any], name: str) -> None:
        super().__init__(values)
        self.name = name


def read_json(file: Path) -> Iterable[Any]:
    """The rows of a file that holds a JSON list, an object a row, or one object with a list of rows or with columns.

    They can be read several times. Objects one after the other are decoded when they are read.

    Numbers keep the digits that they are written with, as text where Python's have too few. NaN becomes None.

    Raises:
        UserError: it can't be read, is not JSON, or does not say which of its lists are the rows.
    """
    values = _Values(read_text(file), file)
    beginning = list(islice(values, 2))
    if len(beginning) == 1 and isinstance(beginning[0], list):
        return beginning[0]
    if len(beginning) == 1 and file.suffix.lower() == ".json":
        return _rows_inside(beginning[0], file)
    return values


class _Values:
    """The JSON values of a text, one after the other."""

    def __init__(self, text: str, file: Path) -> None:
        self._text, self._file = text, file
        self._decoder = json.JSONDecoder(
            object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant
        )

    def __iter__(self) -> Iterator[Any]:
        text, file = self._text, self._file
        position, is_first = _end_of_space(text, 0), True
        while position < len(text) or is_first:
            try:
                value, position = self._decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                if not text.strip():
                    raise UserError(f"{file}: it is empty; write the rows into it.") from error
                mend = "correct or remove it"
                if error.pos == _end_of_space(text, 0):
                    mend = "if it is a CSV file, name it .csv"
                elif "escape" in error.msg:
                    mend = "write / instead of \\ in paths"
                where = f"line {error.lineno}, column {error.colno}"
                raise UserError(f"{file}: not valid JSON at {where} ({error.msg}); {mend}.") from error
            except RecursionError as error:
                raise UserError(f"{file}: JSON nested too deeply; expected a list of flat objects.") from error
            yield value
            position, is_first = _end_of_space(text, position), False


def _end_of_space(text: str, position: int) -> int:
    match = _space.match(text, position)
    return match.end() if match else position


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    names = [name for name, _ in pairs]
    return RepeatedField(values, next(name for name in names if names.count(name) > 1))


def _float(literal: str) -> float | str:
    value = float(literal)
    try:
        exact = Decimal(literal)
    except InvalidOperation:  # an exponent beyond all bounds
        return literal
    return value if Decimal(repr(value)) == exact else number_text(exact)


def _int(literal: str) -> int | str:
    return int(literal) if len(literal) < MAX_DIGITS else literal


def _constant(name: str) -> str | None:
    return None if name == "NaN" else name


def _rows_inside(value: Any, file: Path) -> list[Any]:
    """The rows in an object that is the whole file: its one list of objects, a list for each split, or columns."""
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected a JSON list of rows, got {type(value).__name__}.")
    if isinstance(value, RepeatedField):
        raise UserError(f"{file}: two fields are named {quoted(value.name)}; keep one of them.")
    lists = {name: rows for name, rows in value.items() if isinstance(rows, list) and _are_objects(rows)}
    splits = {name: SPLIT_NAMES.get(name.strip().lower()) for name in lists}
    if lists and all(splits.values()):
        return [_with_split(row, splits[name]) for name, rows in lists.items() for row in rows]
    if len(lists) == 1:
        return next(iter(lists.values()))
    if rows := _rows_of_columns(value):
        return rows
    if all(isinstance(value.get(field), str) for field in ("image", "question", "answer")):
        return [value]
    names = ", ".join(quoted(name) for name in [*value][:NAMED_FIELDS])
    raise UserError(
        f"{file}: expected a JSON list of rows, got dict (of {names or 'nothing'}); save a list with an object for "
        "each row, from pandas by to_json(file, orient='records')."
    )


def _rows_of_columns(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an object of columns, as pandas' `to_json` writes by default; none of another object.

    A column is an object from a row's name to its cell, or a list of cells.
    """
    columns = list(value.values())
    if value.keys().isdisjoint(FIELDS):
        return []
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        columns = [[column[name] for name in columns[0]] for column in columns]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return []
    return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _are_objects(rows: list[Any]) -> bool:
    return bool(rows) and all(isinstance(row, dict) for row in rows)


def _with_split(row: dict[str, Any], split: str | None) -> dict[str, Any]:
    """The row with the split whose list holds it; a field of its own wins."""
    if isinstance(row, RepeatedField) or row.get("split"):
        return row
    return row | {"split": split}
