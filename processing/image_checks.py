"""Opens every image of a data set once, and remembers of each that could be opened what leaks are found by."""

import hashlib
import io
import logging
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from processing.errors import describe_error, shorten
from processing.image_paths import MISSING, ImageFolder
from processing.image_source import digest_of, label_of, split_slice
from processing.images import ImageError, open_image
from processing.neighbours import SIDE, thumbnail
from processing.problems import Problem
from processing.storage import cache_dir, write_atomically

logger = logging.getLogger(__name__)

PROGRESS_FROM = 200  # images to decode from which a progress bar is shown


class CheckedImage(NamedTuple):
    """An image that can be opened.

    Attributes:
        name: its path from the data folder, with slashes, and the number of a slice where one is meant.
        digest: SHA-256 of its file and that number, the same on every machine.
        pixels: SHA-256 of its decoded pixels, the same for every lossless compression of an image.
        thumbnail: of `processing.neighbours`.
    """

    name: str
    digest: str
    pixels: str
    thumbnail: bytes


COLUMNS = pa.schema(
    {
        "name": pa.string(),
        "size": pa.int64(),  # of the file, in bytes
        "changed": pa.int64(),  # time of its last change, in nanoseconds
        "digest": pa.string(),
        "pixels": pa.string(),
        "thumbnail": pa.binary(SIDE * SIDE),
    }
)
Stamp = tuple[int, int]  # size and changed


def check_images(names: Iterable[str], folder: ImageFolder) -> dict[str, CheckedImage | Problem]:
    """Opens each image once, and remembers on disk those that could be opened until they change.

    Args:
        names: as tables have them.
        folder: of the images.
    """
    root = folder.root
    cache_file = cache_dir() / "verified" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.arrow"
    known = _read_known(cache_file)
    files = {name: folder.find(name) for name in names}
    results: dict[str, CheckedImage | Problem] = {}
    unknown: dict[str, Stamp] = {}
    for file in sorted({file for file in files.values() if isinstance(file, str)}):
        try:
            status = os.stat(split_slice(str(root / file))[0])
        except OSError:
            results[file] = Problem(MISSING, shorten(file))
            continue
        stamp = (status.st_size, status.st_mtime_ns)
        if file in known and known[file][0] == stamp:
            results[file] = known[file][1]
        else:
            unknown[file] = stamp

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
        checked = pool.map(lambda file: _check_image(root / file, file), unknown)
        progress = tqdm(checked, "Checking images", len(unknown), disable=len(unknown) < PROGRESS_FROM, unit="image")
        results |= dict(zip(unknown, progress, strict=True))

    opened = ((file, results[file]) for file in unknown)
    fresh = {file: (unknown[file], image) for file, image in opened if isinstance(image, CheckedImage)}
    if fresh:
        try:
            write_atomically(cache_file, _as_table(known | fresh))
        except OSError as error:
            logger.warning(
                "The list of checked images can't be saved in %s (%s), so the next run checks them again.",
                cache_file.parent,
                error.strerror,
            )
    return {name: file if isinstance(file, Problem) else results[file] for name, file in files.items()}


def _check_image(path: Path, name: str) -> CheckedImage | Problem:
    try:
        image = open_image(path)
        return CheckedImage(name, digest_of(path), pixel_digest(image), thumbnail(image))
    except Exception as error:  # whatever a decoder raises costs the image's rows and not the run
        reason = str(error) if isinstance(error, ImageError | OSError) else describe_error(error)
        reason = reason.removeprefix(f"Cannot open {label_of(path)}: ").replace(str(path), shorten(name))
        return Problem("undecodable image", f"{shorten(name)}: {reason}")


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 of the size and the pixels of an RGB image."""
    return hashlib.sha256(b"%d x %d " % image.size + image.tobytes()).hexdigest()


def _as_table(images: Mapping[str, tuple[Stamp, CheckedImage]]) -> bytes:
    rows = [image._asdict() | dict(zip(("size", "changed"), stamp, strict=True)) for stamp, image in images.values()]
    table, file = pa.Table.from_pylist(rows, COLUMNS), io.BytesIO()
    with pa.ipc.new_file(file, COLUMNS) as writer:
        writer.write_table(table)
    return file.getvalue()


def _read_known(file: Path) -> dict[str, tuple[Stamp, CheckedImage]]:
    """Size, time of change and image by name, of those that could be opened; empty where the file is not readable."""
    try:
        table = pa.ipc.open_file(file.read_bytes()).read_all()
        columns = [table.column(name).to_pylist() for name in COLUMNS.names]
    except (OSError, KeyError, pa.ArrowException):
        return {}
    return {
        name: ((size, changed), CheckedImage(name, digest, pixels, small))
        for name, size, changed, digest, pixels, small in zip(*columns, strict=True)
    }
