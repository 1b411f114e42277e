"""SLAKE's layout: a JSON file a split, images and their boxes in folders of `imgs`."""

import json
from pathlib import Path

from processing.sources.tables import Source, read_records, split_files


def read_slake(folder: Path) -> Source:
    rows = []
    for split, file in split_files(folder, (".json",)).items():
        for record, row in read_records(file, split):
            rows.append(
                row
                | {field: record.get(field) for field in ("question", "answer", "answer_type", "content_type")}
                | {"image": record.get("img_name"), "image_id": record.get("img_name")}
                | {"modality": record.get("modality"), "location": record.get("location")}
                | {"language": record.get("q_lang"), "question_id": record.get("qid")}
            )
    return Source("slake", folder / "imgs", rows)


def read_slake_boxes(image: Path) -> list[dict] | None:
    """The organ and lesion boxes of one SLAKE image, from the `detection.json` beside it.

    Returns:
        A list of `label` and `bbox` = [x, y, width, height] in pixels of the image, origin top left; None without one.
    """
    try:
        entries = json.loads((image.parent / "detection.json").read_text(encoding="utf-8"))
        return [{"label": str(k), "bbox": [float(x) for x in box]} for entry in entries for k, box in entry.items()]
    except (OSError, ValueError, TypeError, AttributeError):
        return None
