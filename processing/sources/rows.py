"""The raw rows that every kind of source is read into."""

from collections.abc import Iterable
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
    "group",
)

FACTS = FIELDS[3:]  # about a row: in them, a word such as NA says that nothing is known

# `FIELDS`, unchecked, and `where`: file and number of the row, for messages. Where a table has them, `answers`
# (several gold answers), `choices` (the options) and `answer_label` (the letter of the right one).
Row = dict[str, Any]


@dataclass
class Source:
    """The rows of a data set.

    Attributes:
        kind: `slake`, `vqa_rad`, `phantom` or `table`.
        root: the folder that all images must lie in that are files of the data set.
        rows: in the order of the files; they are read once.
        store: the folder of the images that it keeps inside of other files, where it has such.
        repo: of the Hub, where it comes from there.
    """

    kind: str
    root: Path
    rows: Iterable[Row]
    store: Path | None = None
    repo: "Repo | None" = None


@dataclass(frozen=True)
class Repo:
    """Where on the Hub a data set comes from.

    Attributes:
        id: `user/name`.
        commit: of its files.
        config: the name of its configuration, where it has any.
        license: as its card says.
    """

    id: str
    commit: str
    config: str | None = None
    license: str | None = None
