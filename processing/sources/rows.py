"""The raw rows that every kind of source is read into."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The names under which data sets know the splits.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "validate", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
SPLIT_NAMES = {alias: split for split, aliases in SPLITS.items() for alias in aliases}

FIELDS = (
    "image",
    "question",
    "answer",
    "split",
    "image_id",
    "question_id",
    "answer_type",
    "content_type",
    "modality",
    "location",
    "language",
)

FACTS = FIELDS[3:]  # about a row: in them, a word such as NA says that nothing is known

Row = dict[str, Any]  # `FIELDS`, unchecked, and `where`: file and number of the row, for messages


@dataclass
class Source:
    """The rows of a data set.

    Attributes:
        kind: `slake`, `vqa_rad`, `phantom` or `table`.
        root: the folder that all its images must lie in.
        rows: in the order of the files.
    """

    kind: str
    root: Path
    rows: list[Row]
