"""Rows of Parquet files: read in batches from mapped memory, their images written to the store once."""

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from processing.errors import DISK_FULL, UserError, describe_error, quoted
from processing.image_paths import ImageFolder
from processing.image_store import ImageStore, StoredImage
from processing.images import MAX_IMAGE_BYTES
from processing.problems import Problem
from processing.sources.columns import ColumnFinder, label_column, option_columns
from processing.sources.data_files import Table
from processing.sources.folder import DataFolder
from processing.sources.tables import Record, Records
from processing.sources.values import is_missing

BATCH = 32  # rows in memory at a time, with their images


def read_parquet(
    folder: DataFolder, table: Table, finder: ColumnFinder, images: ImageFolder, store: ImageStore
) -> Records:
    """The records of a Parquet file, of which only the columns that are used are read.

    An image column holds paths, the bytes of files, or both as `datasets` writes its Image feature; what is bytes
    becomes a `StoredImage`.

    Args:
        folder: of the file.
        table: the file.
        finder: of the columns of the data set.
        images: where a path without bytes lies.
        store: where bytes go.

    Raises:
        UserError: it is no Parquet file or damaged, or as `ColumnFinder.find`.
    """
    file, title = folder.root / table.name, folder.title(table.name)
    with _parquet_errors(title), pq.ParquetFile(file, memory_map=True) as parquet:
        schema, count = parquet.schema_arrow, parquet.metadata.num_rows
    if repeated := [column for column in schema.names if schema.names.count(column) > 1]:
        raise UserError(f"{title}: two columns are named {quoted(repeated[0])}; keep one of them.")
    columns = finder.find(title, schema.names)
    label = label_column(schema.names)
    wanted = {*columns.values(), *option_columns(schema.names), *([label] if label else [])}
    plain = [column for column in schema.names if column in wanted and column != columns["image"]]
    names = _class_names(schema)

    def read() -> Iterator[Record]:
        column = _ImageColumn(folder, table.name, schema.field(columns["image"]), images, store)
        with _parquet_errors(title), pq.ParquetFile(file, memory_map=True) as parquet:
            for number, values in enumerate(_rows(parquet, plain + column.parts), start=1):
                image, image_id = column.take(values.pop(columns["image"], None))
                values = {column: _named(value, names.get(column)) for column, value in values.items()}
                row = {"split": table.split, "where": f"{table.name} row {number}"}
                yield Record(values | {columns["image"]: image}, row, image_id)
            column.remember()

    return Records(frozenset(wanted), False, count, read)


@contextmanager
def _parquet_errors(title: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise UserError(
            f"{title}: not a Parquet file, or a damaged one ({describe_error(error)}); download or write it again."
        ) from error


def _rows(file: pq.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows, a few in memory at a time; bytes stay Arrow's until they are looked at."""
    for batch in file.iter_batches(batch_size=BATCH, columns=columns, use_threads=False):
        for number in range(batch.num_rows):
            yield {column: batch.column(column)[number] for column in batch.schema.names}


class _ImageColumn:
    """The image column of a file: what each of its cells holds, and which of them are in the store already."""

    def __init__(
        self, folder: DataFolder, table: str, field: pa.Field, images: ImageFolder, store: ImageStore
    ) -> None:
        self._folder, self._file, self._column = folder, folder.root / table, field.name
        self._images, self._store = images, store
        kind = field.type
        self._is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        self._has_path = self._is_struct and kind.get_field_index("path") >= 0
        is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        is_path = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (self._is_struct or is_bytes or is_path):
            raise UserError(
                f"{folder.title(table)}: the column {quoted(field.name)} holds no images ({kind}); it must hold "
                "paths, bytes of files, or the Image feature of datasets; name another by --column_names image=..."
            )
        self._is_path = is_path
        self._number_of: dict[StoredImage, int] = {}
        self._found: list[StoredImage] = []
        self._numbers = array("q")  # of the image of each row among those found; -1 for none
        self._is_known = not is_path and self._recall()
        self._can_remember = not is_path and not self._is_known
        self._next = 0

    @property
    def parts(self) -> list[str]:
        """What of the column must be read: of images that are in the store only their paths, as far as there are."""
        if not self._is_known:
            return [self._column]
        return [f"{self._column}.path"] if self._has_path else []

    def take(self, cell: Any) -> tuple[Any, str | None]:
        """The image of the next row, and what the file calls it."""
        if self._is_path:
            return _python(cell), None
        path = cell["path"].as_py() if self._has_path and cell.is_valid else None
        if self._is_known:
            number = self._numbers[self._next] if self._next < len(self._numbers) else -1
            self._next += 1
            return (None if number < 0 else self._found[number]), path
        data = cell["bytes"] if self._is_struct and cell.is_valid else cell
        image = self._add(data, path)
        if image is None:
            self._numbers.append(-1)
        elif isinstance(image, StoredImage):
            self._numbers.append(self._number_of.setdefault(image, len(self._number_of)))
        else:
            self._can_remember = False
        return image, path

    def _add(self, data: Any, path: str | None) -> Any:
        if data.is_valid and isinstance(data, pa.BinaryScalar | pa.LargeBinaryScalar):
            buffer = data.as_buffer()
            return self._store.add(buffer[: MAX_IMAGE_BYTES + 1].to_pybytes(), path or "")
        if path is None:
            return None
        self._folder.fetch({path} & self._folder.known)
        place = self._images.find(self._folder.image_name(path))
        if isinstance(place, Problem):
            return path  # which is told as in any table
        with open(self._images.root / place, "rb") as file:
            return self._store.add(file.read(MAX_IMAGE_BYTES + 1), path)

    def remember(self) -> None:
        """Keeps what was found, so that the next load reads no bytes; not where an image could not be taken."""
        if self._can_remember:
            self._store.remember(self._file, self._column, list(self._number_of))
            self._store.remember(self._file, f"{self._column} of each row", self._numbers.tolist())

    def _recall(self) -> bool:
        """Whether an earlier load has kept which images the column holds."""
        images = self._store.recall(self._file, self._column)
        numbers = self._store.recall(self._file, f"{self._column} of each row")
        if not isinstance(images, list) or not isinstance(numbers, list):
            return False
        self._found, self._numbers = [StoredImage(name) for name in images], array("q", numbers)
        return True


def _python(cell: Any) -> Any:
    value = cell.as_py()
    return None if is_missing(value) else value


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the classes of each column that holds them as numbers, by `datasets`' note in the file."""
    try:
        features = datasets.Features.from_arrow_schema(schema)
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}


def _named(cell: Any, names: list[str] | None) -> Any:
    value = _python(cell)
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value
