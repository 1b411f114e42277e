"""Questions about a region of an image: asked of the region alone and of the whole image."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from modeling.parts.evidence import Detection, Evidence
from modeling.predictor import Answer, Predictor
from processing.errors import UserError

MARGIN = 0.1  # that is added to a region on each side, in shares of its own width and height
LEAST_PIXELS = 8  # of a region's side


class Region(NamedTuple):
    """A rectangle in shares of the image's width and height, from its top left corner."""

    left: float
    top: float
    right: float
    bottom: float

    def corners(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels of an image ``(width, height)``."""
        width, height = size
        return round(self.left * width), round(self.top * height), round(self.right * width), round(self.bottom * height)


@dataclass(frozen=True)
class RegionAnswer:
    """What a model answers about a region.

    Args:
        region: asked about the region with its margin, as an image of its own. It has no evidence, whose places would
            be those of another image.
        whole: asked about the whole image; its evidence is limited to the region.
    """

    region: Answer
    whole: Answer


def ask_about_region(
    predictor: Predictor, image: Image.Image, question: str, region: Region, top_k: int = 5
) -> RegionAnswer:
    """Asks about a region and about the whole image.

    Args:
        image: the whole image, as it is shown.
        question: as for `Predictor.answer`.
        top_k: as for `Predictor.answer`.

    Raises:
        UserError: the region is too small or not inside the image, or as `Predictor.answer`.
    """
    part = crop(image, region)
    of_region, of_whole = predictor.answer_batch([part, image], [question, question], top_k)
    if of_whole.evidence is not None:
        of_whole = replace(of_whole, evidence=within(of_whole.evidence, region))
    return RegionAnswer(replace(of_region, evidence=None), of_whole)


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


def within(evidence: Evidence, region: Region) -> Evidence:
    """Evidence limited to a region.

    Cells whose centre lies outside get 0. A box is cut to the region, and left out where less than half of the smaller
    of both lies in the other.
    """
    cells = np.array(evidence.cells)
    rows, columns = ((np.arange(count) + 0.5) / count for count in cells.shape)
    is_inside = np.outer(
        (rows >= region.top) & (rows <= region.bottom), (columns >= region.left) & (columns <= region.right)
    )
    kept = tuple(tuple(row) for row in np.where(is_inside, cells, 0.0).tolist())
    boxes = (_cut(found, region) for found in evidence.boxes)
    return replace(evidence, cells=kept, boxes=tuple(box for box in boxes if box is not None))


def _cut(found: Detection, region: Region) -> Detection | None:
    left, top, width, height = found.box
    inner = Region(
        max(left, region.left), max(top, region.top), min(left + width, region.right), min(top + height, region.bottom)
    )
    smaller = min(width * height, (region.right - region.left) * (region.bottom - region.top))
    across, down = inner.right - inner.left, inner.bottom - inner.top
    if across <= 0 or down <= 0 or across * down < smaller / 2:
        return None
    return replace(found, box=(inner.left, inner.top, across, down))
