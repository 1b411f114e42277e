"""Where files are kept and how they are written: the cache folder, and files that are never half written."""

import csv
import io
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# What a spreadsheet may run as a formula, by OWASP's page on CSV injection, and what only looks like one.
FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")  # noqa: RUF001
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def cache_dir() -> Path:
    """The folder for everything that can be made again: `MEDICAL_VQA_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("MEDICAL_VQA_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "medical-vqa"


def scratch_dir() -> Path:
    """The folder for rows of data sets: in the cache folder, or the system's for temporary files where it can't be."""
    folder = cache_dir() / "rows"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir())
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write, which is there whole or not at all: no reader sees half of it, no killed process leaves half.

    A file that is there keeps its permissions, and a symbolic link leads to the file that is written.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}")  # short, as a name has 255 bytes at most
    try:
        # A file of `tempfile` would be private, and a process can't ask for its umask without changing it.
        with temporary.open("xb") as file:
            if path.is_file() and (mode := _permissions(path)) != _permissions(temporary):
                temporary.chmod(mode)
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Writes an `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which takes the name `folder` at the end; nothing is left of it after an error.

    Where another process was first, its folder stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    with atomic_file(path) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False) + "\n"
            file.write(line.encode(errors="backslashreplace"))  # a lone surrogate becomes JSON's own escape


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV file with a header, safe to open in a spreadsheet.

    Text that a spreadsheet would run as a formula gets an apostrophe in front; plain numbers such as -5 do not.
    `processing.sources.csv_tables` takes it off again.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([_cell(column) for column in columns])
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and FORMULA.match(value) and not PLAIN_NUMBER.fullmatch(value):
        return f"'{value}"
    return value
