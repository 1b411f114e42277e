"""Data sets in no format of their own: tables of any kind, images beside them, inside of them, or in zip files."""

import posixpath
from collections.abc import Iterable
from pathlib import Path

from processing.errors import UserError, quoted
from processing.image_paths import LINK, MISSING, ImageFolder, is_absolute
from processing.image_store import ImageStore, StoredImage
from processing.images import MAX_IMAGE_BYTES
from processing.problems import Problem
from processing.sources.archives import unpack_images
from processing.sources.columns import ColumnFinder
from processing.sources.data_files import Table
from processing.sources.folder import DataFolder
from processing.sources.parquet import read_parquet
from processing.sources.rows import Row, Source
from processing.sources.tables import PARQUET, Record, read_records, table_rows
from processing.sources.vqa_rad import is_vqa_rad, vqa_rad_source

TRIED_NAMES = 50  # of a table's images, to find the folder that they are relative to
TRIED_FOLDERS = 100


def read_tables(
    folder: DataFolder, tables: Iterable[Table], column_names: Iterable[str], image_folder: str | None
) -> Source:
    """The rows of a data set's tables.

    Where some images lie inside of Parquet or zip files, those that rows name are written to the store first, and so
    are the other images of the data set.

    Args:
        folder: of the tables.
        column_names: `field=column` pairs.
        image_folder: the folder that image paths are relative to, where it is another.

    Raises:
        UserError: a table can't be read or fetched, or has no column for a field.
    """
    finder, store, tables = ColumnFinder(column_names), ImageStore(folder.id), list(tables)
    folder.fetch(table.name for table in tables)
    images = ImageFolder(Path(image_folder) if image_folder is not None else folder.image_root)
    records: dict[str, list[Record]] = {}
    for table in tables:
        name = table.name
        if name.lower().endswith(PARQUET):
            records[name] = read_parquet(folder, table, finder, images, store)
        else:
            records[name] = read_records(folder.root / name, table.split, name)
            if len(tables) == 1 and type(folder) is DataFolder and is_vqa_rad(records[name]):
                return vqa_rad_source(folder.root, records[name])
    rows: list[Row] = []
    for name in [name for name, found in records.items() if found] or records:  # an empty table beside others is none
        read = table_rows(folder.title(name), records.pop(name), finder)
        if image_folder is None:
            _find_images(folder, name, read, images, store)
        rows += read
    if not any(isinstance(row["image"], StoredImage) for row in rows):
        return Source("table", images.root, rows)
    _store_files(rows, images, store)
    return Source("table", store.root, rows)


def _find_images(folder: DataFolder, table: str, rows: list[Row], images: ImageFolder, store: ImageStore) -> None:
    """Brings the names of a table's images into names of `images`, or of the store where they lie in zip files."""
    names = dict.fromkeys(row["image"] for row in rows if _is_name(row["image"]))
    start = _common_folder(folder, table, list(names))
    inside = {name: posixpath.join(start, name) if start and _is_relative(name) else name for name in names}
    folder.fetch(sorted({name for name in inside.values() if name in folder.known}))
    places = {name: folder.image_name(path) if _is_relative(name) else name for name, path in inside.items()}
    found: dict[str, StoredImage | Problem] = {}
    if any(name.lower().endswith(".zip") for name in folder.files):
        where = {name: images.find(place) for name, place in places.items()}
        missing = [name for name, place in where.items() if isinstance(place, Problem) and place.kind == MISSING]
        found = unpack_images(folder, missing, store)
    for row in rows:
        if _is_name(name := row["image"]):
            if row["image_id"] == name:
                row["image_id"] = inside[name]
            row["image"] = found.get(name, places[name])


def _common_folder(folder: DataFolder, table: str, names: list[str]) -> str:
    """The folder that holds most of the images of a table: its own, that of the data set, or another one.

    Of others that hold as many, it is the one that has the table's name.

    Raises:
        UserError: several others hold as many, and none has the table's name.
    """
    tried = [posixpath.normpath(name) for name in names[:TRIED_NAMES] if _is_relative(name)]
    beside = posixpath.dirname(table)
    others = sorted({posixpath.dirname(name) for name in folder.files})[:TRIED_FOLDERS]
    candidates = list(dict.fromkeys((beside, "", *others)))
    counts = {start: sum(folder.has(posixpath.join(start, name)) for name in tried) for start in candidates}
    best = [start for start in candidates if counts[start] == max(counts.values())]
    if best[0] in (beside, ""):
        return best[0]
    stem = posixpath.splitext(posixpath.basename(table))[0].lower()
    named = [start for start in best if posixpath.basename(start).lower() == stem]
    if len(best) > 1 and len(named) != 1:
        raise UserError(
            f"{folder.title(table)}: {quoted(best[0])} and {quoted(best[1])} hold images of the same names; choose "
            "one by --image_folder, or write the folder into the table, as in folder/name.png."
        )
    return (named or best)[0]


def _store_files(rows: list[Row], images: ImageFolder, store: ImageStore) -> None:
    """Brings the images that are files into the store, to those that were not."""
    known: dict[str, object] = {}
    for row in rows:
        name = row["image"]
        if not _is_name(name):
            continue
        if name not in known:
            place = images.find(name)
            if isinstance(place, Problem):
                known[name] = place
            else:
                with open(images.root / place, "rb") as file:
                    known[name] = store.add(file.read(MAX_IMAGE_BYTES + 1), place)
        row["image"] = known[name]


def _is_name(image: object) -> bool:
    return isinstance(image, str) and not isinstance(image, StoredImage)


def _is_relative(name: str) -> bool:
    return not (is_absolute(name) or LINK.match(name.strip()))
