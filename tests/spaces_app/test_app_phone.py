"""A whole visit to the Streamlit app on a phone, in a real browser."""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from spaces_app.content import FIRST_EXAMPLE, FIRST_QUESTION
from tests.support.app_page import QUESTION, ask, upload

pytestmark = pytest.mark.xdist_group("apps")
WIDTH = 390


@pytest.fixture
def phone(open_page, runs) -> Page:
    return open_page(runs("vilt"), viewport={"width": WIDTH, "height": 844}, has_touch=True)


@pytest.fixture
def stack() -> dict:
    """A CT of 6 slices of noise."""
    values = np.random.default_rng(0).integers(-1000, 400, (32, 32, 6)).astype(np.int16)
    data = gzip.compress(nibabel.Nifti1Image(values, np.eye(4)).to_bytes())
    return {"name": "ct.nii.gz", "mimeType": "application/gzip", "buffer": data}


def fits(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth") <= WIDTH


def test_the_example_is_open_and_answered(phone):
    expect(phone.get_by_alt_text(f"The chosen image, {FIRST_EXAMPLE}")).to_be_visible()
    expect(phone.locator(".question")).to_have_text(FIRST_QUESTION)
    expect(phone.locator(".answer")).to_be_visible()
    assert fits(phone)


def test_a_stack_is_read_asked_about_corrected_and_taken_home(phone, stack):
    upload(phone, stack)
    phone.get_by_role("slider", name="Slice").press("End")
    expect(phone.get_by_text("slice 6 of 6")).to_be_visible()
    phone.get_by_text("Window and level").click()
    phone.get_by_role("button", name="Bone", exact=True).or_(
        phone.get_by_role("radio", name="Bone", exact=True)
    ).click()
    expect(phone.get_by_text("level 400, window 1800")).to_be_visible()
    phone.get_by_text("Zoom, read values, and draw a region").click()
    expect(phone.locator(".js-plotly-plot .nsewdrag")).to_be_visible()
    assert fits(phone)
    phone.get_by_text("Ask about 6 slices at once").click()
    ask(phone)
    expect(phone.get_by_text("of 6 slices say so.")).to_be_visible()
    assert fits(phone)
    phone.get_by_text("Ask about 6 slices at once").click()
    ask(phone, "Is this a CT scan?")
    expect(phone.get_by_text("slice 6 of 6 · level 400, window 1800", exact=True)).to_be_visible()
    phone.get_by_text("Right or wrong?").click()
    phone.get_by_role("textbox", name="Another answer").fill("Noise")
    phone.get_by_role("button", name="Keep").click()
    expect(phone.get_by_text("Your answer: Noise")).to_be_visible()
    expect(phone.get_by_role("button", name="Corrections to train on")).to_be_visible()
    assert fits(phone)
    with phone.expect_download() as download:
        phone.get_by_role("button", name="Download questions and answers").click()
    several, single = json.loads(Path(download.value.path()).read_text())[-2:]
    assert several["question"] == QUESTION
    assert [one["slice"] for one in several["answers"][0]["slices"]] == [1, 2, 3, 4, 5, 6]
    assert (single["slice"], single["window"], single["right_answer"]) == (6, [400, 1800], "Noise")
