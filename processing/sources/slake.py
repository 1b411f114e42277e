"""SLAKE's layout: a JSON file a split, images and their boxes in folders of `imgs`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from processing.sources.folder import local_folder
from processing.sources.rows import Row, Source
from processing.sources.tables import read_records, split_files


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


def read_slake_boxes(image: Path) -> list[dict] | None:
    """Reads the organ and lesion boxes of one SLAKE image from the `detection.json` beside it.

    Returns:
        A list of `label` and `bbox` = [x, y, width, height] in pixels of the image, origin top left; None without one.
    """
    try:
        entries = json.loads((image.parent / "detection.json").read_text(encoding="utf-8"))
        return [
            {"label": str(label), "bbox": [float(number) for number in box]}
            for entry in entries
            for label, box in entry.items()
        ]
    except (OSError, ValueError, TypeError, AttributeError):
        return None
