"""Stacks of slices, windows and several slices at once in the Streamlit app, in a real browser."""

import gzip
import io
import re

import nibabel
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from modeling.predictor import Predictor
from processing.image_source import ImageBytes
from processing.images import open_image
from tests.support.app_page import QUESTION, ask, confidence, upload
from tests.support.image_files import dicom

pytestmark = pytest.mark.xdist_group("apps")


def shown(page, picture) -> Image.Image:
    """The pixels of the picture on the page."""
    return Image.open(io.BytesIO(page.request.get(picture.evaluate("e => e.src")).body())).convert("L")


@pytest.fixture(scope="module")
def volume() -> bytes:
    """A CT of 12 slices: air, and in it a body whose value is 10 times the slice's number from 1."""
    values = np.full((48, 48, 12), -1000, np.int16)
    for number in range(12):
        values[8:40, 8:40, number] = 10 * (number + 1)
    return gzip.compress(nibabel.Nifti1Image(values, np.eye(4)).to_bytes())


@pytest.fixture
def stack(open_page, runs, volume):
    page = open_page(runs("vilt"))
    upload(page, {"name": "ct.nii.gz", "mimeType": "application/gzip", "buffer": volume})
    return page


def test_a_stack_opens_in_the_middle_and_its_slider_goes_through_it(stack, volume):
    page = stack
    expect(page.get_by_text("NIfTI, 48 x 48 pixels · slice 6 of 12")).to_be_visible()
    slider = page.get_by_role("slider", name="Slice")
    slider.press("ArrowRight")
    expect(page.get_by_text("slice 7 of 12")).to_be_visible()
    slider.press("End")
    expect(page.get_by_text("slice 12 of 12")).to_be_visible()


def test_the_mouse_wheel_goes_through_a_stack_and_stops_at_its_ends(stack):
    page = stack
    picture = page.get_by_alt_text("The chosen image, ct.nii.gz")
    picture.hover()
    page.mouse.wheel(0, 100)
    expect(page.get_by_text("slice 7 of 12")).to_be_visible()
    page.mouse.wheel(0, -300)
    expect(page.get_by_text("slice 4 of 12")).to_be_visible()
    page.mouse.wheel(0, 9000)
    expect(page.get_by_text("slice 12 of 12")).to_be_visible()
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == 0  # the page stood still


def test_a_question_is_about_the_slice_that_is_shown(stack, runs, volume):
    expected = Predictor.from_pretrained(runs("vilt")).answer(ImageBytes(volume, "ct.nii.gz", 9), QUESTION)
    page = stack
    for _ in range(3):
        page.get_by_role("slider", name="Slice").press("ArrowRight")
    expect(page.get_by_text("slice 9 of 12")).to_be_visible()
    ask(page)
    expect(page.locator(".answer")).to_have_text(expected.answer)
    expect(confidence(page)).to_have_text(f"Confidence {expected.confidence:.0%}")
    page.get_by_role("slider", name="Slice").press("ArrowRight")
    expect(page.get_by_text("slice 10 of 12")).to_be_visible()
    expect(page.get_by_text("slice 9 of 12", exact=True)).to_be_visible()  # what the answer is about


def test_up_to_nine_slices_are_asked_at_once(stack, runs, volume):
    numbers = [1, 3, 4, 5, 7, 8, 9, 11, 12]  # the middle of each ninth of twelve
    predictor = Predictor.from_pretrained(runs("vilt"))
    answers = [predictor.answer(ImageBytes(volume, "ct.nii.gz", number), QUESTION).answer for number in numbers]
    most = max(set(answers), key=answers.count)
    page = stack
    page.get_by_text("Ask about 9 slices at once").click()
    expect(page.get_by_text("Slices 1, 3, 4, 5, 7, 8, 9, 11, 12.")).to_be_visible()
    ask(page)
    expect(page.get_by_text(f"{answers.count(most)} of 9 slices say so.")).to_be_visible()
    expect(page.locator(".answer")).to_have_text(most)
    expect(page.get_by_text("Waiting for the model")).to_have_count(0)
    expect(page.get_by_text("which report and corrections lack")).to_have_count(0)
    expect(page.get_by_text("Right or wrong?")).to_have_count(0)  # no single image is what was asked about


def test_presets_of_ct_and_inversion_change_what_is_seen(stack, volume):
    page = stack
    picture = page.get_by_alt_text("The chosen image, ct.nii.gz")
    page.get_by_text("Window and level").click()
    before = picture.evaluate("e => e.src")
    page.get_by_role("button", name="Lung", exact=True).or_(page.get_by_role("radio", name="Lung", exact=True)).click()
    expect(picture).not_to_have_attribute("src", before)
    expect(page.get_by_text("level -600, window 1500")).to_be_visible()
    lung = open_image(ImageBytes(volume, "ct.nii.gz", 6), window=(-600, 1500)).convert("L")
    assert np.array_equal(np.asarray(shown(page, picture)), np.asarray(lung))
    before = picture.evaluate("e => e.src")
    page.get_by_text("Inverted", exact=True).click()
    expect(picture).not_to_have_attribute("src", before)
    assert np.array_equal(np.asarray(shown(page, picture)), 255 - np.asarray(lung))


def test_a_photograph_has_percentile_windows_and_none_of_ct(open_page, runs, tmp_path):
    values = np.linspace(40, 200, 64 * 64).astype(np.uint8).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "xray.png")
    page = open_page(runs("vilt"))
    upload(page, tmp_path / "xray.png")
    page.get_by_text("Window and level").click()
    expect(page.get_by_text("All values", exact=True)).to_be_visible()
    expect(page.get_by_text("Lung", exact=True)).to_have_count(0)
    picture = page.get_by_alt_text("The chosen image, xray.png")
    before = picture.evaluate("e => e.src")
    page.get_by_text("All values", exact=True).click()
    expect(picture).not_to_have_attribute("src", before)
    assert shown(page, picture).getextrema() == (0, 255)


def test_the_files_of_a_series_are_one_stack_in_their_order_and_others_stay_apart(open_page, runs):
    def file(name: str, level: int, position: int, series: str) -> dict:
        header = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, position]}
        pixels = np.full((16, 16), level, np.uint8)
        data = dicom(pixels, SeriesInstanceUID=series, WindowCenter="127.5", WindowWidth="255", **header)
        return {"name": name, "mimeType": "application/dicom", "buffer": data}

    page = open_page(runs("vilt"))
    mixed = [file("a.dcm", 30, 9, "1.2"), file("b.dcm", 20, 5, "1.2"), file("c.dcm", 10, 1, "1.2")]
    upload(page, *mixed, file("other.dcm", 200, 0, "1.3"))
    expect(page.get_by_alt_text(re.compile("Thumbnail of"))).to_have_count(2)
    picture = page.get_by_alt_text(re.compile("^The chosen image, c.dcm to a.dcm"))
    expect(page.get_by_text("slice 2 of 3")).to_be_visible()
    slider = page.get_by_role("slider", name="Slice")
    levels = []
    for key, number in (("Home", 1), ("ArrowRight", 2), ("ArrowRight", 3)):
        slider.press(key)
        expect(page.get_by_text(f"slice {number} of 3")).to_be_visible()
        levels.append(shown(page, picture).getpixel((8, 8)))
    assert levels == [10, 20, 30]
