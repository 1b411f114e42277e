"""Every problem of a data set found in one pass, before any model is loaded."""

import hashlib
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from processing.images import ImageError, open_image
from processing.sources.tables import SPLIT_NAMES, TABLE_FIELDS, Row, Source
from processing.storage import cache_dir, write_atomically

logger = logging.getLogger(__name__)

CHECKED_FIELDS = ("image", "question", "answer", "split")  # each by a rule of its own

HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")

NAMED_ROWS = 3  # rows named for each kind of problem

PROGRESS_FROM = 200  # images to decode from which a progress bar is shown


def validate(source: Source, *, allow_no_answer: bool) -> tuple[list[Row], list[Row]]:
    """Sorts rows into good and bad ones.

    Good rows get an absolute `image` path, `digest` (SHA-256 of the image file, the identity that leaks are told by),
    string `question` and `answer`, and `split` under its standard name. Bad rows get `problem` (a kind) and `detail`.

    Returns:
        Good rows and bad rows, each in their first order.
    """
    root = Path(os.path.realpath(source.root))
    images = _check_images({row["image"] for row in source.rows if isinstance(row["image"], str)}, root)
    good, bad = [], []
    seen: set[tuple] = set()
    for row in source.rows:
        problem, detail = _problem_of_text(row, allow_no_answer) or (None, None)
        if problem is None:
            problem, detail = _problem_of_image(row["image"], images)
        if problem is None and row.get("question_id") is not None:
            key = (row["split"], row.get("language"), row["question_id"])
            if key in seen:
                problem, detail = "duplicate id", f"{row['question_id']}"
            seen.add(key)
        if problem is not None:
            bad.append(row | {"problem": problem, "detail": detail})
            continue
        row["image"], row["digest"] = str(root / row["image"]), images[row["image"]]["digest"]
        good.append(row)
    return good, bad


def _problem_of_text(row: Row, allow_no_answer: bool) -> tuple[str, str] | None:
    """Checks split, question and answer, and brings them into their standard form in place."""
    if row["split"] is not None:
        split = SPLIT_NAMES.get(str(row["split"]).strip().lower())
        if split is None:
            return "unknown split", f"{row['split']!r}, expected train, validation or test"
        row["split"] = split
    for field in TABLE_FIELDS:
        value = row.get(field)
        if field not in CHECKED_FIELDS and not isinstance(value, str | int | float | None):
            return "neither text nor number", f"{field}: {value!r}"[:80]
        if isinstance(value, str) and HALF_CHARACTER.search(value):
            return "half a character (a lone surrogate)", f"{field}: {value!r}"[:80]
    if not isinstance(row["question"], str) or not row["question"].strip():
        return "empty question", repr(row["question"])
    row["question"] = " ".join(row["question"].split())
    answer = row["answer"]
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = f"{answer:g}" if isinstance(answer, float) else str(answer)
    if not isinstance(answer, str):
        return "answer is not a string", repr(answer)[:80]
    row["answer"] = " ".join(answer.split())
    if not row["answer"] and not allow_no_answer:
        return "empty answer (SQuAD v2's no answer; kept by --allow_no_answer)", repr(answer)
    return None


def _problem_of_image(image: Any, images: dict[str, dict]) -> tuple[str | None, str | None]:
    if not isinstance(image, str) or not image:
        return "missing image", repr(image)
    found = images[image]
    return found.get("problem"), found.get("detail")


def file_inside(root: Path, name: str) -> Path | None:
    """The file that a table names, links followed; None outside of the folder `root`, whose path is a real one."""
    path = Path(os.path.realpath(root / name))
    return path if path != root and path.is_relative_to(root) else None


def _check_images(names: Iterable[str], root: Path) -> dict[str, dict]:
    """Opens each image once; what was opened before and has not changed since is remembered on disk.

    Returns:
        For each name either `digest`, or `problem` and `detail`.
    """
    memory_file = cache_dir() / "verified" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
    memory = _read_memory(memory_file)
    results: dict[str, dict] = {}
    unknown: dict[str, list] = {}
    for name in sorted(names):
        try:
            path = file_inside(root, name)
            if path is None:
                results[name] = {"problem": "image path leaves the data folder", "detail": name}
                continue
            status = os.stat(path)
        except (OSError, ValueError):
            results[name] = {"problem": "missing image", "detail": name}
            continue
        stamp = [status.st_size, status.st_mtime_ns]
        if name in memory and memory[name][:2] == stamp:
            results[name] = {"digest": memory[name][2]}
        else:
            unknown[name] = stamp

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
        checked = pool.map(lambda name: _check_image(root / name, name), unknown)
        progress = tqdm(checked, "Checking images", len(unknown), disable=len(unknown) < PROGRESS_FROM, unit="image")
        results |= dict(zip(unknown, progress, strict=True))

    fresh = {name: [*stamp, results[name]["digest"]] for name, stamp in unknown.items() if "digest" in results[name]}
    if fresh:
        try:
            write_atomically(memory_file, json.dumps(memory | fresh))
        except OSError as error:
            logger.warning("Checked images can't be remembered in %s (%s).", memory_file.parent, error.strerror)
    return results


def _check_image(path: Path, name: str) -> dict:
    try:
        open_image(path)
        return {"digest": hashlib.sha256(path.read_bytes()).hexdigest()}
    except (ImageError, OSError) as error:
        return {"problem": "undecodable image", "detail": f"{name}: {error}"}


def _read_memory(file: Path) -> dict[str, list]:
    try:
        memory = json.loads(file.read_text())
        return {name: stamp for name, stamp in memory.items() if len(stamp) == 3}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def describe_problems(bad: list[Row], total: int) -> str:
    """A summary for people: each kind of problem, its count and the first rows that have it."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in bad:
        groups[row["problem"]].append(row)
    lines = [f"{len(bad):,} of {total:,} rows can't be used:"]
    for problem, rows in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        named = "; ".join(f"{row['where']} ({row['detail']})" for row in rows[:NAMED_ROWS])
        lines.append(f"  {len(rows):,} x {problem}: {named}{'; ...' if len(rows) > NAMED_ROWS else ''}")
    return "\n".join(lines)
