"""Heat maps and outlines of evidence over their images."""

import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from metrics.cases import COLORS
from modeling.parts.evidence import Detection
from processing.errors import UserError

OUTLINED = (720, 2048)  # pixels of the longer side of an outlined image, so that a screen shows legible names
DARK = "#10181b"
OUTLINES = ("#ffd23f", "#66ccff", "#ff9f6b", "#8ee68e")  # all bright on `DARK`
NAME_SHARE = 26  # a name's letters are this part of the image's width: 13 pixels on a phone
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")  # has no Chinese, for instance

Corners = tuple[float, float, float, float]  # left, top, right, bottom


def overlay(
    image: Image.Image, heat: np.ndarray, opacity: float = 0.6, limits: tuple[float, float] | None = None
) -> Image.Image:
    """Lays a heat map over its image. The colder a place, the more of the plain image shows.

    Args:
        image: of any size, taken as RGB.
        heat: ``(rows, columns)`` over the whole image. Its coldest place gets no colour, its hottest the most.
        opacity: of the hottest place, 0 to 1.
        limits: the values that get no colour and the most, by default the lowest and highest of the map.

    Raises:
        UserError: the opacity is out of range.
    """
    if not 0 <= opacity <= 1:
        raise UserError(f"opacity {opacity}: must be from 0 to 1.")
    low, high = limits or (float(heat.min()), float(heat.max()))
    smooth = Image.fromarray(heat.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    values = np.asarray(smooth) - np.float32(low)
    values = (values / max(high - low, float(np.finfo(np.float32).tiny))).clip(0, 1)
    colors = matplotlib.colormaps[COLORS](values)[..., :3] * 255
    alpha = opacity * values[..., None]
    plain = np.asarray(image.convert("RGB"))
    return Image.fromarray(np.round(plain * (1 - alpha) + colors * alpha).astype(np.uint8))


def outline(image: Image.Image, boxes: Sequence[Detection]) -> Image.Image:
    """A copy of an image with the outline of each detection, its name of `names_on_image` and its probability.

    A bright line between two dark ones, and a bright name on a dark ground, are seen on any image. Each label has its
    colour.

    Args:
        image: of any size, taken as RGB.
        boxes: the most important first: its name gets the best place.

    Returns:
        The copy, as RGB, made larger or smaller so that its longer side has the pixels of `OUTLINED`.
    """
    longest = max(image.size)
    scale = min(max(longest, OUTLINED[0]), OUTLINED[1]) / longest
    width, height = (max(round(side * scale), 1) for side in image.size)
    drawn = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(drawn)
    names = names_on_image(boxes)
    colors = {label: OUTLINES[number % len(OUTLINES)] for number, label in enumerate(names)}
    line = max(round(min(width, 2 * height) / 240), 1)
    frames = []
    for found in boxes:
        left, top, box_width, box_height = found.box
        right, bottom = round((left + box_width) * width) - 1, round((top + box_height) * height) - 1
        frames.append((round(left * width), round(top * height), right, bottom))
    for found, frame in reversed(list(zip(boxes, frames, strict=True))):
        draw.rectangle(frame, outline=DARK, width=4 * line)
        draw.rectangle(_inset(frame, line), outline=colors[found.label], width=2 * line)
    font = ImageFont.truetype(FONT, max(min(width / NAME_SHARE, height / 5), 8))
    taken: list[Corners] = []
    for found, frame in zip(boxes, frames, strict=True):
        text = _fitting(f"{names[found.label]} {found.probability:.0%}", font, width - 2 * line)
        tag = _place_of_name(text, frame, font, drawn.size, taken)
        taken.append(tag)
        draw.rectangle(tag, fill=DARK)
        draw.text((tag[0] + 2 * line, tag[1]), text, fill=colors[found.label], font=font)
    return drawn


def names_on_image(boxes: Sequence[Detection]) -> dict[str, str]:
    """What `outline` writes for each label, in their order: the label, or #1 where it is the first of them.

    A number stands for a label with letters that the font lacks. Whoever shows the image says which label it is.
    """
    labels = dict.fromkeys(found.label for found in boxes)
    return {label: label if _can_write(label) else f"#{number}" for number, label in enumerate(labels, 1)}


@functools.cache
def _can_write(text: str) -> bool:
    known = FT2Font(str(FONT)).get_charmap()
    return all(ord(character) in known for character in text if character.isprintable())


def _inset(frame: Corners, margin: int) -> Corners:
    """A frame moved inwards on every side, as far as its middle."""
    left, top, right, bottom = frame
    across, down = min(margin, (right - left) / 2), min(margin, (bottom - top) / 2)
    return left + across, top + down, right - across, bottom - down


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A text on one line, cut where it is wider than the image."""
    line = "".join(character if character.isprintable() else " " for character in text)
    fitting = line
    while len(fitting) > 1 and font.getlength(fitting) > width:
        fitting = f"{fitting[:-2]}…"
    return fitting


def _place_of_name(
    text: str, frame: Corners, font: ImageFont.FreeTypeFont, size: tuple[int, int], taken: Sequence[Corners]
) -> Corners:
    """Where a name stands: above its frame, below it, or inside it, where no other name stands."""
    width, height = size
    left, top, right, bottom = frame
    ascent, descent = font.getmetrics()
    tag_width, tag_height = font.getlength(text) + font.size / 2, ascent + descent
    places = []
    for x in (left, right - tag_width):
        for y in (top - tag_height, bottom, top, bottom - tag_height):
            x, y = min(max(x, 0), max(width - tag_width, 0)), min(max(y, 0), max(height - tag_height, 0))
            places.append((x, y, x + tag_width, y + tag_height))
    free = (place for place in places if not any(_overlap(place, other) for other in taken))
    return next(free, places[0])


def _overlap(one: Corners, other: Corners) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
