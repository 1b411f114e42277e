"""The rows of a data set that can be used, on disk, and the splits that are made of them."""

import logging
import re
from array import array
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from processing.errors import shorten
from processing.image_checks import CheckedImage
from processing.image_paths import for_others
from processing.question_ids import QuestionIds
from processing.row_files import RowFile
from processing.sources.rows import Row
from processing.sources.values import text_of
from processing.splits import LEFT_OUT, NO_SPLIT, ORDER, OVERLAPS, Places

logger = logging.getLogger(__name__)

# What a data set does not have is None, never invented.
SCHEMA = datasets.Features(
    {
        "row": datasets.Value("int64"),  # number of the row over all splits, the key of predictions
        "image": datasets.Value("string"),  # absolute path
        "image_id": datasets.Value("string"),
        "question": datasets.Value("string"),
        "answer": datasets.Value("string"),  # "" is SQuAD v2's "no answer"
        "answer_type": datasets.Value("string"),  # OPEN or CLOSED
        "content_type": datasets.Value("string"),
        "modality": datasets.Value("string"),
        "location": datasets.Value("string"),
        "language": datasets.Value("string"),  # en or zh
        "question_id": datasets.Value("string"),
        "group": datasets.Value("string"),  # patient or study; no split cuts it
        "overlap": datasets.Value("string"),  # of `processing.splits.OVERLAPS`, of rows to evaluate on
        "boxes": datasets.List({"label": datasets.Value("string"), "bbox": datasets.List(datasets.Value("float32"))}),
    }
)

# Columns that a data set has only where its rows do: several gold answers, of which `answer` is the most frequent one;
# the options of a question with choices, of which `answer` is the right one, and its letter (`processing.choices`).
OPTIONAL = {
    "answers": datasets.List(datasets.Value("string")),
    "choices": datasets.List(datasets.Value("string")),
    "answer_label": datasets.Value("string"),
}
INTERNAL = {"where": datasets.Value("string"), "number": datasets.Value("int64")}  # while a data set is loaded
BATCH = 1_000  # rows that are written at once


class GoodRows:
    """Rows that can be used, in the order in which they come; in memory are a few numbers for each.

    Args:
        own_splits: whether the splits that the data set names count; else its rows have none.
    """

    def __init__(self, *, own_splits: bool = True) -> None:
        self._own_splits = own_splits
        self._features = datasets.Features({**SCHEMA, **OPTIONAL, **INTERNAL})
        self._file = RowFile(self._features.arrow_schema)
        self._table: pa.Table | None = None
        self._batch: list[Row] = []
        self._number_of_image: dict[CheckedImage, int] = {}
        self._number_of_group: dict[str, int] = {}
        self._image, self._group, self._split = array("i"), array("i"), array("b")
        self._present: set[str] = set()
        self._ids_are_numbers = True
        self._ids = QuestionIds()

    def __len__(self) -> int:
        return len(self._image) - len(self._repeated)

    def append(self, row: Row, image: CheckedImage, number: int) -> None:
        """Adds a row, as `processing.validation` leaves it.

        Args:
            image: its image.
            number: of the row among all of its data set, bad ones included.
        """
        if not self._own_splits:
            row = row | {"split": None}
        self._image.append(self._number_of_image.setdefault(image, len(self._number_of_image)))
        group = text_of(row.get("group"))
        self._group.append(
            -1 if group is None else self._number_of_group.setdefault(group, len(self._number_of_group))
        )
        self._split.append(NO_SPLIT if row["split"] is None else ORDER.index(row["split"]))
        self._present |= {name for name in OPTIONAL if row.get(name)}
        self._ids_are_numbers &= _is_int64(row["question_id"])
        self._ids.add(row, image.pixels)
        self._batch.append(row | {"number": number})
        if len(self._batch) == BATCH:
            self._write()

    def places(self) -> Places:
        """The image, the group and the split of each row, as the data set names them."""
        image, group, split = (np.array(numbers) for numbers in (self._image, self._group, self._split))
        split[self._repeated] = LEFT_OUT
        return Places(list(self._number_of_image), image, group, split, lambda number: self[number]["where"])

    def repeated_rows(self) -> Iterator[Row]:
        """The rows that stand twice (see `QuestionIds.repeated`), with `problem` and `detail` as bad ones have them.

        They are no good rows any more.
        """
        for number in self._repeated:
            row = {name: value for name, value in self[number].items() if name not in ("row", "boxes")}
            detail = shorten(row["question_id"])
            yield for_others(row | {"problem": "duplicate id, image, question and answer", "detail": detail})

    @cached_property
    def _repeated(self) -> np.ndarray:
        return np.sort(self._ids.repeated())

    def _unique_ids(self) -> dict[int, str]:
        """New ids for rows whose id an earlier row of the split has, of which it warns once."""
        changes = self._ids.changes(
            self._repeated, lambda number: (self[number]["split"], self[number]["question_id"])
        )
        if changes:
            first = next(iter(changes))
            row = self[first]
            logger.warning(
                "The question_id of %s of %s rows is that of another question of their split, so a number is put "
                "behind it: %s has %s instead of %s.",
                f"{len(changes):,}",
                f"{len(self):,}",
                row["where"],
                shorten(changes[first]),
                shorten(row["question_id"]),
            )
        return changes

    def __getitem__(self, number: int) -> Row:
        """A row that was added, with the split that its data set names."""
        row = self._rows().slice(int(number), 1).to_pylist()[0]
        split = None if self._split[number] == NO_SPLIT else ORDER[self._split[number]]
        present = {name: value for name, value in row.items() if name not in OPTIONAL or value is not None}
        return present | {"split": split}

    def columns(self, *names: str) -> Iterator[tuple]:
        """The values of some columns, row by row; the rows that stand twice are among them."""
        for batch in self._rows().to_batches():
            yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)

    def to_dataset_dict(
        self, split: np.ndarray, overlap: np.ndarray, info: datasets.DatasetInfo, first_number: int = 0
    ) -> datasets.DatasetDict:
        """The splits that have rows, each in a file of its own; numbers of rows count on from split to split.

        Args:
            split: of each row the place in `ORDER`; rows without one are left out.
            overlap: of each row the place in `OVERLAPS`; None is written where it is -1.
            info: of the data set.
            first_number: of the first row.
        """
        new_ids = self._unique_ids()
        features = datasets.Features(
            {**SCHEMA, **{name: kind for name, kind in OPTIONAL.items() if name in self._present}}
        )
        if self._ids_are_numbers and not new_ids:
            features["question_id"] = datasets.Value("int64")
        result, start = datasets.DatasetDict(), first_number
        for code, split_name in enumerate(ORDER):
            if not (split == code).any():
                continue
            own = info.copy()
            own.features = features
            with RowFile(features.arrow_schema) as file:
                seen = pa.DictionaryArray.from_arrays(
                    pa.array(overlap[split == code], mask=overlap[split == code] < 0), pa.array(OVERLAPS)
                ).cast(pa.string())
                first = start
                for batch in self._batches_of(split == code, new_ids):
                    columns: dict[str, Any] = {name: batch.column(name) for name in features if name != "row"}
                    columns["row"] = range(start, start + batch.num_rows)
                    columns["overlap"] = seen[start - first : start - first + batch.num_rows]
                    file.write(columns)
                    start += batch.num_rows
                result[split_name] = datasets.Dataset.from_file(str(file.keep()), info=own)
        return result

    def _batches_of(self, chosen: np.ndarray, new_ids: dict[int, str]) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in self._rows().to_batches():
            end = start + batch.num_rows
            changed = [number for number in range(start, end) if number in new_ids] if new_ids else []
            if changed:
                ids = batch.column("question_id").to_pylist()
                for number in changed:
                    ids[number - start] = new_ids[number]
                place = batch.schema.get_field_index("question_id")
                batch = batch.set_column(place, batch.schema.field(place), pa.array(ids, pa.string()))
            if chosen[start:end].any():
                yield batch.filter(pa.array(chosen[start:end]))
            start = end

    def _rows(self) -> pa.Table:
        if self._table is None:
            self._write()
            self._table = self._file.table()
        return self._table

    def _write(self) -> None:
        rows, self._batch = self._batch, []
        columns = {field: [row.get(field) for row in rows] for field in self._features}
        for field, feature in self._features.items():
            if feature == datasets.Value("string") and field not in ("image", "question", "answer"):
                columns[field] = [text_of(value) for value in columns[field]]
        columns["answer_type"] = [_answer_type(value) for value in columns["answer_type"]]
        self._file.write(columns)

    def __enter__(self) -> "GoodRows":
        return self

    def __exit__(self, *_: object) -> None:
        self._table = None
        self._file.__exit__()


def _is_int64(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _answer_type(value: str | None) -> str | None:
    """OPEN or CLOSED in capitals, also for open-ended and the like; None for anything else."""
    match = re.match(r"(OPEN|CLOSED)\b", (value or "").upper())
    return match[1] if match else None
