"""SLAKE's layout: a JSON file a split, images and their boxes in folders of `imgs`."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from processing.image_paths import file_inside
from processing.sources.folder import local_folder
from processing.sources.rows import Row, Source
from processing.sources.tables import read_records, split_files

BOXES_NAME = "detection.json"
SOURCE = re.compile(r"source\.\w+")  # the file name of an image that has a folder, and its boxes, for itself


def read_slake(folder: Path) -> Source:
    """Reads the splits that a folder in SLAKE's layout has.

    Raises:
        UserError: two files name the same split, or, as soon as the rows are read, a file can't be.
    """
    label = f"--dataset {folder}"
    files = split_files(local_folder(label, folder, deep=False).files, (".json",), label)
    return Source("slake", folder / "imgs", _raw_rows(folder, files))


def _raw_rows(folder: Path, files: Mapping[str, str]) -> Iterator[Row]:
    for split, file in files.items():
        for record in read_records(folder / file, split):
            values = record.values
            yield record.row | {
                "question": values.get("question"),
                "answer": values.get("answer"),
                "answer_type": values.get("answer_type"),
                "content_type": values.get("content_type"),
                "image": values.get("img_name"),
                "image_id": values.get("img_name"),
                "modality": values.get("modality"),
                "location": values.get("location"),
                "language": values.get("q_lang"),
                "question_id": values.get("qid"),
                "group": values.get("group"),
            }


def read_slake_boxes(image: Path, root: Path) -> list[dict] | None:
    """Reads the organ and lesion boxes of one SLAKE image from the `detection.json` beside it.

    Args:
        image: its path.
        root: the folder of the data, as a path without links. A `detection.json` outside of it is not read.

    Returns:
        A list of `label` and `bbox` = [x, y, width, height] in pixels of the image, origin top left; None without one,
        or where it is not in SLAKE's form.
    """
    file = image.parent / BOXES_NAME
    if not os.path.isfile(file) or file_inside(root, str(file)) is None:
        return None
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        boxes = [(label, [float(number) for number in box]) for entry in entries for label, box in entry.items()]
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    if any(len(box) != 4 for _, box in boxes):
        return None
    return [{"label": label, "bbox": box} for label, box in boxes]
