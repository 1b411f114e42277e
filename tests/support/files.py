"""Folders as tests compare them."""

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """The content of each file below a folder, by its path in the folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
