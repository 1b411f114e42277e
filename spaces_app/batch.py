"""Many questions at once: what the Streamlit app does with a table of questions or an archive of images."""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from processing.errors import BROKEN_ZIP, UserError
from processing.images import MAX_IMAGE_BYTES, ImageSource
from processing.sources.columns import find_column
from processing.sources.csv_tables import CsvTable
from processing.sources.text_files import decode_text
from processing.storage import csv_text
from spaces_app.limits import BATCHES

if TYPE_CHECKING:
    from modeling.predictor import Answer, Predictor  # the page is painted before torch is loaded

COLUMNS = ("image", "question", "prediction", "confidence", "evidence", "unlike_training", "error")
MAX_IMAGES = 500
MAX_ARCHIVE_BYTES = 256 * 2**20  # of all images unpacked
MAX_QUESTIONS = BATCHES.amount  # of a table, or of an archive over all its images
STEP = 16  # questions between two moves of the progress bar

AnswerRow = dict[str, str | float | None]


class ImageQuestion(NamedTuple):
    """A question about an image that has a name."""

    name: str
    image: ImageSource
    question: str


def read_archive(data: bytes) -> dict[str, bytes]:
    """The images of a zip file, unpacked in memory, by name.

    Raises:
        UserError: it is no zip file, it is damaged or encrypted, or it holds no file or more than the limits allow.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if not _is_hidden(member)]
            if not members:
                raise UserError(
                    "The zip file has no image; put PNG, JPEG, TIFF, BMP, WebP, DICOM or NIfTI files into it."
                )
            if len(members) > MAX_IMAGES:
                raise UserError(f"The zip file has {len(members):,} files; send at most {MAX_IMAGES} at once.")
            images: dict[str, bytes] = {}
            for member in sorted(members, key=lambda member: member.filename):
                room = min(MAX_IMAGE_BYTES, MAX_ARCHIVE_BYTES - sum(map(len, images.values())))
                with archive.open(member) as file:  # the sizes in the directory of a zip may lie
                    images[member.filename] = file.read(room + 1)
                if len(images[member.filename]) > room:
                    raise UserError(f"{member.filename}: the images are too large once unpacked; send fewer at once.")
            return images
    except (*BROKEN_ZIP, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError("The zip file is damaged or encrypted; pack the images again.") from error


def _is_hidden(member: zipfile.ZipInfo) -> bool:
    """Whether it is a folder, or a file that a system has added."""
    parts = member.filename.split("/")
    return member.is_dir() or any(part.startswith((".", "__MACOSX")) and part != ".." for part in parts)


def read_questions(data: bytes, name: str) -> list[str]:
    """The column `question` of a CSV file.

    Args:
        data: the file's content.
        name: the file's name, for errors.

    Raises:
        UserError: it is no CSV, has no such column, no row, or too many.
    """
    file = Path(name)
    rows = list(CsvTable(decode_text(data, file), file))
    column = find_column("question", rows[0]) if rows else None
    if column is None:
        raise UserError(f"{name}: there is no column question, or no row; give the column that name.")
    if len(rows) > MAX_QUESTIONS:
        raise UserError(f"{name}: {len(rows):,} rows; send at most {MAX_QUESTIONS:,} at once.")
    return [row[column] for row in rows]


def ask_of_each(images: Mapping[str, bytes], questions: Sequence[str]) -> list[ImageQuestion]:
    """The same questions about each of the images.

    Raises:
        UserError: they are too many.
    """
    total = len(images) * len(questions)
    if total > MAX_QUESTIONS:
        raise UserError(
            f"{len(questions):,} questions about {len(images):,} images are {total:,}; send at most "
            f"{MAX_QUESTIONS:,} at once."
        )
    return [ImageQuestion(name, data, question) for name, data in images.items() for question in questions]


def answer_all(
    predictor: "Predictor", asked: Sequence[ImageQuestion], progress: Callable[[float], None]
) -> list[AnswerRow]:
    """Answers questions, each about its image.

    Args:
        progress: called with the share of answered questions, 0 to 1.

    Returns:
        A row of `COLUMNS` for each question. `evidence` and `unlike_training` are as
        `modeling.asking.tables.answer_table` writes them. `error` is empty where there is an answer.
    """
    rows: list[AnswerRow] = []
    for start in range(0, len(asked), STEP):
        part = asked[start : start + STEP]
        images, questions = [one.image for one in part], [one.question for one in part]
        results = predictor.try_batch(images, questions, top_k=1)
        rows += [_answer_row(one, result) for one, result in zip(part, results, strict=True)]
        progress(len(rows) / len(asked))
    return rows


def _answer_row(asked: ImageQuestion, result: "Answer | UserError") -> AnswerRow:
    from modeling.parts.evidence import boxes_as_json

    row: AnswerRow = {"image": asked.name, "question": asked.question}
    if isinstance(result, UserError):
        return row | dict.fromkeys(COLUMNS[2:], "") | {"confidence": None, "error": str(result)}
    return row | {
        "prediction": result.answer,
        "confidence": result.confidence,
        "evidence": boxes_as_json(result.evidence),
        "unlike_training": "yes" if result.unlike_training else "",
        "error": "",
    }


def as_csv(rows: Sequence[AnswerRow]) -> str:
    """Rows of `answer_all` as a CSV file, safe to open in a spreadsheet."""
    return csv_text(COLUMNS, rows)
