"""Rows of CSV files: with commas, semicolons, tabs or bars, as programs and spreadsheets write them."""

import csv
import io
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NoReturn

from processing.errors import UserError, quoted
from processing.sources.rows import FIELDS
from processing.sources.text_files import read_text
from processing.storage import FORMULA, PLAIN_NUMBER

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
DELIMITER_LINE = re.compile(r'"?sep=([^"\w\r\n])"?(?:\r\n|\n|\r)', re.IGNORECASE)  # Excel's own first line
JSON_BEGINNING = re.compile(r'\s*(\[\s*)?\{\s*"[^"]*"\s*:')
HEADER_LENGTH = 2**16  # characters that hold a header
GUARDED = re.compile(r'="((?:[^"]|"")*)"')  # Excel's way to keep a text that looks like a number or a date
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
WHOLE_NUMBER = re.compile(r"-?\d+\.0")
INVISIBLE = " \t\r\n\xa0\ufeff\u200b"  # around a name
CONSISTENT_LINES = 20  # by which the delimiter is found
MAX_FIELD = 2**31 - 1  # characters; an image in a cell then gets a sentence of its own

logger = logging.getLogger(__name__)

csv.field_size_limit(MAX_FIELD)


def read_csv(file: Path) -> "CsvTable":
    """The rows of a CSV file by its header.

    Raises:
        UserError: it can't be read, or as `CsvTable`.
    """
    return CsvTable(read_text(file), file)


class CsvTable:
    """The rows of a CSV text by its header, which are read as often as needed.

    A first line `sep=;` names the delimiter. Without one the header does, see `_find_delimiter`.

    Args:
        text: the table.
        file: its name in messages.

    Raises:
        UserError: it is JSON or broken, two columns have one name, or a row has another number of fields than the
            header.
    """

    def __init__(self, text: str, file: Path) -> None:
        if JSON_BEGINNING.match(text):
            mend = "save the table as CSV" if file.suffix.lower() == ".json" else "name it .json, or save it as CSV"
            raise UserError(f"{file}: JSON and not CSV; {mend}.")
        self._text, self._file, self._start = text, file, 0
        self._delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
        first_line = DELIMITER_LINE.match(text)
        if first_line:
            self._delimiter, self._start = first_line[1], first_line.end()
        else:
            self._delimiter = _find_delimiter(text[:HEADER_LENGTH], self._delimiter)
        self._first_line = 1 + bool(first_line)
        self._names, self._whole = self._check()

    def __iter__(self) -> Iterator[dict[str, str]]:
        columns = len(self._names)
        for row in islice(self._lines(), 1, None):
            for i in self._whole:
                row[i] = row[i].removesuffix(".0")
            yield dict(zip(self._names, row[:columns], strict=False))

    def _check(self) -> tuple[list[str], list[int]]:
        """The names of the columns, and which hold whole numbers such as 7.0 and nothing else, as pandas writes them
        for the gaps between them. Warns of fields that seem to hold whole rows."""
        lines = self._lines(warn=True)
        header = next(lines, [])
        width = len(header)
        whole, filled = [True] * (width + 1), [False] * (width + 1)
        wrong: tuple[int, int] | None = None  # number and fields of the first row that does not fit
        has_row_names = bool(header and header[0])  # R's write.table leaves out the name of that column
        count = 0
        for count, row in enumerate(lines, start=1):
            has_row_names &= len(row) == width + 1 and bool(row[0] and row[-1])
            if wrong is None and len(row) != width and not (len(row) == width + 1 and not row[-1]):
                wrong = count, len(row)
            for i, cell in enumerate(row[: width + 1]):
                if cell:
                    filled[i] = True
                    if whole[i] and cell.strip() and not WHOLE_NUMBER.fullmatch(cell):
                        whole[i] = False
        if count and has_row_names:
            header = ["", *header]
        elif wrong is not None:
            self._refuse(*wrong, width)
        names = [name.strip(INVISIBLE) for name in header]
        while names.count("") > 1 and not names[-1] and not filled[len(names) - 1]:
            names.pop()  # empty columns at the right end of a sheet
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            named = f"are named {quoted(repeated[0])}" if repeated[0] else "have no name"
            mend = "" if repeated[0] else ", or remove the lines above the header"
            raise UserError(
                f"{self._file}: {names.count(repeated[0])} columns {named}; give each its own name or remove all but "
                f"one{mend}."
            )
        return names, [i for i in range(len(names)) if whole[i]]

    def _refuse(self, number: int, fields: int, columns: int) -> NoReturn:
        separators = DELIMITERS.get(self._delimiter, f"the character {self._delimiter}")
        mend = f"quote text with {separators}, without a space before the quote"
        if fields < columns:
            mend = "fill in those that are missing, or remove the row"
        if number == 1:
            mend += "; remove the lines above the header"
        raise UserError(f"{self._file} row {number}: {fields} fields where the header has {columns}; {mend}.")

    def _lines(self, warn: bool = False) -> Iterator[list[str]]:
        """The fields of each line that is not blank.

        Raises:
            UserError: a quote is not closed or stands inside a field.
        """
        lines = (match[0] for match in LINE.finditer(self._text, self._start) if match[0])
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        line, columns, suspects = self._first_line, None, []
        try:
            for row in reader:
                if not _is_blank(row):
                    columns = len(row) if columns is None else columns
                    if warn and any(_holds_rows(field, self._delimiter, columns) for field in row if "\n" in field):
                        suspects.append(line)
                    yield [_without_guard(cell) for cell in row]
                line = self._first_line + reader.line_num
        except csv.Error as error:
            if "end of data" in str(error):
                raise UserError(
                    f"{self._file} line {line}: a quote opens in this row and is never closed; close it, or write two "
                    "quotes for one that is text."
                ) from error
            line = self._first_line + reader.line_num - 1
            mend = "correct or remove it"
            if "expected after" in str(error):
                mend = "write two quotes for one inside of a field"
            raise UserError(f"{self._file} line {line}: not valid CSV ({error}); {mend}.") from error
        if suspects:
            logger.warning(
                "%s line %d: a field in quotes holds what look like whole rows%s; if they are rows, write two quotes "
                "for one that is text.",
                self._file,
                suspects[0],
                f", and so do {len(suspects) - 1:,} more" if len(suspects) > 1 else "",
            )


def _without_guard(cell: str) -> str:
    """The text of a cell that is guarded against a spreadsheet: `="0012"`, or an apostrophe before =, +, - or @."""
    if match := GUARDED.fullmatch(cell):
        return match[1].replace('""', '"')
    return cell[1:] if cell[:1] == "'" and FORMULA.match(cell[1:]) and not PLAIN_NUMBER.fullmatch(cell[1:]) else cell


def _holds_rows(field: str, delimiter: str, columns: int) -> bool:
    """Whether a line inside a field has as many fields as the header."""
    return columns > 1 and any(line.count(delimiter) == columns - 1 for line in field.splitlines()[1:-1])


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
