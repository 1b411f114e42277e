"""Every problem of a data set found in one pass, before any model is loaded."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from processing.choices import read_choices
from processing.errors import quoted
from processing.image_checks import CheckedImage, check_images
from processing.image_paths import EMBEDDED, MISSING, NO_PATH, URL, ImageFolder, for_others
from processing.image_source import split_number, split_slice
from processing.image_store import StoredImage
from processing.problems import Problem
from processing.sources.rows import FIELDS, SPLIT_NAMES, Row, Source
from processing.sources.values import text_of

CHECKED_FIELDS = ("image", "question", "answer", "split")  # each by a rule of its own
SEVERAL_FIELDS = ("answers", "choices")  # lists of texts, where a row has them
SPREADSHEET_ERRORS = {"#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!", "#SPILL!"}
SURROGATE = re.compile(r"[\ud800-\udfff]")  # one half of a UTF-16 pair, which no encoding can write
LONGEST_PATH = 1_000  # characters; longer text in place of an image path is data


class RowChecker:
    """Tells good rows from bad ones and brings good ones into their standard form.

    Args:
        source: of the rows.
        names: of all images that its rows name.
        allow_no_answer: whether a row may have an empty answer.
    """

    def __init__(self, source: Source, names: Iterable[str], *, allow_no_answer: bool) -> None:
        names = list(names)
        inside = [name for name in names if isinstance(name, StoredImage)]
        self._allow_no_answer = allow_no_answer
        self._folder = ImageFolder(source.root)
        self._images = check_images((name for name in names if not isinstance(name, StoredImage)), self._folder)
        self._store = self._folder if source.store is None else ImageFolder(source.store)
        self._stored = check_images(inside, self._store) if inside else {}

    def check(self, row: Row) -> CheckedImage | Problem:
        """The image of a row, or what is wrong with the row.

        A good row gets an absolute `image` path, an `image_id` that is none, string `question` and `answer`, and
        `split` under its standard name. A bad row gets `problem` (a kind) and `detail`, and loses whole paths and
        credentials: it is for a file.
        """
        is_stored = isinstance(row["image"], StoredImage)
        folder, images = (self._store, self._stored) if is_stored else (self._folder, self._images)
        image = _image_of(row["image"], images)
        row["image_id"] = _image_id(row, image, folder)
        if isinstance(row["image"], Problem):  # of what kept the image from being written to a file
            row["image"] = row["image_id"]
        problem = _problem_of_text(row, self._allow_no_answer)
        if isinstance(image, Problem):
            problem = problem or image
            row["image"] = _without_data(for_others(row["image"]))
        elif problem is None:
            row["image"] = str(folder.root / image.name)
            if row.get("group") is None and split_slice(row["image"])[1] is not None:
                row["group"] = split_number(image.name)[0]  # slices of a file are of one body
            return image
        row |= for_others(row | {"problem": problem.kind, "detail": problem.detail})
        return problem


def _problem_of_text(row: Row, allow_no_answer: bool) -> Problem | None:
    """Checks split, question and answer, and brings them into their standard form in place."""
    if row["split"] is not None:
        split = SPLIT_NAMES.get(str(row["split"]).strip().lower())
        if split is None:
            return Problem("unknown split", f"{_quoted(row['split'])}, expected train, validation or test")
        row["split"] = split
    for field in FIELDS:
        value = row.get(field)
        if field not in CHECKED_FIELDS and not isinstance(value, str | int | float | None):
            return Problem("neither text nor number", f"{field}: {_quoted(value)}")
        if isinstance(value, str) and SURROGATE.search(value):
            return Problem("broken character (a lone surrogate)", f"{field}: {_quoted(value)}")
    for field in SEVERAL_FIELDS:
        for value in row.get(field) or ():
            if SURROGATE.search(value):
                return Problem("broken character (a lone surrogate)", f"{field}: {_quoted(value)}")
    if problem := read_choices(row):
        return problem
    for field in ("question", "answer"):
        value = row[field]
        if isinstance(value, bool):
            return Problem(f"{field} is not a string", f"{value}; write a word such as yes or no")
        if not isinstance(value, str | int | float | None):
            return Problem(f"{field} is not a string", _quoted(value))
        row[field] = " ".join((text_of(value) or "").split())
    if row.get("answers"):
        row["answers"] = [" ".join(text.split()) for text in row["answers"]]
    for field in ("question", "answer"):
        if row[field] in SPREADSHEET_ERRORS:
            return Problem("a spreadsheet's error instead of text", f"{field}: {row[field]}; mend the cell's formula")
    if not row["question"]:
        return Problem("empty question", quoted(row["question"]))
    if not row["answer"] and not allow_no_answer:
        return Problem("empty answer (SQuAD v2's no answer; kept by --allow_no_answer)", quoted(row["answer"]))
    return None


def _quoted(value: Any) -> str:
    return quoted(for_others(value))


def _image_of(image: Any, images: Mapping[str, CheckedImage | Problem]) -> CheckedImage | Problem:
    if image is None:
        return Problem(MISSING, "no path")
    if isinstance(image, Problem):
        return image
    return images[image] if isinstance(image, str) else Problem(NO_PATH, type(image).__name__)


def _image_id(row: Row, image: CheckedImage | Problem, folder: ImageFolder) -> Any:
    """The id of a row's image, never a path of this machine; by default the image's path from the folder."""
    value = row["image_id"]
    if isinstance(image, CheckedImage):
        default: str | None = image.name
    else:
        is_path = isinstance(row["image"], str) and image.kind not in (EMBEDDED, URL)
        default = folder.relative_id(row["image"], folder.describe(row["image"])) if is_path else None
    if value is None or value == row["image"]:
        return default
    return folder.relative_id(value.strip(), default) if isinstance(value, str) else value


def _without_data(image: Any) -> Any:
    """What a table has for an image: a path, or the beginning of what is none."""
    return image if image is None or (isinstance(image, str) and len(image) <= LONGEST_PATH) else quoted(image)
