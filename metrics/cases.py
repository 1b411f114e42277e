"""What answers rest on: the questions whose heat maps are worth a look, as figures, as a picture and as a page."""

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
from metrics.vqa import ScoredAnswers
from processing.images import open_image
from processing.storage import write_atomically

THUMBNAIL = 320  # pixels, the longer side

COLORS = "inferno"  # of heat maps; its lightness rises with the value

OPACITY = 0.65  # of a map's hottest place

TEMPLATE = Path(__file__).with_name("errors.html")


class Case(NamedTuple):
    """A question, what was answered and where the model looked."""

    row: Mapping[str, Any]
    prediction: str
    confidence: float
    correct: bool
    boxes: list[Box]  # of what the question or its gold answer names
    drawn: bool  # for the figures of where the model looked; others are here because they are wrong
    heat: np.ndarray | None = None  # (rows, columns) over the whole image, 1 in all
    pointing: Pointing | None = None  # the map beside the boxes, where there are both


def choose_cases(answers: ScoredAnswers, limit: int) -> list[Case]:
    """The questions that the report shows, in the order of the rows.

    They are the questions that name a box and the wrong answers. Of more than `limit` questions that name a box,
    `limit` are drawn at random. Of more than `limit` wrong answers, the `limit` most confident ones are chosen.
    """
    rows = answers.rows
    boxes = [named_boxes(row["question"], row["answer"], row["boxes"] or []) for row in rows]
    named = np.flatnonzero([bool(found) for found in boxes])
    if len(named) > limit:
        named = np.random.default_rng(0).choice(named, limit, replace=False)
    wrong = np.flatnonzero(answers.correct == 0)
    wrong = wrong[np.argsort(-answers.confidences[wrong], kind="stable")][:limit]
    return [
        Case(
            row=rows[i],
            prediction=answers.predictions[i],
            confidence=float(answers.confidences[i]),
            correct=bool(answers.correct[i]),
            boxes=boxes[i],
            drawn=i in named,
        )
        for i in sorted({*named.tolist(), *wrong.tolist()})
    ]


def with_heat_map(case: Case, heat: np.ndarray) -> Case:
    """Adds a heat map to a case, and compares it with the boxes where the case was drawn for that."""
    pointing = point(heat, case.boxes, open_image(case.row["image"]).size) if case.drawn else None
    return case._replace(heat=heat, pointing=pointing)


def write_error_page(cases: Mapping[str, Sequence[Case]], total: int, file: str | Path) -> None:
    """Writes one page, complete in itself, that shows the wrong answers among the cases.

    Args:
        cases: by split.
        total: wrong answers in all, which may be more.
        file: what is written, HTML.
    """
    numbers: dict[str, int] = {}
    thumbnails: list[str] = []
    sizes: list[tuple[int, int]] = []
    entries = []
    for split, case in ((split, case) for split, members in cases.items() for case in members if not case.correct):
        row = case.row
        number = numbers.setdefault(row["image"], len(numbers))
        if number == len(thumbnails):
            image = open_image(row["image"])
            sizes.append(image.size)
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            thumbnails.append(_data_uri(image, "JPEG", quality=80))
        entries.append(
            {
                **{"image": number, "split": split},
                **{name: row[name] for name in ("image_id", "question", "answer_type", "content_type")},
                **{name: row[name] for name in ("modality", "location", "language")},
                **{"gold": row["answer"], "given": case.prediction, "confidence": round(case.confidence, 4)},
                "heat": None if case.heat is None else _data_uri(_glow(case.heat), "PNG"),
                "boxes": [
                    [
                        box["label"],
                        *(round(v / side, 4) for v, side in zip(box["bbox"], 2 * sizes[number], strict=True)),
                    ]
                    for box in case.boxes
                ],
            }
        )
    data = json.dumps({"images": thumbnails, "cases": entries, "total": total}, ensure_ascii=False)
    page = TEMPLATE.read_text(encoding="utf-8")
    write_atomically(file, page.replace("DATA", data.replace("<", "\\u003c"), 1))


def brightness(heat: np.ndarray) -> np.ndarray:
    """A heat map from 0 for its coldest place to 1 for its hottest; 0 everywhere where all are alike."""
    return (heat - heat.min()) / max(np.ptp(heat), np.finfo(np.float32).tiny)


def _glow(heat: np.ndarray) -> Image.Image:
    """One pixel a cell, the hotter the brighter and the less transparent; a browser smooths it over the image."""
    values = brightness(heat)
    colors = matplotlib.colormaps[COLORS](values)
    colors[..., 3] = OPACITY * values
    return Image.fromarray((255 * colors).round().astype(np.uint8))


def _data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
