"""The Gradio app's report of what was asked last: a PDF and an HTML file, made when the visitor asks for them."""

import os
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from modeling.asking.heat_maps import outline
from modeling.parts.evidence import Evidence
from modeling.predictor import Answer, Predictor
from processing.image_source import ImageBytes
from processing.images import image_facts
from spaces_app.content import (
    DEFAULT_MODEL,
    QUESTION_CUT,
    UNLIKE_TRAINING,
    UNSURE,
    short_name,
    text_of,
    what_is_seen,
    why_silent,
)
from spaces_app.gradio_view import View, in_words, middle, open_view, with_corners
from spaces_app.visit_report import ReportedAnswer, ReportedQuestion, as_html, as_pdf, reported_model


class Asked(NamedTuple):
    """What was asked, and the answers.

    Attributes:
        image: path of the uploaded file.
        view: in which the model saw it.
        edges: of the region, left, top, right and bottom in percent; None where there is none.
        question: as it was asked.
        whole: the answer about the image; its evidence is limited to the region.
        of_region: the answer about the region alone, None without one.
    """

    image: str
    view: View
    edges: tuple[float | None, ...]
    question: str
    whole: Answer
    of_region: Answer | None


def model_id() -> str:
    """The folder or Hub id of the model that `MODEL_ID` names, by default what `make demo` leaves."""
    return os.environ.get("MODEL_ID") or DEFAULT_MODEL


def as_shown(picture: Image.Image, evidence: Evidence | None, edges: Sequence[float | None]) -> Image.Image:
    """A picture as the page shows it, with the outlines of the evidence and with the region.

    Args:
        edges: of the region, as `Asked` has them.
    """
    return with_corners(outline(picture, evidence.boxes if evidence else ()), edges)


def reported(data: bytes, asked: Asked, threshold: float) -> ReportedQuestion:
    """A question and its answers as a report has them.

    Args:
        data: the image file.
        threshold: the confidence below which the model gives no answer.

    Raises:
        UserError: the file can't be opened.
    """
    picture = open_view(data, asked.view)
    return ReportedQuestion(
        "The uploaded image",  # its name stays with the visitor
        _details(data, asked, picture),
        as_shown(picture, asked.whole.evidence, asked.edges),
        asked.question,
        (_reported_answer(asked, threshold),),
    )


def write_report(question: ReportedQuestion, model: Predictor, folder: Path) -> list[str]:
    """Writes the report into a new folder whose name tells nothing.

    Args:
        model: that answered.
        folder: of the files that visitors send and see.

    Returns:
        The paths of the PDF and of the HTML file.
    """
    models, made = [reported_model(model_id(), model.commit)], datetime.now().astimezone()
    files = {
        "report.pdf": as_pdf(models, [question], made),
        "report.html": as_html(models, [question], made).encode(),
    }
    place = folder / secrets.token_hex(16)
    place.mkdir()
    for file_name, content in files.items():
        (place / file_name).write_bytes(content)
    return [str(place / file_name) for file_name in files]


def _details(data: bytes, asked: Asked, picture: Image.Image) -> str:
    """Format, size, slice, window and region, and what may be told of a DICOM file, in a line."""
    view = asked.view
    facts = image_facts(ImageBytes(data))
    number = view.number or middle(facts.slices)
    facts = image_facts(ImageBytes(data, slice_number=number))
    parts = [f"{facts.format}, {picture.width} x {picture.height} pixels"]
    if facts.slices > 1:
        parts.append(f"slice {number} of {facts.slices}")
    if view.window is not None:
        parts.append(f"level {view.window[0]:g}, window {view.window[1]:g}")
    if view.percentiles is not None:
        parts.append(f"window from percentile {view.percentiles[0]:g} to {view.percentiles[1]:g}")
    if view.inverted:
        parts.append("inverted")
    if asked.of_region is not None:
        parts.append(in_words(asked.edges).rstrip("."))
    return " · ".join([*parts, *(f"{name}: {value}" for name, value in facts.details.items())])


def _reported_answer(asked: Asked, threshold: float) -> ReportedAnswer:
    whole = asked.whole
    others = tuple((other.answer or "(no answer)", other.confidence) for other in whole.alternatives)
    return ReportedAnswer(
        short_name(model_id()), text_of(whole), whole.confidence, tuple(_lines(asked, threshold)), others
    )


def _lines(asked: Asked, threshold: float) -> Iterator[str]:
    """The sentences below the answer about the whole image."""
    whole, of_region = asked.whole, asked.of_region
    if of_region is not None:
        yield f"In the region: {text_of(of_region)} ({of_region.confidence:.0%}). In the whole image: as above."
    if whole.silent or (of_region and of_region.silent):
        yield why_silent(threshold)
    elif whole.confidence < UNSURE:
        yield "The model is unsure."
    if whole.question_cut:
        yield QUESTION_CUT
    if whole.unlike_training:
        yield UNLIKE_TRAINING
    if whole.evidence is not None:
        yield what_is_seen(whole.evidence, of_region is not None)
