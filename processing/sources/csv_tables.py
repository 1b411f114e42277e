"""Rows of CSV files: with commas, semicolons, tabs or bars, as programs and spreadsheets write them."""

import csv
import io
import re
from pathlib import Path

from processing.errors import UserError, quoted
from processing.sources.rows import FIELDS
from processing.sources.text_files import read_text

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
DELIMITER_LINE = re.compile(r'"?sep=([^"\w\r\n])"?(?:\r\n|\n|\r)', re.IGNORECASE)  # Excel's own first line
JSON_BEGINNING = re.compile(r'\s*(\[\s*)?\{\s*"[^"]*"\s*:')
HEADER_LENGTH = 2**16  # characters that hold a header
MAX_FIELD = 2**31 - 1  # characters; an image in a cell then gets a sentence of its own

csv.field_size_limit(MAX_FIELD)


def read_csv(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by its header.

    Raises:
        UserError: it can't be read, or as `parse_csv`.
    """
    return parse_csv(read_text(file), file)


def parse_csv(text: str, file: Path) -> list[dict[str, str]]:
    """The rows of a CSV text by its header; `file` is its name in messages.

    A first line `sep=;` names the delimiter. Without one the header does, see `_find_delimiter`.

    Raises:
        UserError: it is JSON or broken, two columns have one name, or a row has another number of fields than the
            header.
    """
    if JSON_BEGINNING.match(text):
        raise UserError(f"{file}: JSON and not CSV; name it .json, or save the table as CSV.")
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    first_line = DELIMITER_LINE.match(text)
    if first_line:
        delimiter, text = first_line[1], text[first_line.end() :]
    else:
        delimiter = _find_delimiter(text[:HEADER_LENGTH], delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header, *rows = [row for row in reader if not _is_blank(row)] or [[]]
    except csv.Error as error:
        line = reader.line_num + bool(first_line)
        raise UserError(f"{file} line {line}: not valid CSV ({error}); correct or remove it.") from error
    for number, row in enumerate(rows, start=1):
        if len(row) == len(header) + 1 and not row[-1]:
            row.pop()  # a delimiter at the end of the line
        if len(row) != len(header):
            separators = DELIMITERS.get(delimiter, f"the character {delimiter}")
            mend = f"quote text with {separators}, without a space before the quote"
            if len(row) < len(header):
                mend = "fill in those that are missing, or remove the row"
            raise UserError(f"{file} row {number}: {len(row)} fields where the header has {len(header)}; {mend}.")
    names = [name.strip() for name in header]
    while names.count("") > 1 and not names[-1] and not any(row[len(names) - 1] for row in rows):
        names.pop()  # empty columns at the right end of a sheet
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        named = f"are named {quoted(repeated[0])}" if repeated[0] else "have no name"
        raise UserError(
            f"{file}: {names.count(repeated[0])} columns {named}; give each its own name or remove all but one."
        )
    return [dict(zip(names, row, strict=False)) for row in rows]


def _is_blank(row: list[str]) -> bool:
    """Whether a line is empty, but for white space and the end mark of old Windows programs. A quoted `""` is not."""
    return not row or (len(row) == 1 and row[0] != "" and not row[0].strip(" \t\x1a"))


def _find_delimiter(beginning: str, usual: str) -> str:
    """The delimiter by which the first line holds the most names of `FIELDS`.

    Where several do, it is the usual one if that parts the line at all, and else the one of the most columns.
    """
    headers = {}
    for delimiter in sorted(DELIMITERS, key=lambda delimiter: delimiter != usual):
        reader = csv.reader(io.StringIO(beginning, newline=""), delimiter=delimiter, strict=True)
        try:
            headers[delimiter] = [name.strip().lower() for name in next(filter(None, reader), [])]
        except csv.Error:  # text in quotes ends before another delimiter
            continue

    def rank(delimiter: str) -> tuple[int, bool, int]:
        names = headers[delimiter]
        return len(set(names) & {*FIELDS}), delimiter == usual and len(names) > 1, len(names)

    return max(headers, key=rank, default=usual)
