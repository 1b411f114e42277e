"""Data sets in no format of their own: tables of any kind, images beside them, inside of them, or in zip files."""

import posixpath
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from processing.errors import UserError, quoted
from processing.image_paths import LINK, MISSING, ImageFolder, is_absolute
from processing.image_source import split_number
from processing.image_store import ImageStore, StoredImage
from processing.problems import Problem
from processing.sources.archives import unpack_images
from processing.sources.columns import ColumnFinder
from processing.sources.data_files import Table
from processing.sources.folder import DataFolder
from processing.sources.parquet import read_parquet
from processing.sources.rows import Row, Source
from processing.sources.tables import PARQUET, Records, read_records, table_rows
from processing.sources.vqa_rad import is_vqa_rad, vqa_rad_source
from processing.spool import Spool

TRIED_NAMES = 50  # of a table's images, to find the folder that they are relative to
TRIED_FOLDERS = 100


def read_tables(
    folder: DataFolder, tables: Iterable[Table], column_names: Iterable[str], image_folder: str | None
) -> Source:
    """The rows of a data set's tables.

    Where some images lie inside of Parquet or zip files, those that rows name are written to the store.

    Args:
        folder: of the tables.
        column_names: `field=column` pairs.
        image_folder: the folder that image paths are relative to, where it is another.

    Raises:
        UserError: a table can't be fetched, or, as soon as its rows are read, it can't be read or has no column for a
            field.
    """
    finder, store, tables = ColumnFinder(column_names), ImageStore(folder.id), list(tables)
    folder.fetch(table.name for table in tables)
    images = ImageFolder(Path(image_folder) if image_folder is not None else folder.image_root)

    def open_table(table: Table) -> Records:
        if table.name.lower().endswith(PARQUET):
            return read_parquet(folder, table, finder, images, store)
        return read_records(folder.root / table.name, table.split, table.name)

    def rows() -> Iterator[Row]:
        is_empty = True
        for table in tables:
            records = opened or open_table(table)
            if records.count:  # an empty table beside others is none
                is_empty = False
                read = table_rows(folder.title(table.name), records, finder)
                yield from read if image_folder else _find_images(folder, table.name, read, images, store)
        if is_empty:
            raise UserError(f"{folder.title(tables[0].name)}: it has no rows; write them into it.")

    opened = open_table(tables[0]) if len(tables) == 1 else None
    if opened and type(folder) is DataFolder and is_vqa_rad(opened):
        return vqa_rad_source(folder.root, opened)
    return Source("table", images.root, rows(), store=store.root)


def _find_images(
    folder: DataFolder, table: str, rows: Iterable[Row], images: ImageFolder, store: ImageStore
) -> Iterator[Row]:
    """Brings the names of a table's images into names of `images`, or of the store where they lie in zip files."""
    names: dict[str, None] = {}
    waiting: Spool[Row] = Spool()
    for row in rows:
        waiting.append(row)
        if _is_name(row["image"]):
            names[row["image"]] = None
    start = _common_folder(folder, table, list(islice(names, TRIED_NAMES)))
    inside = {name: posixpath.join(start, name) if start and _is_relative(name) else name for name in names}
    files = {part for name in inside.values() for part in (name, split_number(name)[0])}  # one may name a slice
    folder.fetch(sorted(files & folder.known))
    places = {name: folder.image_name(path) if _is_relative(name) else name for name, path in inside.items()}
    found: dict[str, StoredImage | Problem] = {}
    if any(name.lower().endswith(".zip") for name in folder.files):
        where = {name: images.find(place) for name, place in places.items()}
        missing = [name for name, place in where.items() if isinstance(place, Problem) and place.kind == MISSING]
        found = unpack_images(folder, missing, store)
    for row in waiting:
        if _is_name(name := row["image"]):
            if row["image_id"] == name:
                row["image_id"] = inside[name]
            row["image"] = found.get(name, places[name])
        yield row


def _common_folder(folder: DataFolder, table: str, names: list[str]) -> str:
    """The folder that holds most of the images of a table: its own, that of the data set, or another one.

    Of others that hold as many, it is the one that has the table's name.

    Raises:
        UserError: several others hold as many, and none has the table's name.
    """
    tried = [posixpath.normpath(split_number(name)[0]) for name in names if _is_relative(name)]
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


def _is_name(image: object) -> bool:
    return isinstance(image, str) and not isinstance(image, StoredImage)


def _is_relative(name: str) -> bool:
    return not (is_absolute(name) or LINK.match(name.strip()))
