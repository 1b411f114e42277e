"""What a reader says of answers, and its export as rows to train on."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from PIL import Image

from processing.answers import answer_identity
from processing.errors import UserError
from processing.image_source import split_number
from processing.regions import Region

CLOSED_ANSWERS = ("yes", "no")
TITLE = "Questions and answers about images, as a reader of the app has judged them.\n\n"
README = """\
rows.json has a row for each answer: question, answer (the right one), what the model said (predicted, model), and
whether that was right or wrong (verdict). All slices of a file have one group, so that no split parts them.

"""
README_WITH_IMAGES = """\
images/ has what the reader saw, in the window that was chosen, and the boxes that the reader drew (detection.json).
The pictures may show a patient. Names that are burnt into them are not removed. Keep them as safe as the originals.

"""
README_WITHOUT_IMAGES = """\
The images are not in here. rows.json names the files by the names that they had in the app: put it beside them. Boxes
are exported with images only. The names of the files may name a patient.

"""
HOW_TO_TRAIN = """\
To train on these rows, which takes images of three files or more, unpack this file and run:

    accelerate launch train.py recipes/vilt_starter_slake.yaml --dataset rows.json --output_dir out
"""


@dataclass(frozen=True)
class Verdict:
    """What a reader says of an answer.

    Args:
        is_right: whether the model's answer is.
        answer: the right answer; of a right one the model's own.
        box: where the image shows it.
        label: what the box shows; by default the answer.

    Raises:
        UserError: the box is not inside the image, or what it shows is not named. Neither yes nor no is a name:
            training would look for this box at every such answer about the image.
    """

    is_right: bool
    answer: str
    box: Region | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if self.box is None:
            return
        left, top, right, bottom = self.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise UserError("The box is not inside the image; draw it again.")
        if answer_identity(self.box_label) in ("", *CLOSED_ANSWERS):
            raise UserError("The box has no name; write what it shows, such as Liver.")

    @property
    def box_label(self) -> str:
        """`label`, or the answer where that is empty."""
        return self.label.strip() or self.answer.strip()


@dataclass(frozen=True)
class CorrectedRow:
    """An answer that a reader has judged.

    Args:
        image_name: the file's own name, with `#12` for a slice of a stack.
        image: as it was shown.
        question: as it was asked.
        verdict: of the reader.
        model: id of the model that answered.
        predicted: its answer.
    """

    image_name: str
    image: Image.Image
    question: str
    verdict: Verdict
    model: str
    predicted: str


def as_zip(rows: Iterable[CorrectedRow], with_images: bool) -> bytes:
    """Rows as a zip file to unpack and to train on. The same rows give the same bytes.

    It has `rows.json`, which `--dataset` takes, and a README.txt. With images there are also `images/N/source.png`,
    equal pictures once, and beside those with boxes `images/N/detection.json` in SLAKE's form. No name that the
    visitor chose becomes the name of a file in it.

    Args:
        rows: in the order of `rows.json`.
        with_images: otherwise rows name the visitor's own files.
    """
    table: list[dict[str, str]] = []
    numbers: dict[bytes, int] = {}  # by the file of a picture
    boxes: dict[int, list[dict[str, list[int]]]] = {}
    for row in rows:
        entry = _entry_of(row)
        if with_images:
            number = numbers.setdefault(_png(row.image), len(numbers) + 1)
            entry["image"] = f"images/{number}/source.png"
            if row.verdict.box is not None:
                box = {row.verdict.box_label: _pixels(row.verdict.box, row.image.size)}
                if box not in boxes.setdefault(number, []):
                    boxes[number].append(box)
        table.append(entry)
    parts = TITLE, README, README_WITH_IMAGES if with_images else README_WITHOUT_IMAGES, HOW_TO_TRAIN
    file = BytesIO()
    with ZipFile(file, "w") as archive:
        _add(archive, "README.txt", "".join(parts).encode())
        _add(archive, "rows.json", _json(table))
        for png, number in numbers.items():
            _add(archive, f"images/{number}/source.png", png)
            if number in boxes:
                _add(archive, f"images/{number}/detection.json", _json(boxes[number]))
    return file.getvalue()


def _entry_of(row: CorrectedRow) -> dict[str, str]:
    verdict = row.verdict
    return {
        "image": row.image_name,
        "question": row.question,
        "answer": verdict.answer,
        "answer_type": "CLOSED" if answer_identity(verdict.answer) in CLOSED_ANSWERS else "OPEN",
        "group": split_number(row.image_name)[0],
        "predicted": row.predicted,
        "model": row.model,
        "verdict": "right" if verdict.is_right else "wrong",
    }


def _png(image: Image.Image) -> bytes:
    """The pixels as a PNG file, with nothing else that the image's own file may have said."""
    plain = image.convert("RGB")
    plain.info = {}
    file = BytesIO()
    plain.save(file, "PNG")
    return file.getvalue()


def _pixels(box: Region, size: tuple[int, int]) -> list[int]:
    """Left, top, width and height in pixels of an image ``(width, height)``; at least one pixel wide and high."""
    left, top, right, bottom = box.corners(size)
    return [left, top, max(right - left, 1), max(bottom - top, 1)]


def _json(value: Any) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text.encode(errors="backslashreplace")  # a lone surrogate becomes JSON's own escape


def _add(archive: ZipFile, name: str, data: bytes) -> None:
    compression = ZIP_STORED if name.endswith(".png") else ZIP_DEFLATED
    archive.writestr(ZipInfo(name), data, compression)  # of 1980, so that the bytes do not depend on the time
