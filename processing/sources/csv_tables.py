"""Rows of CSV files: with commas, semicolons, tabs or bars, as programs and spreadsheets write them."""

import csv
import io
import logging
import re
from contextlib import suppress
from itertools import islice
from pathlib import Path

from processing.errors import UserError, quoted
from processing.sources.rows import FIELDS
from processing.sources.text_files import read_text
from processing.storage import FORMULA, PLAIN_NUMBER

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
DELIMITER_LINE = re.compile(r'"?sep=([^"\w\r\n])"?(?:\r\n|\n|\r)', re.IGNORECASE)  # Excel's own first line
JSON_BEGINNING = re.compile(r'\s*(\[\s*)?\{\s*"[^"]*"\s*:')
HEADER_LENGTH = 2**16  # characters that hold a header
GUARDED = re.compile(r'="((?:[^"]|"")*)"')  # Excel's way to keep a text that looks like a number or a date
WHOLE_NUMBER = re.compile(r"-?\d+\.0")
INVISIBLE = " \t\r\n\xa0\ufeff\u200b"  # around a name
CONSISTENT_LINES = 20  # by which the delimiter is found
MAX_FIELD = 2**31 - 1  # characters; an image in a cell then gets a sentence of its own

logger = logging.getLogger(__name__)

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
        mend = "save the table as CSV" if file.suffix.lower() == ".json" else "name it .json, or save it as CSV"
        raise UserError(f"{file}: JSON and not CSV; {mend}.")
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    first_line = DELIMITER_LINE.match(text)
    if first_line:
        delimiter, text = first_line[1], text[first_line.end() :]
    else:
        delimiter = _find_delimiter(text[:HEADER_LENGTH], delimiter)
    header, *rows = _read_lines(text, delimiter, file, first_line=1 + bool(first_line)) or [[]]
    if rows and header[0] and all(len(row) == len(header) + 1 and row[0] and row[-1] for row in rows):
        header = ["", *header]  # R's write.table leaves out the name of its column of row names
    for number, row in enumerate(rows, start=1):
        if len(row) == len(header) + 1 and not row[-1]:
            row.pop()  # a delimiter at the end of the line
        if len(row) != len(header):
            separators = DELIMITERS.get(delimiter, f"the character {delimiter}")
            mend = f"quote text with {separators}, without a space before the quote"
            if len(row) < len(header):
                mend = "fill in those that are missing, or remove the row"
            if number == 1:
                mend += "; remove the lines above the header"
            raise UserError(f"{file} row {number}: {len(row)} fields where the header has {len(header)}; {mend}.")
    names = [name.strip(INVISIBLE) for name in header]
    while names.count("") > 1 and not names[-1] and not any(row[len(names) - 1] for row in rows):
        names.pop()  # empty columns at the right end of a sheet
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        named = f"are named {quoted(repeated[0])}" if repeated[0] else "have no name"
        mend = "" if repeated[0] else ", or remove the lines above the header"
        raise UserError(
            f"{file}: {names.count(repeated[0])} columns {named}; give each its own name or remove all but one{mend}."
        )
    return [dict(zip(names, row, strict=False)) for row in _with_whole_numbers(rows)]


def _read_lines(text: str, delimiter: str, file: Path, first_line: int) -> list[list[str]]:
    """The fields of each line that is not blank. Warns of fields that seem to hold whole rows.

    Raises:
        UserError: a quote is not closed or stands inside a field.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    line, suspects = first_line, []
    try:
        for row in reader:
            if not _is_blank(row):
                rows.append([_without_guard(cell) for cell in row])
                if any(_holds_rows(field, delimiter, len(rows[0])) for field in row if "\n" in field):
                    suspects.append(line)
            line = first_line + reader.line_num
    except csv.Error as error:
        if "end of data" in str(error):
            raise UserError(
                f"{file} line {line}: a quote opens in this row and is never closed; close it, or write two quotes "
                "for one that is text."
            ) from error
        line = first_line + reader.line_num - 1
        mend = (
            "write two quotes for one inside of a field" if "expected after" in str(error) else "correct or remove it"
        )
        raise UserError(f"{file} line {line}: not valid CSV ({error}); {mend}.") from error
    if suspects:
        logger.warning(
            "%s line %d: a field in quotes holds what look like whole rows%s; if they are rows, write two quotes for "
            "one that is text.",
            file,
            suspects[0],
            f", and so do {len(suspects) - 1:,} more" if len(suspects) > 1 else "",
        )
    return rows


def _without_guard(cell: str) -> str:
    """The text of a cell that is guarded against a spreadsheet: `="0012"`, or an apostrophe before =, +, - or @."""
    if match := GUARDED.fullmatch(cell):
        return match[1].replace('""', '"')
    return cell[1:] if cell[:1] == "'" and FORMULA.match(cell[1:]) and not PLAIN_NUMBER.fullmatch(cell[1:]) else cell


def _holds_rows(field: str, delimiter: str, columns: int) -> bool:
    """Whether a line inside a field has as many fields as the header."""
    return columns > 1 and any(line.count(delimiter) == columns - 1 for line in field.splitlines()[1:-1])


def _with_whole_numbers(rows: list[list[str]]) -> list[list[str]]:
    """The rows; in a column of nothing but whole numbers such as 7.0, which pandas writes for a gap, they lose .0."""
    for i in range(len(rows[0]) if rows else 0):
        if all(WHOLE_NUMBER.fullmatch(row[i]) for row in rows if row[i].strip()):
            for row in rows:
                row[i] = row[i].removesuffix(".0")
    return rows


def _is_blank(row: list[str]) -> bool:
    """Whether a line is empty, but for white space and the end mark of old Windows programs. A quoted `""` is not."""
    return not row or (len(row) == 1 and row[0] != "" and not row[0].strip(" \t\x1a"))


def _find_delimiter(beginning: str, usual: str) -> str:
    """The delimiter by which the first line holds the most names of `FIELDS`.

    Where several do, it is one by which the next lines have as many fields as the first, then the usual one if that
    parts the line at all, and else the one of the most columns.
    """
    headers, consistent = {}, {}
    for delimiter in sorted(DELIMITERS, key=lambda delimiter: delimiter != usual):
        reader = csv.reader(io.StringIO(beginning, newline=""), delimiter=delimiter, strict=True)
        lines: list[list[str]] = []
        with suppress(csv.Error):  # text in quotes ends before another delimiter, or the beginning does
            lines += islice(filter(None, reader), 1)
            headers[delimiter] = [name.strip(INVISIBLE).lower() for name in lines[0]] if lines else []
            for line in islice(filter(None, reader), CONSISTENT_LINES):
                lines.append(line)
        consistent[delimiter] = len({len(line) for line in lines}) == 1 and len(lines[0]) > 1

    def rank(delimiter: str) -> tuple[int, bool, bool, int]:
        names = headers[delimiter]
        usual_parts = delimiter == usual and len(names) > 1
        return len(set(names) & {*FIELDS}), consistent[delimiter], usual_parts, len(names)

    return max(headers, key=rank, default=usual)
