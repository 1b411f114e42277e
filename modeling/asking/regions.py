"""Questions about a region of an image: asked of the region alone and of the whole image."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from modeling.asking.predictor import Answer, Predictor
from modeling.parts.evidence import Detection, Evidence
from processing.regions import Region, crop


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
