"""spaces_app.pictures: what the window sliders go over, and that images are opened one by one."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from processing.images import image_facts, open_image
from spaces_app import pictures
from spaces_app.pictures import Picture, as_png
from spaces_app.viewing import window_sliders
from tests.support.calls import counting_calls
from tests.support.image_files import dicom, grey

ADC = {"RescaleSlope": "0.000001", "RescaleIntercept": "0"}


def test_a_ct_has_steps_of_one_unit_and_no_window_below_1():
    sliders = window_sliders((40, 400), (-1024, 3071))
    assert sliders.levels == (-1024, 3071)
    assert sliders.widths == (1, 4095)
    assert (sliders.step, sliders.format) == (1, "%.2f")


def test_small_values_have_small_steps_and_narrow_windows():
    sliders = window_sliders((0.0011, 0.0016), (0, 0.004))
    assert sliders.levels == (0, 0.004)
    assert sliders.widths == pytest.approx((1e-6, 0.004))
    assert (sliders.step, sliders.format) == (pytest.approx(1e-6), "%.6f")


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-3, 0.1, 1, 3, 100, 4095, 1e6])
@pytest.mark.parametrize("center", [-0.5, 0, 0.5, 2])
@pytest.mark.parametrize("width", [1e-4, 0.5, 1, 50])
def test_the_sliders_hold_the_window_and_more_than_500_steps(scale, center, width):
    center, width = center * scale, width * scale
    sliders = window_sliders((center, width), (0, scale))
    assert sliders.levels[0] <= center <= sliders.levels[1]
    assert sliders.widths[0] <= width <= sliders.widths[1]
    assert 0 < sliders.widths[0] < sliders.widths[1]
    assert 0 < sliders.step <= 1
    assert sliders.levels[1] > sliders.levels[0]
    assert (sliders.widths[1] - sliders.widths[0]) / sliders.step > 500
    assert float(sliders.format % sliders.step) == pytest.approx(sliders.step)


def test_an_image_of_one_value_has_sliders():
    for value, width in ((9, 1), (0, 0.004), (-1000, 1)):
        sliders = window_sliders((value, width), (value, value))
        assert sliders.levels == (value, value + width)
        assert sliders.widths[0] < sliders.widths[1]


def test_one_step_at_a_slider_of_small_values_leaves_a_picture():
    stored = np.linspace(0, 4000, 200).astype(np.uint16).reshape(1, 200)
    data = dicom(stored, WindowCenter="0.0011", WindowWidth="0.0016", **ADC)
    facts = image_facts(data)
    sliders = window_sliders(facts.window, facts.value_range)
    own = grey(open_image(data))[0]
    center, width = facts.window
    for window in ((center + sliders.step, width), (center, width - sliders.step), (center, width + sliders.step)):
        moved = np.array(grey(open_image(data, window=window))[0])
        assert np.abs(moved - own).max() <= 2
        assert len(set(moved.tolist())) > 50
    full = grey(open_image(data, window=(sum(sliders.levels) / 2, sliders.widths[1])))[0]
    assert len(set(full)) > 150


def test_one_image_is_opened_at_a_time(monkeypatch):
    file = as_png(grey_image := Image.new("L", (200, 100), 90).convert("RGB"))
    count, most = counting_calls(open_image, patience=0.2)
    monkeypatch.setattr(pictures, "open_image", count)
    with ThreadPoolExecutor(4) as pool:  # as visits have threads of their own
        shown = [pool.submit(Picture("a", "a.png", file).image) for _ in range(2)]
        small = [pool.submit(Picture("a", "a.png", file).thumbnail) for _ in range(2)]
    assert [one.result().tobytes() for one in shown] == [grey_image.tobytes()] * 2
    assert [one.result()[:4] for one in small] == [b"\x89PNG"] * 2
    assert most == [1] * 4


def test_what_is_drawn_is_made_once_and_no_wider_than_the_page_unless_zoomed():
    picture = Picture("1", "wide.png", as_png(Image.new("L", (3000, 30))))
    draw, calls = counting_calls(picture.image, patience=0)
    for _ in range(2):
        assert Image.open(io.BytesIO(picture.drawn("plain", draw))).size == (pictures.PAGE_WIDTH, 15)
        assert Image.open(io.BytesIO(picture.drawn("plain", draw, is_zoomed=True))).size == (3000, 30)
    assert len(calls) == 2
    picture.drawn("other", draw)
    picture.drawn("plain", draw)
    assert len(calls) == 4  # the last two are kept
