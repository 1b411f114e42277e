"""Rows as Arrow files of the cache folder, which are mapped into memory instead of read."""

import hashlib
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from processing.storage import scratch_dir

ABANDONED = 2 * 24 * 3600  # seconds since the last write to a file that nobody has finished


class RowFile:
    """An Arrow file, as `datasets` reads it, that is written batch by batch.

    Args:
        schema: of its rows.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        folder = scratch_dir()
        _sweep(folder)
        self._path = folder / f".{secrets.token_hex(8)}.arrow"
        self._writer = pa.ipc.new_stream(str(self._path), schema)

    def write(self, columns: Mapping[str, Any]) -> None:
        """Adds rows, given as columns of values or Arrow arrays."""
        arrays = []
        for field in self._schema:
            column = columns[field.name]
            arrays.append(column.cast(field.type) if isinstance(column, pa.Array) else pa.array(column, field.type))
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def table(self) -> pa.Table:
        """Its rows, mapped; none can be added after it."""
        self._writer.close()
        return pa.ipc.open_stream(pa.memory_map(str(self._path))).read_all()

    def keep(self) -> Path:
        """Closes the file and names it by its content, so that the same rows are kept once.

        One that was cut off, as by a crash of the machine, is written anew.
        """
        self._writer.close()
        with self._path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        kept = self._path.with_name(f"{digest[:32]}.arrow")
        # One that is whole may be open, and can't be replaced on Windows then.
        if not kept.exists() or kept.stat().st_size != self._path.stat().st_size:
            self._path.replace(kept)
        return kept

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the file, unless it was kept."""
        try:
            self._writer.close()
        finally:  # it can't be closed where the disk is full
            self._path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Removes what processes that were killed have left unfinished."""
    for file in folder.glob(".????????????????.arrow"):
        with suppress(OSError):  # another process may be faster
            if time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink()
