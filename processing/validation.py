"""Every problem of a data set found in one pass, before any model is loaded."""

import hashlib
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from processing.errors import describe_error
from processing.images import ImageError, open_image
from processing.sources.rows import FIELDS, SPLIT_NAMES, Row, Source
from processing.storage import cache_dir, write_atomically

logger = logging.getLogger(__name__)

CHECKED_FIELDS = ("image", "question", "answer", "split")  # each by a rule of its own
SURROGATE = re.compile(r"[\ud800-\udfff]")  # one half of a UTF-16 pair, which no encoding can write
NAMED_ROWS = 3  # rows named for each kind of problem
PROGRESS_FROM = 200  # images to decode from which a progress bar is shown


class Problem(NamedTuple):
    """Why a row can't be used.

    Attributes:
        kind: the same words for all rows that have this problem.
        detail: what is wrong with this row.
    """

    kind: str
    detail: str


def validate(source: Source, *, allow_no_answer: bool) -> tuple[list[Row], list[Row]]:
    """Sorts rows into good and bad ones.

    Good rows get an absolute `image` path, `digest` (SHA-256 of the image file, by which leaks are found), string
    `question` and `answer`, and `split` under its standard name. Bad rows get `problem` (a kind) and `detail`.

    Returns:
        Good rows and bad rows, each in their first order.
    """
    root = Path(os.path.realpath(source.root))
    images = _check_images({row["image"] for row in source.rows if isinstance(row["image"], str)}, root)
    good, bad = [], []
    ids: set[tuple] = set()
    for row in source.rows:
        problem = _problem_of_text(row, allow_no_answer) or _problem_of_image(row["image"], images)
        if problem is None:
            problem = _problem_of_id(row, ids)
        if problem is not None:
            bad.append(row | {"problem": problem.kind, "detail": problem.detail})
            continue
        row["digest"] = images[row["image"]]
        row["image"] = str(root / row["image"])
        good.append(row)
    return good, bad


def _problem_of_text(row: Row, allow_no_answer: bool) -> Problem | None:
    """Checks split, question and answer, and brings them into their standard form in place."""
    if row["split"] is not None:
        split = SPLIT_NAMES.get(str(row["split"]).strip().lower())
        if split is None:
            return Problem("unknown split", f"{row['split']!r}, expected train, validation or test")
        row["split"] = split
    for field in FIELDS:
        value = row.get(field)
        if field not in CHECKED_FIELDS and not isinstance(value, str | int | float | None):
            return Problem("neither text nor number", f"{field}: {value!r}"[:80])
        if isinstance(value, str) and SURROGATE.search(value):
            return Problem("broken character (a lone surrogate)", f"{field}: {value!r}"[:80])
    if not isinstance(row["question"], str) or not row["question"].strip():
        return Problem("empty question", repr(row["question"]))
    row["question"] = " ".join(row["question"].split())
    answer = row["answer"]
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = f"{answer:g}" if isinstance(answer, float) else str(answer)
    if not isinstance(answer, str):
        return Problem("answer is not a string", repr(answer)[:80])
    row["answer"] = " ".join(answer.split())
    if not row["answer"] and not allow_no_answer:
        return Problem("empty answer (SQuAD v2's no answer; kept by --allow_no_answer)", repr(answer))
    return None


def _problem_of_image(image: Any, images: Mapping[str, str | Problem]) -> Problem | None:
    if not isinstance(image, str) or not image:
        return Problem("missing image", repr(image))
    found = images[image]
    return found if isinstance(found, Problem) else None


def _problem_of_id(row: Row, ids: set[tuple]) -> Problem | None:
    """Checks the row's question id against those before it, and adds it to them."""
    if row.get("question_id") is None:
        return None
    key = (row["split"], row.get("language"), row["question_id"])
    if key in ids:
        return Problem("duplicate id", f"{row['question_id']}")
    ids.add(key)
    return None


def file_inside(root: Path, name: str) -> Path | None:
    """The file that a table names, with links followed; None outside of the folder.

    Args:
        root: the folder, as a path without links.
    """
    path = Path(os.path.realpath(root / name))
    return path if path != root and path.is_relative_to(root) else None


def _check_images(names: Iterable[str], root: Path) -> dict[str, str | Problem]:
    """Opens each image once, and remembers on disk those that could be opened until they change.

    Returns:
        The digest of each image, or its problem.
    """
    cache_file = cache_dir() / "verified" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
    verified = _read_verified(cache_file)
    results: dict[str, str | Problem] = {}
    unknown: dict[str, list] = {}
    for name in sorted(names):
        try:
            path = file_inside(root, name)
            if path is None:
                results[name] = Problem("image path leaves the data folder", name)
                continue
            status = os.stat(path)
        except (OSError, ValueError):
            results[name] = Problem("missing image", name)
            continue
        stamp = [status.st_size, status.st_mtime_ns]
        if name in verified and verified[name][:2] == stamp:
            results[name] = verified[name][2]
        else:
            unknown[name] = stamp

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
        checked = pool.map(lambda name: _check_image(root / name, name), unknown)
        progress = tqdm(checked, "Checking images", len(unknown), disable=len(unknown) < PROGRESS_FROM, unit="image")
        results |= dict(zip(unknown, progress, strict=True))

    fresh = {name: [*stamp, results[name]] for name, stamp in unknown.items() if isinstance(results[name], str)}
    if fresh:
        try:
            write_atomically(cache_file, json.dumps(verified | fresh))
        except OSError as error:
            logger.warning(
                "The list of checked images can't be saved in %s (%s), so the next run checks them again.",
                cache_file.parent,
                error.strerror,
            )
    return results


def _check_image(path: Path, name: str) -> str | Problem:
    try:
        open_image(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except Exception as error:  # whatever a decoder raises costs the image's rows and not the run
        reason = str(error) if isinstance(error, ImageError | OSError) else describe_error(error)
        return Problem("undecodable image", f"{name}: {reason}")


def _read_verified(file: Path) -> dict[str, list]:
    """Size, time of change and digest of each image that could be opened; empty where the file is not readable."""
    try:
        verified = json.loads(file.read_text())
        return {name: entry for name, entry in verified.items() if len(entry) == 3}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def describe_problems(bad: list[Row], total: int) -> str:
    """A summary for people: each kind of problem, its count and the first rows that have it.

    Args:
        bad: rows with `problem` and `detail`.
        total: number of rows, good ones included.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in bad:
        groups[row["problem"]].append(row)
    lines = [f"{len(bad):,} of {total:,} rows can't be used:"]
    for problem, rows in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        named = "; ".join(f"{row['where']} ({row['detail']})" for row in rows[:NAMED_ROWS])
        if len(rows) > NAMED_ROWS:
            named += "; ..."
        lines.append(f"  {len(rows):,} x {problem}: {named}")
    return "\n".join(lines)
