"""VQA-RAD: its public release in one file, or copies with a file a split."""

from pathlib import Path

from processing.sources.rows import Row, Source
from processing.sources.tables import Record, Records, read_records

PUBLIC_FILE = "VQA_RAD Dataset Public.json"
SPLIT_FILES = {"train": "trainset.json", "test": "testset.json"}


def has_vqa_rad_splits(folder: Path) -> bool:
    """Whether a folder holds a file of VQA-RAD's splits."""
    return any((folder / name).is_file() for name in SPLIT_FILES.values())


def read_vqa_rad_splits(folder: Path) -> Source:
    """Reads `trainset.json` and `testset.json`, as far as they are there.

    Raises:
        UserError: as soon as the rows are read, a file can't be.
    """
    files = {split: folder / name for split, name in SPLIT_FILES.items()}
    rows = (
        _raw_row(record) for split, file in files.items() if file.is_file() for record in read_records(file, split)
    )
    return Source("vqa_rad", folder / "images", rows)


def is_vqa_rad(records: Records) -> bool:
    """Whether the records of a file are VQA-RAD's."""
    return {"phrase_type", "image_name"} <= records.columns


def vqa_rad_source(folder: Path, records: Records) -> Source:
    """The source of a folder whose one file holds these records."""
    # The public release keeps its images in `VQA_RAD Image Folder`, other copies in `images`.
    candidates = [folder / name for name in ("images", "VQA_RAD Image Folder")]
    images = next((candidate for candidate in candidates if candidate.is_dir()), candidates[0])
    return Source("vqa_rad", images, (_raw_row(record) for record in records))


def _raw_row(record: Record) -> Row:
    values = record.values
    in_test = str(values.get("phrase_type")).strip().startswith("test")
    return record.row | {
        "split": record.row["split"] or ("test" if in_test else "train"),
        "image": values.get("image_name"),
        "image_id": values.get("image_name"),
        "question": values.get("question"),
        "answer": values.get("answer"),
        "question_id": values.get("qid"),
        "answer_type": values.get("answer_type"),
        "content_type": values.get("question_type"),
        "location": values.get("image_organ"),
        "language": "en",
    }
