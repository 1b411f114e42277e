"""What a column of a data set holds, read a few thousand rows at a time, as the rows may be more than the memory."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import pyarrow as pa

BATCH = 10_000  # rows in memory at a time


def counts_of(rows: datasets.Dataset, column: str) -> Counter[str]:
    """How often each text stands in a column, in the order in which they come first."""
    counts: Counter[str] = Counter()
    for values in _batches(rows, column):
        found = values.value_counts()
        counts.update(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))
    return counts


def distinct(rows: datasets.Dataset, columns: Sequence[str]) -> set[tuple]:
    """The distinct combinations of the values of some columns."""
    found: set[tuple] = set()
    for batch in rows.select_columns(list(columns)).with_format("arrow").iter(BATCH):
        found.update(zip(*batch.group_by(list(columns)).aggregate([]).to_pydict().values(), strict=True))
    return found


def numbers_of(rows: datasets.Dataset, column: str) -> np.ndarray:
    """A number for the text of each row, ``(N,)``, by the order in which the texts come first."""
    known: dict[str, int] = {}
    numbers = [np.zeros(0, dtype=np.int32)]
    for values in _batches(rows, column):
        encoded = values.dictionary_encode()
        own = [known.setdefault(text, len(known)) for text in encoded.dictionary.to_pylist()]
        numbers.append(np.array(own, dtype=np.int32)[encoded.indices.to_numpy()])
    return np.concatenate(numbers)


def digest_of(rows: datasets.Dataset) -> str:
    """SHA-256 of images, questions and answers in their order, the same on every machine."""
    digest, columns = hashlib.sha256(), ["image_id", "question", "answer"]
    for batch in rows.select_columns(columns).with_format("arrow").iter(BATCH):
        digest.update(repr(batch.select(columns).to_pydict()).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _batches(rows: datasets.Dataset, column: str) -> Iterator[pa.Array]:
    for batch in rows.select_columns([column]).with_format("arrow").iter(BATCH):
        yield batch.column(column).combine_chunks()
