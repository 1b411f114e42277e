"""From the name that a table gives an image to the file in the folder that must hold it."""

import difflib
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote

from processing.errors import mask_credentials, shorten
from processing.image_source import split_number
from processing.problems import Problem

MISSING = "missing image"
OUTSIDE = "image path leaves the data folder"
EMBEDDED = "image data (base64) instead of a path; write the images to files and give their paths"
URL = "a URL instead of an image path; save the images as files and give their paths"
NO_PATH = "image is not a path; write the images to files and give their paths"

MAX_HINTS = 10  # missing images for which a close name is searched; messages name fewer
MAX_COMPARED = 2_000  # files of a folder among which a similar name is searched
SIMILARITY = 0.8  # of such a name, from 0 to 1

# An image in base64, known by its beginning (PNG, JPEG, GIF, WebP, TIFF, BMP) or its length; or its bytes as text.
IMAGE_DATA = re.compile(
    r"""data:.*|(iVBOR|/9j/|R0lGOD|UklGR|SUkq|TU0A|Qk)[\w+/\s-]{20,}=*\s*|[\w+/\s-]{200,}=*\s*|b['"].*|\x89PNG.*""",
    re.DOTALL,
)
AROUND = " \t\r\n\xa0\ufeff\u200b\u202a\u202c\"'`“”‘’"  # noqa: RUF001
CONTROLS = {"\t": "/t", "\n": "/n", "\r": "/r", "\b": "/b", "\f": "/f", "\v": "/v", "\a": "/a"}
FILE_SCHEME = re.compile(r"file:(//(localhost)?)?(?=[^/]|/[^/])", re.IGNORECASE)
NUMBERS = re.compile(r"\d+")
LINK = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/?#\s]*)")
WHOLE_PATH = re.compile(r"((Posix|Windows)Path\(.)?[/\\]|~[\w.-]*[/\\]|[A-Za-z]:[/\\]|file:")


def file_inside(root: Path, name: str) -> Path | None:
    """The file that a table names, with links followed; None outside of the folder.

    Args:
        root: the folder, as a path without links.
    """
    path = Path(os.path.realpath(root / name))
    return path if path != root and path.is_relative_to(root) else None


def is_absolute(name: str) -> bool:
    """Whether a name is a whole path, of this machine or another."""
    return WHOLE_PATH.match(_bare(name)) is not None


def for_others(value: Any) -> Any:
    """A value of a table for a file that others may read: no folder of a machine, and nothing that opens a door."""
    if isinstance(value, str):
        return mask_credentials(ImageFolder.describe(value) if is_absolute(value) else value)
    if isinstance(value, Mapping):
        return {key: for_others(part) for key, part in value.items()}
    return [for_others(part) for part in value] if isinstance(value, list | tuple) else value


class ImageFolder:
    """A folder of images, and the names that tables have for them.

    A name may differ from the file's in what is no difference to a person: backslashes, white space around its parts,
    quotes around it, the escapes of a URL (%20), case, and the Unicode form of its letters. Whatever it says, a file
    outside of the folder is never found.

    Attributes:
        root: the folder without links.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self._given_root = Path(os.path.abspath(root))
        self._listings: dict[str, dict[str, list[str]]] = {}
        self._hints = 0

    def find(self, name: str) -> str | Problem:
        """The path of an image, relative to the folder and with slashes, or why there is none.

        The number of a slice stays at its end, where there is no file of the whole name.
        """
        file, number = split_number(_bare(name))
        if number is None or isinstance(whole := self._find(name), str):
            return self._find(name) if number is None else whole
        found = self._find(file)
        return f"{found}#{number}" if isinstance(found, str) else found

    def _find(self, name: str) -> str | Problem:
        if not name.strip():
            return Problem(MISSING, "no path")
        name = _without_file_scheme(name)
        if link := LINK.match(_bare(name)):
            host = link[2].rpartition("@")[2]  # without a name and a password
            return Problem(URL, shorten(f"{link[1]}://{host}/..."))
        outside = False  # one of its spellings leads out of the folder
        for spelling in _spellings(name):
            try:
                path = file_inside(self.root, spelling)
                if path is not None:
                    os.stat(path)
                    return self._relative(spelling, path)
                outside = True
            except (OSError, ValueError):  # there is none, or it can't be a name
                continue
        if IMAGE_DATA.fullmatch(_bare(name)):
            return Problem(EMBEDDED, f"{len(name):,} characters")
        similar = [] if outside else self._similar(unquote(_bare(name)))
        if len(similar) == 1:
            if file_inside(self.root, similar[0]):
                return similar[0]
            outside = True
        if outside and os.path.normpath(name.strip()) == os.curdir:
            return Problem(MISSING, f"{self.describe(name)}, which is the folder itself")
        if outside:
            return Problem(OUTSIDE, self.describe(name) + self._hint(name, []))
        return Problem(MISSING, self.describe(name) + self._hint(name, similar))

    @staticmethod
    def describe(name: str) -> str:
        """The name for a message or a file: short, and of a whole path the last part only."""
        if is_absolute(name):
            name = f".../{PureWindowsPath(name.rstrip()).name}"
        return shorten(name)

    def relative_id(self, value: str, default: str | None) -> str | None:
        """An image id that is no whole path: the part inside of the folder, or the default where it lies elsewhere."""
        if value.startswith("./"):
            return posixpath.normpath(value)
        if not is_absolute(value):
            return value
        try:
            path = file_inside(self.root, value)
            return default if path is None or not value.startswith("/") else self._relative(value, path)
        except (OSError, ValueError):
            return default

    def _relative(self, name: str, path: Path) -> str:
        """The name of a file relative to the folder.

        Args:
            name: by which it was found.
            path: the file, links followed.
        """
        plain = os.path.normpath(self.root / name)
        for root in (self.root, self._given_root):
            if Path(plain).is_relative_to(root):
                relative = Path(plain).relative_to(root)
                # Behind a link to a folder, the `..` of a name may lead elsewhere than its text says.
                if os.path.normpath(name) == name or os.path.realpath(self.root / relative) == str(path):
                    return relative.as_posix()
        return path.relative_to(self.root).as_posix()

    def _similar(self, name: str) -> list[str]:
        """The files whose names are the same to a person."""
        parts = _parts(name)
        if is_absolute(name) or ".." in parts:
            return []
        found = [""]
        for part in parts:
            found = [
                posixpath.join(parent, entry)
                for parent in found
                for entry in self._listing(parent).get(_key(part), [])
            ]
        return [path for path in found if os.path.isfile(self.root / path)]

    def _hint(self, name: str, similar: list[str]) -> str:
        """What a person may have meant by the name of a missing image."""
        if not similar and self._hints < MAX_HINTS:
            self._hints += 1
            similar = list(islice(self._near(name), 1))
        if not similar:
            return ""
        return f"; the folder has {' and '.join(shorten(path) for path in similar[:2])}"

    def _near(self, name: str) -> Iterator[str]:
        """Files whose names are close to that of a missing image, the closest first."""
        parts = _parts(name)
        for start in range(0 if is_absolute(name) else 1, len(parts)):  # the path may begin in another folder
            yield from self._existing("/".join(parts[start:]))
        if is_absolute(name) or ".." in parts:
            return
        for folder in self._folders():  # or lead through one more
            yield from self._existing("/".join((folder, *parts)))
        folder, key = "/".join(parts[:-1]), _key(parts[-1])
        listing = self._listing(folder)
        stem = os.path.splitext(key)[0]
        same_stem = [other for other in listing if os.path.splitext(other)[0] == stem]
        if not same_stem and len(listing) <= MAX_COMPARED:
            same_numbers = [other for other in listing if NUMBERS.findall(other) == NUMBERS.findall(key)]
            same_stem = difflib.get_close_matches(key, same_numbers, 1, SIMILARITY)
        for other in same_stem:
            yield from self._existing(posixpath.join(folder, listing[other][0]))

    def _existing(self, name: str) -> Iterator[str]:
        """The name, where it is that of a file in the folder."""
        try:
            path = file_inside(self.root, name)
            if path is not None and path.is_file():
                yield name
        except (OSError, ValueError):
            return

    def _folders(self) -> list[str]:
        """The folders directly in this one."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError:
            return []

    def _listing(self, folder: str) -> dict[str, list[str]]:
        """The entries of a folder inside this one, by their keys."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            try:
                path = self.root if not folder else file_inside(self.root, folder)
                for entry in sorted(os.listdir(path)) if path is not None else ():
                    listing.setdefault(_key(entry), []).append(entry)
            except (OSError, ValueError):
                pass
            self._listings[folder] = listing
        return self._listings[folder]


def _spellings(name: str) -> Iterable[str]:
    """The name, and what else it may say.

    That is the name without what stands around it, with slashes, without the escapes of a URL, and with the letters
    that JSON made control characters of in `images\train.png`.
    """
    bare = _bare(name)
    plain = unquote(bare).replace("\\", "/")
    letters = "".join(CONTROLS.get(char, char) for char in name.strip(" \r\n"))
    return dict.fromkeys((name, name.strip(), bare, bare.replace("\\", "/"), plain, letters))


def _bare(name: str) -> str:
    """The name without white space, invisible characters and quotes around it."""
    return name.strip(AROUND)


def _without_file_scheme(name: str) -> str:
    """The path of a `file:` URL; another name as it is."""
    match = FILE_SCHEME.match(_bare(name))
    return unquote(_bare(name)[match.end() :]) if match else name


def _parts(name: str) -> list[str]:
    """The parts of a path in any system's spelling; at least one."""
    return [part for part in name.replace("\\", "/").split("/") if part.strip() not in ("", ".")] or [name]


def _key(name: str) -> str:
    """What two names share if they look the same to a person."""
    return unicodedata.normalize("NFC", name).strip().casefold()
