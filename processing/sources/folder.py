"""The files of a data set: in a folder of this machine, or in one that the Hub's files are fetched into."""

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from processing.errors import shorten

NAMED_FILES = 10  # in a message


@dataclass
class DataFolder:
    """A folder and the files in it.

    Attributes:
        label: how messages about it begin, such as `--dataset user/name`.
        root: the folder.
        files: their names relative to it, with slashes, sorted.
    """

    label: str
    root: Path
    files: list[str]

    def fetch(self, names: Iterable[str]) -> None:
        """Makes sure that these files are there; here all of them are."""

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        try:
            return (self.root / name).is_file()
        except (OSError, ValueError):  # it can't be a name
            return False

    def title(self, name: str) -> str:
        """A file's name for messages."""
        return str(self.root / name)

    @property
    def id(self) -> str:
        """A name for what the cache keeps of it."""
        return hashlib.sha256(os.path.realpath(self.root).encode()).hexdigest()[:16]

    @cached_property
    def known(self) -> frozenset[str]:
        """`files`, to ask whether one is there."""
        return frozenset(self.files)

    @property
    def image_root(self) -> Path:
        """The folder that all images lie in, links followed."""
        return self.root

    def image_name(self, name: str) -> str:
        """The name relative to `image_root` of a file that is named relative to `root`."""
        return name

    def describe(self) -> str:
        """What the folder holds, for a message: kinds of files and their number, and the first names."""
        if not self.files:
            return "no file at all"
        kinds = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in self.files)
        common = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(NAMED_FILES))
        names = ", ".join(shorten(name) for name in self.files[:NAMED_FILES])
        return f"{names}{', ...' if len(self.files) > NAMED_FILES else ''} ({common})"


def local_folder(label: str, root: Path, *, deep: bool = True) -> DataFolder:
    """The folder with its files, but for hidden ones.

    Args:
        deep: with those of its folders.
    """
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if deep and not name.startswith("."))
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        files += [posixpath.normpath(posixpath.join(inside, name)) for name in names if not name.startswith(".")]
    return DataFolder(label, root, sorted(files))
