"""A drawing surface for the pictures of the documentation: boxes, images and text in the typeface of the app."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from processing.errors import UserError

SHARPNESS = 2  # pixels of the file per pixel of the page, for dense screens
SMOOTHING = 2  # drawn this much larger still, then reduced, so that edges are smooth
SCALE = SHARPNESS * SMOOTHING
COLORS, EXACT = 256, 12  # of a file, and of these the most frequent, which are kept exactly
HALO = 3  # half pixels of the page around letters
LINE_HEIGHT = 1.28  # of the size of a typeface
REGULAR, BOLD = 400, 650


@cache
def typeface_file() -> Path:
    """Source Sans, which Streamlit ships for its pages.

    Raises:
        UserError: Streamlit is not installed, or ships another typeface.
    """
    package = importlib.util.find_spec("streamlit")
    folder = Path(package.origin).parent / "static" if package and package.origin else None
    found = sorted(folder.rglob("SourceSansVF-Upright*.woff2")) if folder else []
    if not found:
        raise UserError("The typeface of the pictures is missing; install it by: pip install -e '.[apps]'")
    return found[0]


@cache
def typeface(size: float, weight: int) -> ImageFont.FreeTypeFont:
    """Source Sans of a size in pixels of the page and a weight from 200 to 900."""
    font = ImageFont.truetype(typeface_file(), size * SCALE)
    font.set_variation_by_axes([weight])
    return font


def text_width(text: str, size: float, weight: int = REGULAR) -> float:
    """Of one line, in pixels of the page."""
    return typeface(size, weight).getlength(text) / SCALE


def wrap(text: str, width: float, size: float, weight: int = REGULAR) -> list[str]:
    """Lines of text, none wider than `width` unless a single word is."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size, weight) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


class Canvas:
    """A picture that is drawn in pixels of the page.

    Args:
        width: of the page.
        height: of the page.
        color: of the background.
    """

    def __init__(self, width: float, height: float, color: str) -> None:
        self.image = Image.new("RGB", (round(width * SCALE), round(height * SCALE)), color)
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        color: str,
        weight: int = REGULAR,
        anchor: str = "ls",
        halo: str | None = None,
    ) -> None:
        """One line of text.

        Args:
            anchor: Pillow's, by default the left end of the base line.
            halo: colour of an edge around the letters, which parts them from an image.
        """
        edge = {"stroke_width": HALO * SCALE // 2, "stroke_fill": halo} if halo else {}
        self.draw.text((x * SCALE, y * SCALE), text, color, typeface(size, weight), anchor, **edge)

    def paragraph(
        self, x: float, y: float, width: float, text: str, size: float, color: str, weight: int = REGULAR
    ) -> float:
        """Text in lines of that width, the first base line at `y`; returns the next base line."""
        for line in wrap(text, width, size, weight):
            self.text(x, y, line, size, color, weight)
            y += size * LINE_HEIGHT
        return y

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        color: str | None,
        radius: float = 0,
        edge: str | None = None,
        thickness: float = 1,
    ) -> None:
        """A rectangle, with round corners where there is a radius."""
        corners = (x * SCALE, y * SCALE, (x + width) * SCALE - 1, (y + height) * SCALE - 1)
        self.draw.rounded_rectangle(corners, radius * SCALE, color, edge, round(thickness * SCALE) if edge else 0)

    def line(self, points: list[tuple[float, float]], color: str, thickness: float = 1) -> None:
        """A line through points."""
        self.draw.line([(x * SCALE, y * SCALE) for x, y in points], color, round(thickness * SCALE), "curve")

    def paste(self, image: Image.Image, x: float, y: float, width: float, height: float, radius: float = 0) -> None:
        """An image in a rectangle, its upper corners round where there is a radius."""
        size = (round(width * SCALE), round(height * SCALE))
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).rounded_rectangle(
            (0, 0, size[0] - 1, size[1] - 1), radius * SCALE, 255, corners=(True, True, False, False)
        )
        enlarged = image.resize(size, Image.Resampling.BICUBIC)
        self.image.paste(enlarged, (round(x * SCALE), round(y * SCALE)), mask)

    def paste_turned(self, x: float, y: float, text: str, size: float, color: str) -> None:
        """A line of text that is read upwards, its start at ``(x, y)`` and its middle on `x`."""
        length, height = text_width(text, size), size * LINE_HEIGHT
        mask = Image.new("L", (round(length * SCALE) + 1, round(height * SCALE)))
        ImageDraw.Draw(mask).text((0, mask.height / 2), text, 255, typeface(size, REGULAR), "lm")
        mask = mask.transpose(Image.Transpose.ROTATE_90)
        corner = (round(x * SCALE - mask.width / 2), round(y * SCALE - mask.height))
        self.image.paste(color, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)

    def finished(self) -> Image.Image:
        """The picture at its final size."""
        return self.image.reduce(SMOOTHING)


def save_small(image: Image.Image, file: Path) -> None:
    """Writes a PNG of 256 colours, mixed where they are too few; those of large areas stay exactly what they are."""
    plain = image.convert("RGB")
    palette_of = plain.quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=1)
    palette = np.array(palette_of.getpalette(), dtype=int).reshape(-1, 3)
    indices = np.array(plain.quantize(palette=palette_of, dither=Image.Dither.FLOYDSTEINBERG))
    pixels = np.asarray(plain)
    counted = sorted(plain.getcolors(plain.width * plain.height), reverse=True)
    for _, color in reversed(counted[:EXACT]):  # Pillow's search for the nearest colour is not exact
        nearest = np.abs(palette - color).sum(axis=1).argmin()
        palette[nearest] = color
        indices[(pixels == color).all(axis=-1)] = nearest
    small = Image.fromarray(indices)
    small.putpalette(palette.astype(np.uint8).tobytes())
    small.save(file, optimize=True)
