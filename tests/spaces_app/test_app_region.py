"""Zoom, values and regions in the Streamlit app, in a real browser."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from modeling.asking.regions import ask_about_region
from modeling.predictor import Predictor
from processing.images import open_image
from processing.regions import Region
from tests.support.app_page import QUESTION, ask, draw_box, upload
from tests.support.image_files import dicom
from tests.support.layout import boxes

pytestmark = pytest.mark.xdist_group("apps")
ZOOM = "Zoom, read values, and draw a region"


def zoom(page: Page):
    """The zoomed view, once it is drawn."""
    page.get_by_text(ZOOM).click()
    view = page.locator(".js-plotly-plot .nsewdrag")
    view.wait_for()
    return view


def ranges(page: Page) -> list[list[float]]:
    """The columns and rows of the image that are seen."""
    layout = "document.querySelector('.js-plotly-plot')._fullLayout"
    return json.loads(page.evaluate(f"JSON.stringify([{layout}.xaxis.range, {layout}.yaxis.range])"))


def ends(page: Page, name: str) -> list[float]:
    """Both ends of a slider of the region, once they are not those of the whole image."""
    thumbs = page.get_by_role("slider", name=name)
    expect(thumbs.first).not_to_have_attribute("aria-valuetext", re.compile("^0.0"))
    return [float(thumb.input_value()) for thumb in thumbs.all()]


def test_the_values_under_the_pointer_are_those_of_the_file(open_page, runs, tmp_path):
    stored = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    (tmp_path / "scan").write_bytes(dicom(stored, RescaleSlope="1", RescaleIntercept="-1000", Modality="CT"))
    page = open_page(runs("vilt"))
    upload(page, tmp_path / "scan")
    view = zoom(page)
    [place] = boxes(page, view)
    x, y = place["x"] + 10.5 / 64 * place["width"], place["y"] + 20.5 / 64 * place["height"]
    page.mouse.move(x + 30, y)
    page.mouse.move(x, y, steps=5)
    expect(page.locator(".hoverlayer .hovertext")).to_have_text(f"column 11, row 21: {20 * 64 + 10 - 1000}")


def test_the_wheel_zooms_and_the_picture_can_be_moved(open_page, runs, image):
    page = open_page(runs("vilt"))
    upload(page, image)
    view = zoom(page)
    [place] = boxes(page, view)
    whole = ranges(page)
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.mouse.wheel(0, -200)
    page.wait_for_function(f"document.querySelector('.js-plotly-plot')._fullLayout.xaxis.range[1] < {whole[0][1] - 1}")
    (left, right), _ = ranges(page)
    assert right - left < whole[0][1] - whole[0][0]
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] / 2 + 40, place["y"] + place["height"] / 2, steps=4)
    page.mouse.up()
    (moved, _), _ = ranges(page)
    assert moved < left


def test_a_drawn_region_is_asked_about_besides_the_whole_image(open_page, runs, image):
    page = open_page(runs("starter"))
    upload(page, image)
    page.get_by_text("Region", exact=True).click()
    draw_box(page, zoom(page), (0.25, 0.25, 0.75, 0.75))
    left, right = ends(page, "From left to right, percent")
    top, bottom = ends(page, "From top to bottom, percent")
    assert np.abs(np.array([left, right, top, bottom]) - [25, 75, 25, 75]).max() <= 2
    region = Region(left / 100, top / 100, right / 100, bottom / 100)
    expected = ask_about_region(Predictor.from_pretrained(runs("starter")), open_image(image), QUESTION, region)
    ask(page)
    expect(page.locator(".answer")).to_have_text([expected.region.answer, expected.whole.answer])
    expect(page.get_by_text("In the region", exact=True)).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download questions and answers").click()
    told = json.loads(Path(download.value.path()).read_text())[-1]
    assert told["region"] == pytest.approx(region._asdict())
    assert told["answers"][0]["of_region"]["answer"] == expected.region.answer
    page.get_by_role("button", name="Forget the region").click()
    ask(page, "Is this a CT scan?")
    expect(page.locator(".question")).to_have_count(2)
    expect(page.get_by_text("In the region", exact=True)).to_have_count(1)


def test_a_region_can_be_chosen_by_keys_and_is_outlined_on_a_phone_too(open_page, runs, tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "dark.png")
    page = open_page(runs("vilt"), viewport={"width": 390, "height": 844})
    upload(page, tmp_path / "dark.png")
    page.get_by_text("Region", exact=True).click()
    thumbs = page.get_by_role("slider", name="From left to right, percent")
    thumbs.first.focus()
    thumbs.first.press("PageUp")
    outlined = page.get_by_alt_text("The chosen image, dark.png; a region is outlined")
    expect(outlined).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_region_that_is_too_small_is_one_sentence(open_page, runs, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "small.png")
    page = open_page(runs("vilt"))
    upload(page, tmp_path / "small.png")
    page.get_by_text("Region", exact=True).click()
    draw_box(page, zoom(page), (0.4, 0.4, 0.5, 0.5))
    ends(page, "From left to right, percent")
    ask(page)
    expect(page.get_by_text("The region has fewer than 8 pixels on a side; draw a larger one.")).to_be_visible()
