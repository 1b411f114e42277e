"""Single questions of the report: which ones it shows, their heat maps, and the page of wrong answers."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from metrics.grounding import Box, Pointing, named_boxes, point
from metrics.vqa import ScoredAnswers, golds
from processing.images import open_image
from processing.storage import write_atomically

THUMBNAIL = 320  # pixels, the longer side
COLORS = "inferno"  # of heat maps; its lightness rises with the value
OPACITY = 0.65  # of the hottest place of a heat map
TEMPLATE = Path(__file__).with_name("errors.html")


class Case(NamedTuple):
    """A question with its answer and, where there is one, its heat map."""

    row: Mapping[str, Any]
    prediction: str
    confidence: float
    correct: bool
    boxes: list[Box]  # of what the question or its gold answer names
    for_grounding: bool  # part of the sample that the figures of grounding are of
    on_error_page: bool  # one of the surest wrong answers
    heat: np.ndarray | None = None  # (rows, columns) over the whole image, 1 in all
    pointing: Pointing | None = None  # the heat map against the boxes, of cases for grounding
    evidence: np.ndarray | None = None  # (rows, columns) over the whole image, probabilities
    evidence_pointing: Pointing | None = None  # `evidence` against the boxes, as `pointing`
    found: Sequence[Any] = ()  # boxes around evidence, with `label`, `probability` and `box` in shares of the image


def choose_cases(answers: ScoredAnswers, limit: int) -> list[Case]:
    """The questions that the report shows, in the order of the rows.

    They are the questions that name a box and the wrong answers. Of more than `limit` questions that name a box,
    `limit` are drawn at random. Of more than `limit` wrong answers, the `limit` most confident ones are chosen;
    a wrong answer that the draw alone has chosen is not for the page of wrong answers.
    """
    rows = answers.rows
    boxes = [named_boxes(row["question"], row["answer"], row["boxes"] or []) for row in rows]
    sample = np.flatnonzero([bool(named) for named in boxes])
    if len(sample) > limit:
        sample = np.random.default_rng(0).choice(sample, limit, replace=False)
    wrong = np.flatnonzero(answers.correct == 0)
    wrong = wrong[np.argsort(-answers.confidences[wrong], kind="stable")][:limit]
    return [
        Case(
            row=rows[i],
            prediction=answers.predictions[i],
            confidence=float(answers.confidences[i]),
            correct=bool(answers.correct[i]),
            boxes=boxes[i],
            for_grounding=i in sample,
            on_error_page=i in wrong,
        )
        for i in sorted({*sample.tolist(), *wrong.tolist()})
    ]


def with_heat_map(case: Case, heat: np.ndarray) -> Case:
    """The case with its heat map ``(rows, columns)``. A case for grounding gets its `pointing` too."""
    pointing = None
    if case.for_grounding:
        pointing = point(heat, case.boxes, open_image(case.row["image"]).size)
    return case._replace(heat=heat, pointing=pointing)


def with_evidence(case: Case, cells: np.ndarray, found: Sequence[Any]) -> Case:
    """The case with what an evidence head finds. A case for grounding gets its `evidence_pointing` too.

    Args:
        cells: probabilities ``(rows, columns)`` over the whole image.
        found: boxes around them, as `Case` has them.
    """
    pointing = None
    if case.for_grounding:
        total = max(cells.sum(), np.finfo(np.float32).tiny)
        pointing = point(cells / total, case.boxes, open_image(case.row["image"]).size)
    return case._replace(evidence=cells, evidence_pointing=pointing, found=found)


def write_error_page(cases: Mapping[str, Sequence[Case]], total: int, file: str | Path) -> None:
    """Writes a web page that shows the cases that are for it. It needs no other file.

    Args:
        cases: by split.
        total: number of all wrong answers, of which the cases may be a part.
        file: the HTML file to write.
    """
    images = _Thumbnails()
    entries = [
        _page_entry(split, case, images) for split, members in cases.items() for case in members if case.on_error_page
    ]
    data = json.dumps({"images": images.data_uris, "cases": entries, "total": total}, ensure_ascii=False)
    page = TEMPLATE.read_text(encoding="utf-8")
    write_atomically(file, page.replace("DATA", data.replace("<", "\\u003c"), 1))


class _Thumbnails:
    """The images of a page, each of them once."""

    def __init__(self) -> None:
        self.data_uris: list[str] = []
        self.sizes: list[tuple[int, int]] = []  # of the images themselves, in pixels
        self._numbers: dict[str, int] = {}

    def number_of(self, file: str) -> int:
        """The number of an image, which is added at its first use."""
        if file not in self._numbers:
            self._numbers[file] = len(self._numbers)
            image = open_image(file)
            self.sizes.append(image.size)
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            self.data_uris.append(_data_uri(image, "JPEG", quality=80))
        return self._numbers[file]


def _page_entry(split: str, case: Case, images: _Thumbnails) -> dict[str, Any]:
    row = case.row
    number = images.number_of(row["image"])
    return {
        "image": number,
        "split": split,
        "image_id": row["image_id"],
        "question": row["question"],
        "answer_type": row["answer_type"],
        "content_type": row["content_type"],
        "modality": row["modality"],
        "location": row["location"],
        "language": row["language"],
        "gold": " / ".join(dict.fromkeys(golds(row))),
        "given": case.prediction,
        "confidence": round(case.confidence, 4),
        "heat": None if case.heat is None else _data_uri(_transparent_picture(case.heat), "PNG"),
        "boxes": [_box_in_shares(box, images.sizes[number]) for box in case.boxes],
        "found": [[f"{box.label}, {box.probability:.0%}", *box.box] for box in case.found],
    }


def _box_in_shares(box: Box, size: tuple[int, int]) -> list[Any]:
    """Label, left edge, top edge, width and height of a box, in shares of the sides of the image."""
    x, y, width, height = box["bbox"]
    image_width, image_height = size
    shares = (x / image_width, y / image_height, width / image_width, height / image_height)
    return [box["label"], *(round(share, 4) for share in shares)]


def brightness(heat: np.ndarray) -> np.ndarray:
    """A heat map scaled to 0 at its coldest place and 1 at its hottest. Even heat gives 0 everywhere."""
    return (heat - heat.min()) / max(np.ptp(heat), np.finfo(np.float32).tiny)


def _transparent_picture(heat: np.ndarray) -> Image.Image:
    """A heat map with a pixel for each cell. Hot cells are bright and cover the image, cold ones are transparent."""
    values = brightness(heat)
    colors = matplotlib.colormaps[COLORS](values)
    colors[..., 3] = OPACITY * values
    return Image.fromarray((255 * colors).round().astype(np.uint8))


def _data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
