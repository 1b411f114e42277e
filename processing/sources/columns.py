"""Which column of a table holds what: by the project's names, by other common ones, or as the user says."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from processing.errors import UserError, quoted
from processing.sources.rows import FIELDS
from processing.sources.values import is_missing, options_in_cell, text_of, texts_in_cell

logger = logging.getLogger(__name__)

REQUIRED = ("image", "question", "answer")
NAMED_COLUMNS = 20  # that a message names

# Other names under which data sets of the Hub and their exporters know a field, in lower case.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "image": (
        "image_path",
        "image_file",
        "image_name",
        "img",
        "img_path",
        "img_file",
        "img_name",
        "file_name",
        "filename",
        "figure_path",
        "picture",
    ),
    "question": ("prompt", "query", "question_text", "instruction"),
    "answer": (
        "answers",
        "label",
        "gold_answer",
        "gt_answer",
        "ground_truth",
        "answer_text",
        "response",
        "target",
    ),
    "image_id": ("img_id",),
    "question_id": ("qid",),
    "language": ("q_lang",),
    "group": ("patient_id", "patient", "subject_id", "subject", "study_id", "case_id"),
}
CHOICE = re.compile(r"(?:choice|option)[ _-]?([a-z]|\d)", re.IGNORECASE)  # a column for each option
CHOICES = ("choices", "options")  # or one with all of them
LABEL = ("answer_label",)  # the letter of the right one


class ColumnFinder:
    """Finds the columns of the tables of one data set, and says once under which names."""

    def __init__(self, column_names: Iterable[str]) -> None:
        """Takes `field=column` pairs for columns that have other names than `FIELDS` and `ALIASES`.

        Raises:
            UserError: a pair is not of that form.
        """
        self._given: dict[str, str] = {}
        for pair in column_names:
            field, separator, column = pair.partition("=")
            field = next((name for name, others in ALIASES.items() if field in others), field)
            if not separator or not column or field not in FIELDS:
                raise UserError(
                    f"--column_names {pair}: expected field=column with a field out of {', '.join(FIELDS)}."
                )
            self._given[field] = column
        self._logged: set[str] = set()

    def find(
        self, table: Any, present: Iterable[str], is_nested: bool = False, fields: Sequence[str] = FIELDS
    ) -> dict[str, str]:
        """The column of each field that the table has.

        Args:
            table: its name in messages.
            present: the names of its columns.
            is_nested: its rows hold objects instead of cells.
            fields: to look for.

        Raises:
            UserError: there is no column for image, question or answer, or it is not certain which.
        """
        present = sorted(present)
        found = {field: self._find_field(table, field, present) for field in fields}
        required = [field for field in REQUIRED if field in fields]
        if missing := [field for field in required if found[field] is None]:
            wanted = " and no column ".join(repr(self._given.get(field, field)) for field in missing)
            names = ", ".join(quoted(name) for name in present[:NAMED_COLUMNS])
            mend = "name yours by --column_names image=... question=..., or write their names into the first line"
            if is_nested:
                mend = "write one flat object a row, with the fields image, question and answer"
            elif len(present) < len(required):
                mend = "save the table with commas or tabs between its columns and their names in the first line"
            raise UserError(f"{table}: no column {wanted} (found: {names or 'none'}); {mend}.")
        columns = {field: column for field, column in found.items() if column is not None}
        text = ", ".join(f"{field} = {column}" for field, column in columns.items())
        if any(field != column for field, column in columns.items()) and text not in self._logged:
            self._logged.add(text)
            logger.info("Columns: %s. Choose others by --column_names.", text)
        return columns

    def _find_field(self, table: Any, field: str, present: list[str]) -> str | None:
        if field in self._given:
            return find_column(self._given[field], present)
        similar = _similar_columns(field, present)
        if len(similar) > 1:
            both = " and ".join(quoted(column) for column in similar[:2])
            raise UserError(
                f"{table}: the columns {both} are nearly the same; keep one, or name it by --column_names."
            )
        if similar:
            return similar[0]
        taken = set(self._given.values())
        aliases = [name for name in present if name not in taken and _letters(name) in ALIASES.get(field, ())]
        if len(aliases) > 1 and field not in REQUIRED:  # then the first of our list
            aliases.sort(key=lambda name: ALIASES[field].index(_letters(name)))
        elif len(aliases) > 1:
            both = " and ".join(quoted(column) for column in aliases[:2])
            raise UserError(
                f"{table}: the columns {both} may each be the {field}; choose one by --column_names "
                f"{field}={aliases[0]}."
            )
        return aliases[0] if aliases else None


def find_column(name: str, present: Iterable[str]) -> str | None:
    """The column of this name, else the only one whose name looks the same; None without one."""
    if name in (present := list(present)):
        return name
    similar = _similar_columns(name, present)
    return similar[0] if len(similar) == 1 else None


def option_columns(present: Iterable[str]) -> list[str]:
    """The columns that hold the options of a question with choices: one with all of them, or one for each."""
    present = list(present)
    lists = [name for name in present if _letters(name) in CHOICES]
    return lists[:1] or sorted((name for name in present if CHOICE.fullmatch(name.strip())), key=str.casefold)


def label_column(present: Iterable[str]) -> str | None:
    """The column that holds the letter of the right option."""
    return next((name for name in present if _letters(name) in LABEL), None)


def split_answers(value: Any) -> tuple[Any, list[str] | None]:
    """The answer to train on, and all gold answers where a row has several.

    Of several the most frequent is trained on, and the first among as frequent ones. What is no list of texts stays
    as it is.
    """
    value = texts_in_cell(value)
    if not isinstance(value, list) or not all(_is_plain_value(item) for item in value):
        return value, None
    texts = [text for item in value if (text := text_of(item)) is not None]
    if not texts:
        return None, None
    return Counter(texts).most_common(1)[0][0], texts if len(texts) > 1 else None


def options_of(values: Mapping[str, Any], columns: list[str]) -> list[str] | None:
    """The options of a row as the table has them; None where they are no texts.

    Those of an object, `{"A": "lung", "B": "liver"}`, come by their letters or numbers, or else in its order.
    """
    cells = [values.get(column) for column in columns]
    if len(cells) == 1 and isinstance(several := options_in_cell(cells[0]), list):
        cells = several
    if not cells or not all(_is_plain_value(cell) for cell in cells) or all(is_missing(cell) for cell in cells):
        return None
    return [text_of(cell) or "" for cell in cells]


def _is_plain_value(value: Any) -> bool:
    return isinstance(value, str | int | float | None) and not isinstance(value, bool)


def _similar_columns(name: str, present: Iterable[str]) -> list[str]:
    """The columns whose names differ from this one in case, spaces, hyphens and underscores at most."""
    return sorted(column for column in present if _letters(column) == _letters(name))


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", unicodedata.normalize("NFC", name).strip()).casefold()
