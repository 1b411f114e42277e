"""Images that a data set keeps inside of other files (Parquet, zip), as files of the cache, each once."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from processing.images import MAX_IMAGE_BYTES
from processing.problems import Problem
from processing.storage import cache_dir, write_atomically

# How image files begin, with the ending that their name gets; whatever it ends in, an image is told by its content.
ENDINGS = (
    (0, b"\x89PNG", ".png"),
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"GIF8", ".gif"),
    (0, b"BM", ".bmp"),
    (0, b"II*\0", ".tif"),
    (0, b"MM\0*", ".tif"),
    (8, b"WEBP", ".webp"),
    (128, b"DICM", ".dcm"),
)
TOO_LARGE = f"image above the limit of {MAX_IMAGE_BYTES:,} bytes"


class StoredImage(str):
    """The name of an image in the store, relative to its folder."""


class ImageStore:
    """The images of a data set in `images` of the cache folder, and which files they were found in.

    Each data set has a folder of its own, since what is known of checked images is kept by folder. A name is the
    SHA-256 of the image's bytes, so nothing that a data set calls an image becomes a path.

    Attributes:
        root: the folder of the images, links followed.
    """

    def __init__(self, data_set: str) -> None:
        """Opens the store of a data set.

        Args:
            data_set: its id, made of letters that a folder's name may have.
        """
        self.root = Path(os.path.realpath(cache_dir() / "images" / data_set))
        self._found = cache_dir() / "found_images"

    def add(self, data: bytes, name: str = "") -> StoredImage | Problem | None:
        """Writes an image that is not there yet; None where there are no bytes.

        Args:
            data: the bytes of its file, or the beginning of them where they are above the limit.
            name: that its data set gave it, for the ending of a DICOM file that does not say what it is.
        """
        if not data:
            return None
        if len(data) > MAX_IMAGE_BYTES:
            return Problem(TOO_LARGE, "reduce its size")
        digest = hashlib.sha256(data).hexdigest()
        stored = StoredImage(f"{digest[:2]}/{digest}{_ending(data, name)}")
        if not (self.root / stored).is_file():
            write_atomically(self.root / stored, data)
        return stored

    def recall(self, file: Path, part: str) -> list | dict | None:
        """What `remember` was told of a part of a file; None where the file has changed or an image is gone."""
        try:
            known = json.loads(self._record_of(file, part).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        values = known.values() if isinstance(known, dict) else known
        names = {name for name in values if isinstance(name, str)}
        if not all((self.root / name).is_file() for name in names):
            return None
        return known

    def remember(self, file: Path, part: str, names: Sequence | dict) -> None:
        """Keeps which images a part of a file holds, so that they need not be read again."""
        write_atomically(self._record_of(file, part), json.dumps(names))

    def _record_of(self, file: Path, part: str) -> Path:
        """A file of the cache for this state of a file."""
        real = os.path.realpath(file)
        status = os.stat(real)
        key = json.dumps([str(self.root), real, status.st_size, status.st_mtime_ns, part])
        return self._found / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _ending(data: bytes, name: str) -> str:
    for offset, beginning, ending in ENDINGS:
        if data.startswith(beginning, offset):
            return ending
    return ".dcm" if name.lower().endswith((".dcm", ".dicom")) else ".bin"
