"""Images in zip files beside a table: only what its rows name is unpacked, by content, into the store."""

import logging
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from tqdm import tqdm

from processing.errors import BROKEN_ZIP, DISK_FULL, UserError, describe_error, quoted
from processing.image_source import split_number
from processing.image_store import TOO_LARGE, ImageStore, StoredImage
from processing.images import MAX_IMAGE_BYTES
from processing.problems import Problem
from processing.sources.folder import DataFolder

logger = logging.getLogger(__name__)

MAX_UNPACKED_BYTES = 100 * 2**30  # of one archive; PMC-VQA's images take 19 GB
SEVERAL = "several images of this name in a zip file; write their folder in front"
BROKEN = "an image that can't be unpacked"
PROGRESS_FROM = 200  # images to unpack from which a progress bar is shown

Found = StoredImage | Problem


def unpack_images(folder: DataFolder, names: Iterable[str], store: ImageStore) -> dict[str, Found]:
    """The images that the zip files of a folder have under these names, each by the name.

    Zip files are fetched and read one after the other, until every name is found. An entry's name is never a path
    here: it is compared with what a row says, by all of its parts or by those that both have. A name may end in the
    number of a slice.

    Raises:
        UserError: what rows name unpacks to more than `MAX_UNPACKED_BYTES`, or a zip file can't be fetched.
    """
    names = list(names)
    found = _unpack_files(folder, names, store)
    slices = {name: split_number(name) for name in names if name not in found and split_number(name)[1] is not None}
    files = _unpack_files(folder, {file for file, _ in slices.values()}, store)
    for name, (file, number) in slices.items():
        if file in files:
            stored = files[file]
            found[name] = StoredImage(f"{stored}#{number}") if isinstance(stored, StoredImage) else stored
    return found


def _unpack_files(folder: DataFolder, names: Iterable[str], store: ImageStore) -> dict[str, Found]:
    """`unpack_images` of whole files."""
    found: dict[str, Found] = {}
    missing = {name: parts for name in names if (parts := _parts(name))}
    for archive in [name for name in folder.files if name.lower().endswith(".zip")]:
        if not missing:
            break
        folder.fetch([archive])
        try:
            found |= _unpack(folder.root / archive, archive, missing, store)
        except BROKEN_ZIP as error:
            logger.warning("%s: a broken zip file (%s), of which nothing is read.", archive, describe_error(error))
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            logger.warning("%s: it can't be read (%s).", archive, error.strerror or error)
        missing = {name: parts for name, parts in missing.items() if name not in found}
    return found


def _unpack(file: Path, label: str, wanted: dict[str, tuple[str, ...]], store: ImageStore) -> dict[str, Found]:
    """The images of one zip file."""
    known = store.recall(file, "entries")
    names: dict[str, str] = dict(known) if isinstance(known, dict) else {}
    with zipfile.ZipFile(file) as archive:
        entries = _Entries(archive)
        chosen = {name: entries.find(parts) for name, parts in wanted.items()}
        found: dict[str, Found] = {name: entry for name, entry in chosen.items() if isinstance(entry, Problem)}
        needed = {entry.filename: entry for entry in chosen.values() if isinstance(entry, zipfile.ZipInfo)}
        fresh = [entry for filename, entry in needed.items() if filename not in names]
        problems, size = {}, 0
        for entry in tqdm(fresh, f"Unpacking {label}", unit="image", disable=len(fresh) < PROGRESS_FROM):
            image = _read(archive, entry, store)
            size += min(entry.file_size, MAX_IMAGE_BYTES)
            if size > MAX_UNPACKED_BYTES:
                raise UserError(f"{label}: it unpacks to over {MAX_UNPACKED_BYTES / 2**30:.0f} GiB; refused.")
            if isinstance(image, StoredImage):
                names[entry.filename] = image
            else:
                problems[entry.filename] = image
    if fresh:
        store.remember(file, "entries", names)
    for name, entry in chosen.items():
        if isinstance(entry, zipfile.ZipInfo):
            stored = names.get(entry.filename)
            found[name] = problems[entry.filename] if stored is None else StoredImage(stored)
    return found


class _Entries:
    """The files of an archive, by the last part of their names."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._by_name: dict[str, list[tuple[tuple[str, ...], zipfile.ZipInfo]]] = {}
        for entry in archive.infolist():
            parts = _parts(entry.filename)
            if parts and not entry.is_dir() and not stat.S_ISLNK(entry.external_attr >> 16):
                self._by_name.setdefault(parts[-1], []).append((parts, entry))

    def find(self, parts: tuple[str, ...]) -> zipfile.ZipInfo | Problem | None:
        """The one entry whose name has these parts at its end, or is the end of them."""
        entries = self._by_name.get(parts[-1], [])
        exact = [entry for own, entry in entries if own == parts]
        similar = exact or [entry for own, entry in entries if _share_end(own, parts)]
        if len(similar) > 1:
            return Problem(SEVERAL, quoted("/".join(parts)))
        return similar[0] if similar else None


def _share_end(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, store: ImageStore) -> Found:
    """One entry, of which never more is unpacked than an image may have, whatever size it states."""
    if entry.file_size > MAX_IMAGE_BYTES:
        return Problem(TOO_LARGE, f"{quoted(entry.filename)} in {Path(archive.filename or '').name}")
    try:
        with archive.open(entry) as content:
            image = store.add(content.read(MAX_IMAGE_BYTES + 1), entry.filename)
    except (*BROKEN_ZIP, NotImplementedError) as error:
        return Problem(BROKEN, f"{quoted(entry.filename)}: {describe_error(error)}")
    return image or Problem(BROKEN, f"{quoted(entry.filename)}: it is empty")


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a name; none where it leads out of its folder, is a whole path, or belongs to macOS."""
    parts = tuple(part for part in name.strip().replace("\\", "/").split("/") if part not in ("", "."))
    is_whole = name.strip().startswith(("/", "\\")) or bool(PureWindowsPath(name.strip()).drive)
    if is_whole or ".." in parts or "__MACOSX" in parts or "\0" in name:
        return ()
    return parts
