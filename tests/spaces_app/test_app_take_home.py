"""Corrections and reports of a visit to the Streamlit app, in a real browser."""

import json
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from modeling.predictor import Predictor
from spaces_app.content import DISCLAIMER
from tests.support.app_page import QUESTION, ask, confidence, upload

pytestmark = pytest.mark.xdist_group("apps")


def download(page, button: str) -> Path:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    return Path(waiting.value.path())


@pytest.fixture
def answered(open_page, runs, image):
    page = open_page(runs("vilt"))
    upload(page, image)
    ask(page)
    expect(confidence(page)).to_be_visible()
    return page


def test_a_correction_becomes_a_row_with_its_image(answered, runs, image):
    page = answered
    expect(page.get_by_role("button", name="Corrections to train on")).to_have_count(0)
    page.get_by_text("Right or wrong?").click()
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_text("There is no right answer yet")).to_be_visible()
    page.get_by_role("textbox", name="Another answer").fill("**Angiography** :red[x]")
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_text("Kept for this visit")).to_be_visible()
    expect(page.locator("[data-testid=stExpander] strong")).to_have_count(0)
    with zipfile.ZipFile(download(page, "Corrections to train on")) as archive:
        [row] = json.loads(archive.read("rows.json"))
        assert row["question"] == QUESTION
        assert row["answer"] == "**Angiography** :red[x]"
        assert row["verdict"] == "wrong"
        assert row["predicted"] == Predictor.from_pretrained(runs("vilt")).answer(str(image), QUESTION).answer
        assert row["image"] in archive.namelist()
    page.get_by_text("Corrections with the images").click()
    with zipfile.ZipFile(download(page, "Corrections to train on")) as archive:
        assert not [name for name in archive.namelist() if name.startswith("images/")]
        assert json.loads(archive.read("rows.json"))[0]["image"] == "source.jpg"


def test_a_right_answer_is_a_row_too(answered, runs, image):
    answer = Predictor.from_pretrained(runs("vilt")).answer(str(image), QUESTION).answer
    page = answered
    page.get_by_text("Right or wrong?").click()
    page.get_by_role("radiogroup", name="The right answer").get_by_text(answer, exact=True).click()
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_text(f"Your answer: {answer}")).to_be_visible()
    with zipfile.ZipFile(download(page, "Corrections to train on")) as archive:
        [row] = json.loads(archive.read("rows.json"))
    assert (row["answer"], row["verdict"]) == (answer, "right")


def test_the_report_has_what_was_asked_in_html_and_pdf(answered):
    page = answered
    html = download(page, "Report (HTML)").read_text()
    assert QUESTION in html
    assert DISCLAIMER.split(":")[0] in html
    assert "source.jpg" in html
    from pypdf import PdfReader

    pages = PdfReader(download(page, "Report (PDF)")).pages
    texts = [" ".join(page.extract_text().split()) for page in pages]
    assert any(QUESTION in text for text in texts)
    assert all(DISCLAIMER.split(":")[0] in text for text in texts)
