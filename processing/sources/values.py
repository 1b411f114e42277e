"""Values of the cells of a table: which are missing, how a number is written, which language is meant."""

import ast
import json
import math
import re
import unicodedata
from decimal import Decimal
from string import ascii_uppercase
from typing import Any

WORDS_FOR_MISSING = {"na", "n/a", "#n/a", "nan", "<na>", "null", "none", "nil"}
LONGEST_CELL = 4_000  # characters of a cell that is read as a list or an object
LONGEST_NUMBER = 21  # digits before or after the point; beyond them an exponent is easier to read
SEVERAL = re.compile(r"[/,;+&|]|\band\b")  # stands between the names of several languages
ENGLISH = "en|eng|engl|english|anglais|englisch|inglés|英文|英语|英語"
CHINESE = (
    "zh|zho|chi|cmn|cn|chs|cht|chinese|mandarin|putonghua|chinois|chinesisch|中文|汉语|漢語|华语|華語|国语|國語|普通话|普通話|"
    "简体中文|簡體中文|繁体中文|繁體中文|中国语"
)
LANGUAGES = {"en": frozenset(ENGLISH.split("|")), "zh": frozenset(CHINESE.split("|"))}


def is_missing(value: Any) -> bool:
    """Whether a field holds nothing: None, NaN, or text of white space alone. The words "nan" and "N/A" are text."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_word_for_missing(value: Any) -> bool:
    """Whether a text is a program's word for nothing, such as R's NA, SQL's NULL and Python's None."""
    return isinstance(value, str) and value.strip().lower() in WORDS_FOR_MISSING


def image_path(value: Any) -> Any:
    """The path in a cell of an image, also where `datasets` or pandas wrote it as a list or an object; else the cell.

    They write `{"bytes": null, "path": "a.png"}`, `["a.png"]`, and in CSV files the same as Python shows it.
    """
    value = _parsed(value)
    if isinstance(value, list) and len(value) == 1:
        return image_path(value[0])
    if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
        return value["path"]
    return value


def texts_in_cell(value: Any) -> Any:
    """The list of texts that a cell of a CSV file holds as pandas writes it, `['yes', 'no']`; else the cell."""
    parsed = _parsed(value)
    return parsed if isinstance(parsed, list) and all(isinstance(item, str) for item in parsed) and parsed else value


def options_in_cell(value: Any) -> Any:
    """The list of options that a cell holds as a list or as an object, by its letters or numbers; else the cell."""
    parsed = _parsed(value)
    if not isinstance(parsed, dict) or not parsed:
        return parsed if isinstance(parsed, list) else value
    by_name = {str(name).strip().upper(): option for name, option in parsed.items()}
    if all(len(name) == 1 and name in ascii_uppercase for name in by_name):
        last = max(map(ascii_uppercase.index, by_name))
        return [by_name.get(letter) for letter in ascii_uppercase[: last + 1]]
    if all(name.isdecimal() for name in by_name):
        return [by_name[name] for name in sorted(by_name, key=int)]
    return list(parsed.values())


def _parsed(value: Any) -> Any:
    """What a cell holds that is a list or an object in JSON or as Python shows it; other cells as they are."""
    if isinstance(value, str) and value.strip()[:1] in ("{", "[") and len(value) < LONGEST_CELL:
        for read in (json.loads, ast.literal_eval):
            try:
                return read(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return value


def text_of(value: str | int | float | None) -> str | None:
    """A value as text, without white space around it; None where it is missing.

    A number keeps its digits: 1234567.0 becomes "1234567", 0.1 stays "0.1", 1e-7 becomes "0.0000001".
    """
    if is_missing(value):
        return None
    return number_text(value) if isinstance(value, float | Decimal) else str(value).strip()


NEGATIONS = {"no", "non", "not"}  # in front of a language's name


def number_text(number: float | Decimal) -> str:
    """The shortest decimal notation that means this number."""
    exact = Decimal(repr(number)) if isinstance(number, float) else number
    if not exact.is_finite():
        return str(exact)
    text = format(exact, "f") if abs(exact.adjusted()) < LONGEST_NUMBER else str(exact)
    if "." in text and "E" not in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def language_code(value: Any) -> Any:
    """`en` or `zh` for any usual name of English or Chinese, such as EN, en-US or 中文; other values as they are."""
    if not isinstance(value, str):
        return value
    text = unicodedata.normalize("NFKC", value).strip().lower()
    words = re.findall(r"[^\W\d_]+", text.partition("(")[0])
    several = SEVERAL.search(text.partition("(")[0]) or {"en", "zh"} <= set(words)
    if several or not NEGATIONS.isdisjoint(words):
        return value.strip()
    # A code has its language in front, as in en-US. A name may stand anywhere, as in simplified Chinese.
    names = [word for i, word in enumerate(words) if i == 0 or len(word) > 3 or not word.isascii()]
    found = {code for code, known in LANGUAGES.items() if not known.isdisjoint(names)}
    return found.pop() if len(found) == 1 else value.strip()
