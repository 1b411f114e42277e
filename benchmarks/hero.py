"""Draws the picture at the top of the README: questions about generated images, and what a model answers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.canvas import BOLD, Canvas, text_width, wrap
from metrics.grounding import named_boxes, point
from metrics.vqa import all_scores
from modeling.asking.heat_maps import overlay
from modeling.predictor import Answer, Predictor
from processing.boxes import Box
from processing.errors import UserError
from processing.images import open_image

UNSURE = 0.5  # the confidence below which the apps warn
NOTE = (
    "Heat: where the model looked. Outline: what the question or the answer names. "
    "Generated images of the test split, no patient. Not for clinical use."
)

WIDTH, MARGIN, GAP = 900.0, 16.0, 12.0
PADDING = 13.0  # inside a card
BACKGROUND, CARD, TRACK = "#0b1519", "#15242a", "#2a3d45"
INK, FAINT = "#eef5f6", "#a3b5bb"
SURE_COLOR, UNSURE_COLOR, RIGHT_COLOR, WRONG_COLOR = "#35b8c0", "#f0b03f", "#63cf8f", "#ff8d7e"
OUTLINE = "#8ff0ff"
OPACITY = 0.55  # of the hottest place


class Slot(NamedTuple):
    """What one card is about: kind of image, questions that fit, and whether the answer is to be right."""

    title: str
    modality: str
    location: str
    questions: str  # a pattern for the beginning
    right: bool


SLOTS = (
    Slot("Abdomen CT", "CT", "Abdomen", "How many kidneys", True),
    Slot("Head MRI", "MRI", "Brain", "What diseases are included", True),
    Slot("Chest X-ray", "X-Ray", "Lung", "Can .* be observed", True),
    Slot("Chest CT", "CT", "Lung", "Wh(at|ere|ich)", False),
)


class Card(NamedTuple):
    """A question about an image and what the model answers."""

    title: str
    image: str  # its file
    question: str
    answer: str
    confidence: float
    gold: str
    right: bool
    heat: np.ndarray  # (rows, columns)
    boxes: list[Box]  # of what the question or the gold answer names

    @property
    def sureness(self) -> str:
        """The confidence in words."""
        return f"{self.confidence:.0%} sure" if self.confidence >= UNSURE else f"only {self.confidence:.0%} sure"

    @property
    def verdict(self) -> str:
        """Whether the answer is right, and else what is."""
        return "✓ correct" if self.right else f"✗ should be: {self.gold}"

    @property
    def texts(self) -> list[str]:
        """All that the card says."""
        return [self.title, self.question, self.answer, self.sureness, self.verdict]


def choose_cards(predictor: Predictor, rows: Sequence[Mapping[str, Any]]) -> list[Card]:
    """One card for each slot.

    A right answer is the one whose heat lies most in the boxes of what is named, a wrong one the one that the model is
    least sure of. Where no answer of a slot is as wanted, it is chosen among the others.

    Args:
        predictor: the model.
        rows: of generated images, with boxes.

    Raises:
        UserError: no row fits a slot.
    """
    return [_choose_card(slot, predictor, rows) for slot in SLOTS]


def _choose_card(slot: Slot, predictor: Predictor, rows: Sequence[Mapping[str, Any]]) -> Card:
    fitting = [
        row
        for row in rows
        if (row["modality"], row["location"]) == (slot.modality, slot.location)
        and re.match(slot.questions, row["question"])
    ]
    if not fitting:
        raise UserError(f'No question of the test split that shows {slot.title} begins with "{slot.questions}".')
    answers = predictor.answer_batch([row["image"] for row in fitting], [row["question"] for row in fitting], top_k=1)
    right = all_scores(fitting, [answer.answer for answer in answers])[:, 0] == 1
    wanted = [number for number in range(len(fitting)) if right[number] == slot.right] or list(range(len(fitting)))
    if not slot.right:
        wanted = [min(wanted, key=lambda number: answers[number].confidence)]
    cards = [
        _make_card(slot.title, fitting[number], answers[number], bool(right[number]), predictor) for number in wanted
    ]
    return max(cards, key=_heat_inside)


def _make_card(title: str, row: Mapping[str, Any], answer: Answer, right: bool, predictor: Predictor) -> Card:
    return Card(
        title=title,
        image=row["image"],
        question=row["question"],
        answer=answer.answer or "(no answer)",
        confidence=answer.confidence,
        gold=row["answer"],
        right=right,
        heat=predictor.heat_map(row["image"], row["question"]),
        boxes=named_boxes(row["question"], row["answer"], row["boxes"] or []),
    )


def _heat_inside(card: Card) -> float:
    """Share of the heat inside the boxes, 0 without boxes."""
    pointing = point(card.heat, card.boxes, open_image(card.image).size) if card.boxes else None
    return 0.0 if pointing is None else pointing.mass


def draw_cards(cards: Sequence[Card]) -> Image.Image:
    """The picture: the cards side by side, and a note."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(cards) - 1)) / len(cards)
    inner = width - 2 * PADDING
    question_lines = max(len(wrap(card.question, inner, 15)) for card in cards)
    answer_lines = max(len(wrap(card.answer, inner, 22, BOLD)) for card in cards)
    verdict_lines = max(len(wrap(card.verdict, inner, 14, BOLD)) for card in cards)
    question_top = width + 48
    answer_top = question_top + 19 * question_lines + 13
    bar_top = answer_top + 28 * (answer_lines - 1) + 14
    verdict_top = bar_top + 46
    height = verdict_top + 18 * (verdict_lines - 1) + 16
    canvas = Canvas(WIDTH, MARGIN + height + 40, BACKGROUND)
    for number, card in enumerate(cards):
        left = MARGIN + number * (width + GAP)
        x = left + PADDING
        canvas.box(left, MARGIN, width, height, CARD, radius=10)
        _draw_image(canvas, card, left, MARGIN, width)
        canvas.text(x, MARGIN + width + 22, card.title.upper(), 11.5, FAINT, BOLD)
        canvas.paragraph(x, MARGIN + question_top, inner, card.question, 15, INK)
        canvas.paragraph(x, MARGIN + answer_top + 8, inner, card.answer, 22, INK, BOLD)
        color = SURE_COLOR if card.confidence >= UNSURE else UNSURE_COLOR
        canvas.box(x, MARGIN + bar_top + 5, inner, 7, TRACK, radius=3.5)
        canvas.box(x, MARGIN + bar_top + 5, max(inner * card.confidence, 7), 7, color, radius=3.5)
        canvas.text(x, MARGIN + bar_top + 28, card.sureness, 14, color, BOLD)
        canvas.paragraph(
            x, MARGIN + verdict_top, inner, card.verdict, 14, RIGHT_COLOR if card.right else WRONG_COLOR, BOLD
        )
    canvas.text(WIDTH / 2, MARGIN + height + 25, NOTE, 13, FAINT, anchor="ms")
    return canvas.finished()


def _draw_image(canvas: Canvas, card: Card, left: float, top: float, side: float) -> None:
    """The image under its heat map in a square, and outlines with their names."""
    image = open_image(card.image)
    scale = side / max(image.size)
    large = image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)
    canvas.paste(overlay(large, card.heat, OPACITY), left, top, image.width * scale, image.height * scale, radius=10)
    names: list[tuple[float, float, float]] = []  # left, right and base line of those that are written
    for box in sorted(card.boxes, key=lambda box: box["bbox"][1]):
        x, y, width, height = (scale * value for value in box["bbox"])
        x, y = x + left, y + top
        canvas.box(x, y, width, height, None, radius=3, edge=OUTLINE, thickness=1.25)
        length = text_width(box["label"], 12, BOLD)
        outwards = x + width - length if x + width / 2 < left + side / 2 and length > width else x
        start = min(max(outwards, left + 4), left + side - length - 4)
        places = (y - 6, y + height + 14)
        base = next((place for place in places if not _is_taken(names, start, start + length, place)), places[0])
        canvas.text(start, base, box["label"], 12, OUTLINE, BOLD, halo="#0b1519")
        names.append((start, start + length, base))


def _is_taken(names: Sequence[tuple[float, float, float]], start: float, end: float, base: float) -> bool:
    return any(start < right + 4 and end > left - 4 and abs(base - other) < 13 for left, right, other in names)
