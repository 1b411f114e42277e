"""Draws the sequence in which BLIP-2 reads several questions about one image, with its attention mask.

Tokens, mask and positions are those of training (`processing.packing`, `modeling.writing.decoding`), of short
questions whose tokens are whole words. `benchmarks.vlm_prefix_drawing` draws the same for chat models.
"""

from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks.canvas import BOLD, Canvas, text_width
from modeling.writing.decoding import shared_prefix_mask
from processing.packing import QuestionTree, visible_tokens
from processing.utils import QuestionAnswer

PROMPT = "Question: {} Answer:"  # as in the recipes
END = "</s>"
QUESTIONS = (
    ("Is the liver healthy?", "No"),
    ("Is the heart large?", "Yes"),
    ("Which organ is largest?", "Liver"),
)
IMAGE_TOKENS = 4  # in the drawing; the published BLIP-2 has 32

WIDTH, MARGIN = 900.0, 24.0
BACKGROUND, INK, FAINT, LINES, NOTHING = "#ffffff", "#14252b", "#5a6b72", "#d5dee1", "#eef2f3"
IMAGE_COLOR, SHARED_COLOR = "#5b7083", "#8a6fb0"
QUESTION_COLORS = ("#0b7a82", "#c2620d", "#2f6fc4")
LOSS_COLOR = "#b3261e"
SHARED, IMAGE = -1, -2  # what a token belongs to that is of no question alone
CELL = 17.0  # of the mask
LABELS = 62.0  # room for the words beside and above the mask


class Layout(NamedTuple):
    """A sequence of `N` tokens, those of the image in front or among the first."""

    tokens: list[str]
    labels: list[str | None]  # the word to predict after each token, None where there is none
    positions: list[int]
    owners: list[int]  # the question that a token belongs to alone, or `SHARED` or `IMAGE`
    visible: np.ndarray  # (N, N) bool; row: the token that attends
    plain_tokens: int  # of one question a sequence
    beyond: np.ndarray | None = None  # (N, N) bool; what only layers without a window see


def lay_out(
    questions: tuple[tuple[str, str], ...] = QUESTIONS, image_tokens: int = IMAGE_TOKENS, prompt: str = PROMPT
) -> Layout:
    """The sequence of questions and their answers about one image, a word a token."""
    words = [(prompt.replace("{}", question).split(), [answer, END]) for question, answer in questions]
    vocabulary = sorted({word for pair in words for part in pair for word in part})
    pairs = [QuestionAnswer(*([vocabulary.index(word) for word in part] for part in pair)) for pair in words]
    tree = QuestionTree(pairs)
    mask = shared_prefix_mask(visible_tokens([tree]), image_tokens, torch.float32)[0, 0]
    labels = [None] * image_tokens + [None if label == -100 else vocabulary[label] for label in tree.labels]
    return Layout(
        tokens=[f"i{number + 1}" for number in range(image_tokens)] + [vocabulary[token] for token in tree.tokens],
        labels=labels,
        positions=[*range(image_tokens), *(image_tokens + len(path) - 1 for path in tree.paths)],
        owners=owners_of((mask == 0).numpy(), labels, range(image_tokens)),
        visible=(mask == 0).numpy(),
        plain_tokens=sum(image_tokens + len(prompt) + len(answer) - 1 for prompt, answer in pairs),
    )


def owners_of(visible: np.ndarray, labels: Sequence[str | None], image: Container[int]) -> list[int]:
    """What each token belongs to, as `Layout` says: the only question whose last token sees it.

    Args:
        visible: as in `Layout`.
        labels: as in `Layout`; each question ends at the label `END`.
        image: the places of the image's tokens.
    """
    readers = visible[[place for place, label in enumerate(labels) if label == END]]
    alone = np.where(readers.sum(axis=0) == 1, readers.argmax(axis=0), SHARED)
    return [IMAGE if place in image else int(owner) for place, owner in enumerate(alone)]


def explanations(layout: Layout) -> list[tuple[str, str]]:
    """What the drawing shows: a title and a sentence each."""
    return [
        ("One image", f"Its tokens ({layout.owners.count(IMAGE)} here, 32 in BLIP-2) stand once, in front."),
        ("Shared beginnings", "Questions that begin with the same words share them too."),
        ("Separate questions", "Each sees the image and its own words, nothing of the others."),
        ("Positions", "Each question is numbered as if it stood alone after the image."),
        ("Loss", "Only the words of the answers and their ends are learned."),
        (
            f"{layout.plain_tokens} tokens become {len(layout.tokens)}",
            "Loss and gradients are the same as with one question a sequence.",
        ),
    ]


def _color(owner: int) -> str:
    return {IMAGE: IMAGE_COLOR, SHARED: SHARED_COLOR}.get(owner) or QUESTION_COLORS[owner % len(QUESTION_COLORS)]


def draw_shared_prefix() -> Image.Image:
    """The drawing."""
    layout = lay_out()
    side = CELL * len(layout.tokens)
    mask_top = 236 + LABELS
    canvas = Canvas(WIDTH, mask_top + side + MARGIN, BACKGROUND)
    canvas.text(MARGIN, 40, "Three questions about one image, read in one sequence", 21, INK, BOLD)
    draw_sequence(canvas, layout, 92)
    canvas.text(MARGIN, 228, "Attention: each row reads the filled columns", 15, INK, BOLD)
    draw_mask(canvas, layout, MARGIN + LABELS, mask_top, CELL)
    x = MARGIN + LABELS + side + 40
    draw_explanations(canvas, explanations(layout), x, mask_top + 13, WIDTH - MARGIN - x)
    return canvas.finished()


def draw_explanations(canvas: Canvas, told: list[tuple[str, str]], x: float, y: float, width: float) -> float:
    """Titles, each with a sentence, in a column; returns where it ends."""
    for title, sentence in told:
        canvas.text(x, y, title, 15, INK, BOLD)
        y = canvas.paragraph(x, y + 19, width, sentence, 14, FAINT) + 17
    return y


def draw_sequence(canvas: Canvas, layout: Layout, top: float) -> None:
    """The tokens, what each is followed by where that is learned, and their positions."""
    size, gap, heading = 12.5, 3.0, 58.0
    natural = [max(text_width(token, size, BOLD), 12) for token in layout.tokens]
    room = WIDTH - 2 * MARGIN - heading - gap * len(natural)
    padding = (room - sum(natural)) / len(natural)
    left = x = MARGIN + heading
    for label, y in (("reads", top + 20), ("position", top + 52), ("learns", top + 85)):
        canvas.text(MARGIN, y, label, 13, FAINT)
    spans: list[tuple[int, float, float]] = []  # of neighbours with the same owner
    for token, label, position, owner, width in zip(
        layout.tokens, layout.labels, layout.positions, layout.owners, natural, strict=True
    ):
        width += padding
        middle, color = x + width / 2, _color(owner)
        canvas.box(x, top, width, 30, color, radius=5)
        canvas.text(middle, top + 15, token, size, "#ffffff", BOLD, "mm")
        canvas.text(middle, top + 52, str(position), 13, INK, anchor="ms")
        if label is not None:
            canvas.text(middle, top + 85, label, size, LOSS_COLOR, BOLD, "ms")
            canvas.line([(middle, top + 60), (middle, top + 71)], LOSS_COLOR, 1.2)
        start = spans.pop()[1] if spans and spans[-1][0] == owner else x
        spans.append((owner, start, x + width))
        x += width + gap
    canvas.line([(left, top + 102), (x - gap, top + 102)], LINES)
    names = {IMAGE: "image", SHARED: "shared", **{n: f"question {n + 1}" for n in range(len(QUESTIONS))}}
    for owner, start, end in spans:
        canvas.text((start + end) / 2, top - 11, names[owner], 13, _color(owner), BOLD, "ms")


def draw_mask(canvas: Canvas, layout: Layout, left: float, top: float, cell: float) -> None:
    """A row for each token: the columns that it attends to are filled with their colour, those beyond are outlined."""
    for row, (token, owner) in enumerate(zip(layout.tokens, layout.owners, strict=True)):
        y = top + row * cell
        canvas.text(left - 6, y + cell / 2, token, 11.5, _color(owner), anchor="rm")
        canvas.paste_turned(left + (row + 0.5) * cell, top - 5, token, 11.5, _color(owner))
        for column, seen in enumerate(layout.visible[row]):
            own = _color(layout.owners[column])
            edge = own if layout.beyond is not None and layout.beyond[row, column] else None
            fill = own if seen else BACKGROUND if edge else NOTHING
            canvas.box(left + column * cell + 0.75, y + 0.75, cell - 1.5, cell - 1.5, fill, 2.5, edge)
