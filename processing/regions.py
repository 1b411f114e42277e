"""Regions of an image."""

from typing import NamedTuple

from PIL import Image, ImageDraw

from processing.errors import UserError

MARGIN = 0.1  # that is added to a region on each side, in shares of its own width and height
LEAST_PIXELS = 8  # of a region's side
DARK, BRIGHT = "#10181b", "#ffffff"  # a line of both is seen on any image; no outline of evidence is white


class Region(NamedTuple):
    """A rectangle in shares of the image's width and height, from its top left corner."""

    left: float
    top: float
    right: float
    bottom: float

    def corners(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels of an image ``(width, height)``."""
        width, height = size
        return (
            round(self.left * width),
            round(self.top * height),
            round(self.right * width),
            round(self.bottom * height),
        )


def crop(image: Image.Image, region: Region) -> Image.Image:
    """A region with its margin, cut at the image's edges.

    Raises:
        UserError: the region is too small or not inside the image.
    """
    if not (0 <= region.left < region.right <= 1 and 0 <= region.top < region.bottom <= 1):
        raise UserError("The region is not inside the image; its edges are shares from 0 to 1, left before right.")
    left, top, right, bottom = region.corners(image.size)
    if min(right - left, bottom - top) < LEAST_PIXELS:
        raise UserError(f"The region has fewer than {LEAST_PIXELS} pixels on a side; draw a larger one.")
    across, down = round(MARGIN * (right - left)), round(MARGIN * (bottom - top))
    return image.crop(
        (max(left - across, 0), max(top - down, 0), min(right + across, image.width), min(bottom + down, image.height))
    )


def outlined(image: Image.Image, region: Region) -> Image.Image:
    """A copy of an image with the outline of a region, a bright line between two dark ones."""
    left, top, right, bottom = region.corners((image.width - 1, image.height - 1))
    line = max(round(min(image.size) / 240), 1)
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    for color, width in ((DARK, 3 * line), (BRIGHT, line)):
        draw.line([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], color, width)
    return drawn
