"""Every problem of a data set found in one pass, before any model is loaded."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from processing.errors import describe_error, quoted, shorten
from processing.image_paths import EMBEDDED, MISSING, NO_PATH, URL, ImageFolder
from processing.image_source import label_of
from processing.images import ImageError, open_image
from processing.problems import Problem
from processing.question_ids import make_ids_unique, problem_of_repetition
from processing.sources.rows import FIELDS, SPLIT_NAMES, Row, Source
from processing.sources.values import text_of
from processing.storage import cache_dir, write_atomically

logger = logging.getLogger(__name__)

CHECKED_FIELDS = ("image", "question", "answer", "split")  # each by a rule of its own
SURROGATE = re.compile(r"[\ud800-\udfff]")  # one half of a UTF-16 pair, which no encoding can write
LONGEST_PATH = 1_000  # characters; longer text in place of an image path is data
PROGRESS_FROM = 200  # images to decode from which a progress bar is shown


class CheckedImage(NamedTuple):
    """An image that can be opened.

    Attributes:
        name: its path from the data folder, with slashes.
        digest: SHA-256 of its file.
    """

    name: str
    digest: str


def validate(source: Source, *, allow_no_answer: bool) -> tuple[list[Row], list[Row]]:
    """Sorts rows into good and bad ones.

    Good rows get an absolute `image` path, an `image_id` that is none, `digest` (SHA-256 of the image file, by which
    leaks are found), string `question` and `answer`, `split` under its standard name, and a `question_id` that no
    other row of the split has, or None. Bad rows get `problem` (a kind) and `detail`.

    Returns:
        Good rows and bad rows, each in their first order.
    """
    folder = ImageFolder(source.root)
    images = _check_images(dict.fromkeys(row["image"] for row in source.rows if isinstance(row["image"], str)), folder)
    good, bad = [], []
    known: set[tuple] = set()
    for row in source.rows:
        image = _image_of(row["image"], images)
        row["image_id"] = _image_id(row, image, folder)
        problem = _problem_of_text(row, allow_no_answer)
        if isinstance(image, Problem):
            problem = problem or image
            row["image"] = _without_data(row["image"])
        elif problem is None:
            problem = problem_of_repetition(row, image.digest, known)
        if problem is None and isinstance(image, CheckedImage):
            row["digest"], row["image"] = image.digest, str(folder.root / image.name)
            good.append(row)
        elif problem is not None:
            bad.append(row | {"problem": problem.kind, "detail": problem.detail})
    make_ids_unique(good)
    return good, bad


def _problem_of_text(row: Row, allow_no_answer: bool) -> Problem | None:
    """Checks split, question and answer, and brings them into their standard form in place."""
    if row["split"] is not None:
        split = SPLIT_NAMES.get(str(row["split"]).strip().lower())
        if split is None:
            return Problem("unknown split", f"{quoted(row['split'])}, expected train, validation or test")
        row["split"] = split
    for field in FIELDS:
        value = row.get(field)
        if field not in CHECKED_FIELDS and not isinstance(value, str | int | float | None):
            return Problem("neither text nor number", f"{field}: {quoted(value)}")
        if isinstance(value, str) and SURROGATE.search(value):
            return Problem("broken character (a lone surrogate)", f"{field}: {quoted(value)}")
    for field in ("question", "answer"):
        value = row[field]
        if isinstance(value, bool):
            return Problem(f"{field} is not a string", f"{value}; write a word such as yes or no")
        if not isinstance(value, str | int | float | None):
            return Problem(f"{field} is not a string", quoted(value))
        row[field] = " ".join((text_of(value) or "").split())
    if not row["question"]:
        return Problem("empty question", quoted(row["question"]))
    if not row["answer"] and not allow_no_answer:
        return Problem("empty answer (SQuAD v2's no answer; kept by --allow_no_answer)", quoted(row["answer"]))
    return None


def _image_of(image: Any, images: Mapping[str, CheckedImage | Problem]) -> CheckedImage | Problem:
    if image is None:
        return Problem(MISSING, "no path")
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


def _check_images(names: Iterable[str], folder: ImageFolder) -> dict[str, CheckedImage | Problem]:
    """Opens each image once, and remembers on disk those that could be opened until they change.

    Args:
        names: as tables have them.
        folder: of the images.
    """
    root = folder.root
    cache_file = cache_dir() / "verified" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
    verified = _read_verified(cache_file)
    files = {name: folder.find(name) for name in names}
    results: dict[str, str | Problem] = {}
    unknown: dict[str, list] = {}
    for file in sorted({file for file in files.values() if isinstance(file, str)}):
        try:
            status = os.stat(root / file)
        except OSError:
            results[file] = Problem(MISSING, shorten(file))
            continue
        stamp = [status.st_size, status.st_mtime_ns]
        if file in verified and verified[file][:2] == stamp:
            results[file] = verified[file][2]
        else:
            unknown[file] = stamp

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
        checked = pool.map(lambda file: _check_image(root / file, file), unknown)
        progress = tqdm(checked, "Checking images", len(unknown), disable=len(unknown) < PROGRESS_FROM, unit="image")
        results |= dict(zip(unknown, progress, strict=True))

    fresh = {file: [*stamp, results[file]] for file, stamp in unknown.items() if isinstance(results[file], str)}
    if fresh:
        try:
            write_atomically(cache_file, json.dumps(verified | fresh))
        except OSError as error:
            logger.warning(
                "The list of checked images can't be saved in %s (%s), so the next run checks them again.",
                cache_file.parent,
                error.strerror,
            )
    return {name: _with_digest(file, results) for name, file in files.items()}


def _with_digest(file: str | Problem, results: Mapping[str, str | Problem]) -> CheckedImage | Problem:
    if isinstance(file, Problem):
        return file
    digest = results[file]
    return digest if isinstance(digest, Problem) else CheckedImage(file, digest)


def _check_image(path: Path, name: str) -> str | Problem:
    try:
        open_image(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except Exception as error:  # whatever a decoder raises costs the image's rows and not the run
        reason = str(error) if isinstance(error, ImageError | OSError) else describe_error(error)
        reason = reason.removeprefix(f"Cannot open {label_of(path)}: ").replace(str(path), shorten(name))
        return Problem("undecodable image", f"{shorten(name)}: {reason}")


def _read_verified(file: Path) -> dict[str, list]:
    """Size, time of change and digest of each image that could be opened; empty where the file is not readable."""
    try:
        verified = json.loads(file.read_text())
        return {name: entry for name, entry in verified.items() if len(entry) == 3}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
