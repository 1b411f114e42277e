"""Rows that wait on the disk, so that a data set may be larger than the memory."""

import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from processing.storage import scratch_dir

BATCH = 1_000  # rows that are written at once
IN_MEMORY = 32 * 2**20  # bytes that need no disk

Item = TypeVar("Item")


class Spool(Generic[Item]):
    """Values of any kind in a file without a name, which is gone when the spool is; a few stay in memory.

    They are read as often as needed, in the order in which they came.
    """

    def __init__(self, items: Iterable[Item] = ()) -> None:
        # Open for as long as the spool lives, so there is no block to open it in.
        self._file: Any = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(scratch_dir()))  # noqa: SIM115
        self._batch: list[Item] = []
        self._length = 0
        self.extend(items)

    def extend(self, items: Iterable[Item]) -> None:
        """Adds values."""
        for item in items:
            self.append(item)

    def append(self, item: Item) -> None:
        """Adds a value."""
        self._batch.append(item)
        self._length += 1
        if len(self._batch) == BATCH:
            self._write()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[Item]]:
        """The values, `BATCH` of them at a time."""
        if self._batch:
            self._write()
        position, end = 0, self._file.seek(0, os.SEEK_END)
        while position < end:
            self._file.seek(position)
            batch = pickle.load(self._file)  # written by this process into a file that no other can open
            position = self._file.tell()
            yield batch

    def _write(self) -> None:
        self._file.seek(0, os.SEEK_END)
        pickle.dump(self._batch, self._file, pickle.HIGHEST_PROTOCOL)
        self._batch = []
