"""What the Gradio app shows of an uploaded file: a slice, in a window, and a region of it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageOps

from processing.errors import UserError
from processing.image_source import ImageBytes
from processing.images import image_facts, open_image, read_values
from processing.regions import BRIGHT, DARK, Region, outlined
from processing.windows import CT_WINDOWS, OWN, PERCENTILE_WINDOWS, Window, ct_windows, percentile_window

PRESETS = (OWN, *CT_WINDOWS, *PERCENTILE_WINDOWS)
NO_REGION = "The region must be four numbers from 0 to 1: left, top, right and bottom, as shares of width and height."
FEW_EDGES = "The region has fewer than four edges; give all of them, or forget the region."


class View(NamedTuple):
    """What of a file is shown.

    Attributes:
        number: of the slice, from 1; 0 is the one in the middle.
        window: centre and width in the units of the file; None is the file's own.
        percentiles: of the values of the slice between which the window lies, instead of `window`.
        inverted: black is white.
    """

    number: int = 0
    window: Window | None = None
    percentiles: tuple[float, float] | None = None
    inverted: bool = False


class Contents(NamedTuple):
    """What can be chosen of a file.

    Attributes:
        slices: how many it has.
        presets: names of windows that fit it; none where it is in colour.
    """

    slices: int
    presets: list[str]


def middle(slices: int) -> int:
    """The number of the slice in the middle, from 1."""
    return (slices + 1) // 2


def preset_view(number: int, preset: str, is_inverted: bool) -> View:
    """The view of a slice in a window of `PRESETS`."""
    return View(number, CT_WINDOWS.get(preset), PERCENTILE_WINDOWS.get(preset), is_inverted)


def describe(data: bytes) -> Contents:
    """What can be chosen of a file.

    Raises:
        ImageError: it can't be opened.
    """
    slices = image_facts(ImageBytes(data)).slices
    facts = image_facts(ImageBytes(data, slice_number=middle(slices)))
    if read_values(ImageBytes(data, slice_number=middle(slices))) is None:
        return Contents(slices, [])
    return Contents(slices, [OWN, *ct_windows(facts), *PERCENTILE_WINDOWS])


def open_view(data: bytes, view: View) -> Image.Image:
    """A file in a view, as RGB.

    Raises:
        UserError: it can't be opened, or has no such slice or window.
    """
    if view.number < 0:
        raise UserError(f"There is no slice {view.number}; they are counted from 1, and 0 is the one in the middle.")
    number = view.number or middle(image_facts(ImageBytes(data)).slices)
    window = view.window
    if view.percentiles and (values := read_values(ImageBytes(data, slice_number=number))) is not None:
        window = percentile_window(values, *view.percentiles)
    image = open_image(ImageBytes(data, slice_number=number), window=window)
    return ImageOps.invert(image) if view.inverted else image


def region_of_shares(shares: Any) -> Region | None:
    """The region that a program names by left, top, right and bottom, as shares; None without one.

    Raises:
        UserError: they are not four numbers.
    """
    if shares is None:
        return None
    if not isinstance(shares, list) or len(shares) != 4:
        raise UserError(NO_REGION)
    if not all(type(share) in (int, float) and math.isfinite(share) for share in shares):
        raise UserError(NO_REGION)
    return Region(*shares)


def region_of_percents(edges: Sequence[float | None]) -> Region | None:
    """The region of left, top, right and bottom in percent; None without right and bottom.

    Raises:
        UserError: some of them are missing.
    """
    if edges[2] is None and edges[3] is None:
        return None
    if None in edges:
        raise UserError(FEW_EDGES)
    return Region(*(float(edge or 0) / 100 for edge in edges))


def with_corners(image: Image.Image, edges: Sequence[float | None]) -> Image.Image:
    """A copy of an image with a region around it, or a cross at its first corner.

    Args:
        edges: left, top, right and bottom in percent; the image is copied as it is where the first two are missing.
    """
    left, top, right, bottom = edges
    if left is None or top is None:
        return image.copy()
    if right is not None and bottom is not None:
        return outlined(image, Region(left / 100, top / 100, right / 100, bottom / 100))
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    x, y = round(left / 100 * (image.width - 1)), round(top / 100 * (image.height - 1))
    line = max(round(min(image.size) / 240), 1)
    for color, width in ((DARK, 3 * line), (BRIGHT, line)):
        draw.line((x - 8 * line, y, x + 8 * line, y), color, width)
        draw.line((x, y - 8 * line, x, y + 8 * line), color, width)
    return drawn


def in_words(edges: Sequence[float | None]) -> str:
    """Says which region was chosen, or what is missing."""
    left, top, right, bottom = edges
    if None not in edges:
        return f"Region: {left:g} to {right:g} % across, {top:g} to {bottom:g} % down."
    return "" if left is None or top is None else "One corner of a region is chosen. Click the opposite one."
