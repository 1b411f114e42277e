"""Draws the sequence in which BLIP-2 reads several questions about one image, with its attention mask.

Tokens, mask and positions are those of training (`processing.packing`, `modeling.blip2.decoding`), of short questions
whose tokens are whole words.
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks.canvas import BOLD, Canvas, text_width
from modeling.blip2.decoding import shared_prefix_mask
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
BACKGROUND, INK, FAINT, LINES = "#ffffff", "#14252b", "#5a6b72", "#d5dee1"
IMAGE_COLOR, SHARED_COLOR = "#5b7083", "#8a6fb0"
QUESTION_COLORS = ("#0b7a82", "#c2620d", "#2f6fc4")
LOSS_COLOR = "#b3261e"
CELL = 17.0  # of the mask


class Layout(NamedTuple):
    """A sequence of `N` tokens, those of the image first."""

    tokens: list[str]
    labels: list[str | None]  # the word to predict after each token, None where there is none
    positions: list[int]
    owners: list[int]  # the question that a token belongs to alone, -1 for a shared beginning, -2 for the image
    visible: np.ndarray  # (N, N) bool; row: the token that attends
    plain_tokens: int  # of one question a sequence


def lay_out(
    questions: tuple[tuple[str, str], ...] = QUESTIONS, image_tokens: int = IMAGE_TOKENS, prompt: str = PROMPT
) -> Layout:
    """The sequence of questions and their answers about one image, a word a token."""
    words = [(prompt.replace("{}", question).split(), [answer, END]) for question, answer in questions]
    vocabulary = sorted({word for pair in words for part in pair for word in part})
    pairs = [QuestionAnswer(*([vocabulary.index(word) for word in part] for part in pair)) for pair in words]
    tree = QuestionTree(pairs)
    mask = shared_prefix_mask(visible_tokens([tree]), image_tokens, torch.float32)[0, 0]
    return Layout(
        tokens=[f"i{number + 1}" for number in range(image_tokens)] + [vocabulary[token] for token in tree.tokens],
        labels=[None] * image_tokens + [None if label == -100 else vocabulary[label] for label in tree.labels],
        positions=[*range(image_tokens), *(image_tokens + len(path) - 1 for path in tree.paths)],
        owners=[-2] * image_tokens + _owners(tree, pairs),
        visible=(mask == 0).numpy(),
        plain_tokens=sum(image_tokens + len(prompt) + len(answer) - 1 for prompt, answer in pairs),
    )


def _owners(tree: QuestionTree, pairs: list[QuestionAnswer]) -> list[int]:
    """The only question whose last token sees a token, -1 where several do."""
    labelled = [place for place, label in enumerate(tree.labels) if label != -100]
    ends = [labelled[sum(len(pair.answer) for pair in pairs[: number + 1]) - 1] for number in range(len(pairs))]
    owners = []
    for token in range(len(tree.tokens)):
        readers = [number for number, end in enumerate(ends) if token in tree.paths[end]]
        owners.append(readers[0] if len(readers) == 1 else -1)
    return owners


def explanations(layout: Layout) -> list[tuple[str, str]]:
    """What the drawing shows: a title and a sentence each."""
    return [
        ("One image", f"Its tokens ({layout.owners.count(-2)} here, 32 in BLIP-2) stand once, in front."),
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
    return {-2: IMAGE_COLOR, -1: SHARED_COLOR}.get(owner) or QUESTION_COLORS[owner % len(QUESTION_COLORS)]


def draw_shared_prefix() -> Image.Image:
    """The drawing."""
    layout = lay_out()
    side = CELL * len(layout.tokens)
    labels = 62.0  # room for the words beside the mask
    mask_top = 236 + labels
    canvas = Canvas(WIDTH, mask_top + side + MARGIN, BACKGROUND)
    canvas.text(MARGIN, 40, "Three questions about one image, read in one sequence", 21, INK, BOLD)
    _draw_sequence(canvas, layout, 92)
    canvas.text(MARGIN, 228, "Attention: each row reads the filled columns", 15, INK, BOLD)
    _draw_mask(canvas, layout, MARGIN + labels, mask_top)
    x = MARGIN + labels + side + 40
    y = mask_top + 13
    for title, sentence in explanations(layout):
        canvas.text(x, y, title, 15, INK, BOLD)
        y = canvas.paragraph(x, y + 19, WIDTH - MARGIN - x, sentence, 14, FAINT) + 17
    return canvas.finished()


def _draw_sequence(canvas: Canvas, layout: Layout, top: float) -> None:
    """The tokens, what each is followed by where that is learned, and their positions."""
    size, gap, heading = 12.5, 3.0, 58.0
    natural = [max(text_width(token, size, BOLD), 12) for token in layout.tokens]
    room = WIDTH - 2 * MARGIN - heading - gap * len(natural)
    padding = (room - sum(natural)) / len(natural)
    left = x = MARGIN + heading
    for label, y in (("reads", top + 20), ("position", top + 52), ("learns", top + 85)):
        canvas.text(MARGIN, y, label, 13, FAINT)
    spans: dict[int, tuple[float, float]] = {}
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
        if owner not in spans:
            spans[owner] = (x, x + width)
        spans[owner] = (min(spans[owner][0], x), x + width)
        x += width + gap
    canvas.line([(left, top + 102), (x - gap, top + 102)], LINES)
    names = {-2: "image", -1: "shared", **{n: f"question {n + 1}" for n in range(len(QUESTIONS))}}
    for owner, (start, end) in spans.items():
        canvas.text((start + end) / 2, top - 11, names[owner], 13, _color(owner), BOLD, "ms")


def _draw_mask(canvas: Canvas, layout: Layout, left: float, top: float) -> None:
    """A row for each token: the columns that it attends to are filled with their colour."""
    for row, (token, owner) in enumerate(zip(layout.tokens, layout.owners, strict=True)):
        y = top + row * CELL
        canvas.text(left - 6, y + CELL / 2, token, 11.5, _color(owner), anchor="rm")
        canvas.paste_turned(left + (row + 0.5) * CELL, top - 5, token, 11.5, _color(owner))
        for column, seen in enumerate(layout.visible[row]):
            color = _color(layout.owners[column]) if seen else "#eef2f3"
            canvas.box(left + column * CELL + 0.75, y + 0.75, CELL - 1.5, CELL - 1.5, color, radius=2.5)
