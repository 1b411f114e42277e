"""modeling.asking.regions: a question about a region and the whole image, by numbers."""

import numpy as np
import pytest
from PIL import Image

from modeling.asking.predictor import Answer
from modeling.asking.regions import ask_about_region, within
from modeling.parts.evidence import Detection, Evidence
from processing.errors import UserError
from processing.regions import Region

LEFT_HALF = Region(0, 0, 0.5, 1)


def evidence(*boxes: tuple[float, float, float, float]) -> Evidence:
    """Boxes, and 2 x 4 cells of 0.9."""
    return Evidence(((0.9,) * 4,) * 2, tuple(Detection("Liver", 0.8, box) for box in boxes), False)


class SizePredictor:
    """It answers with the size of the image."""

    def answer_batch(self, images, questions, top_k):
        return [
            Answer(f"{image.width} x {image.height}, {question}, {top_k}", 0.7, evidence=evidence((0, 0, 1, 1)))
            for image, question in zip(images, questions, strict=True)
        ]


def test_cells_whose_centre_lies_outside_are_0():
    cells = np.array(within(evidence(), Region(0.3, 0.5, 0.7, 1)).cells)
    assert cells.tolist() == [[0, 0, 0, 0], [0, 0.9, 0.9, 0]]  # centres of columns: 1/8, 3/8, 5/8, 7/8
    assert np.array(within(evidence(), LEFT_HALF).cells).tolist() == [[0.9, 0.9, 0, 0]] * 2


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ((0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4)),  # inside
        ((0.3, 0.2, 0.4, 0.4), (0.3, 0.2, 0.2, 0.4)),  # half of it
        ((0.31, 0.2, 0.4, 0.4), None),  # a little less than half
        ((0.6, 0.2, 0.3, 0.4), None),  # beside
        ((0.5, 0.2, 0.3, 0.4), None),  # touching
        ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)),  # around the region
    ],
)
def test_a_box_is_cut_to_the_region_or_left_out(box, kept):
    boxes = within(evidence(box), LEFT_HALF).boxes
    assert [found.box for found in boxes] == ([] if kept is None else [pytest.approx(kept)])
    assert all((found.label, found.probability) == ("Liver", 0.8) for found in boxes)


def test_the_region_is_an_image_of_its_own_with_a_margin():
    both = ask_about_region(SizePredictor(), Image.new("RGB", (200, 100)), "Why?", Region(0.25, 0.2, 0.75, 1), top_k=2)
    assert both.region.answer == "120 x 88, Why?, 2"  # 100 x 80, a tenth on each side that the image has
    assert both.region.evidence is None
    assert both.whole.answer == "200 x 100, Why?, 2"
    assert both.whole.evidence.boxes[0].box == pytest.approx((0.25, 0.2, 0.5, 0.8))


@pytest.mark.parametrize(
    ("region", "sentence"),
    [
        (Region(0.5, 0, 0.5, 1), "The region is not inside the image"),
        (Region(0, 0, 1.1, 1), "The region is not inside the image"),
        (Region(0, float("nan"), 1, 1), "The region is not inside the image"),
        (Region(0, 0, 0.07, 1), "The region has fewer than 8 pixels on a side"),
    ],
)
def test_a_region_that_can_t_be_asked_about_is_one_sentence(region, sentence):
    with pytest.raises(UserError, match=sentence):
        ask_about_region(SizePredictor(), Image.new("RGB", (100, 100)), "Why?", region)
