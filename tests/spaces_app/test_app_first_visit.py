"""What a visitor of the Streamlit app sees first, in a real browser."""

import re
import time

import pytest
from playwright.sync_api import expect

from modeling.hub.card_facts import read_card_facts
from modeling.predictor import Predictor
from spaces_app.answers import LEAST_SHOWN
from spaces_app.content import FIRST_EXAMPLE, FIRST_QUESTION, example_images
from tests.support.app_page import QUESTION, ask, confidence, upload
from tests.support.app_server import SECONDS, serve_app
from tests.support.proxy import behind_proxy

pytestmark = pytest.mark.xdist_group("apps")


def test_an_example_is_open_and_its_question_answered_with_evidence(open_page, runs):
    image = str(dict(example_images())[FIRST_EXAMPLE])
    expected = Predictor.from_pretrained(runs("vilt")).answer(image, FIRST_QUESTION)
    page = open_page(runs("vilt"))
    expect(page.get_by_alt_text(f"The chosen image, {FIRST_EXAMPLE}")).to_be_visible()
    expect(page.locator(".question")).to_have_text(FIRST_QUESTION)
    expect(page.locator(".answer")).to_have_text(expected.answer)
    page.get_by_role("radio", name="Examples").click()
    page.get_by_role("button", name="Chest CT", exact=True).click()
    expect(page.get_by_alt_text("The chosen image, Chest CT")).to_be_visible()
    expect(page.locator(".question")).to_have_count(0)  # the app asks about one example


def test_a_question_that_is_asked_while_the_model_loads_is_shown_and_then_answered(browser, runs, tmp_path):
    with serve_app(tmp_path / "log", str(runs("vilt"))) as address, behind_proxy(address, "198.51.100.7") as url:
        page = browser.new_page()
        page.goto(url)
        page.get_by_placeholder("Ask about the image").wait_for()
        ask(page, "Is this a CT scan?")
        question = page.locator(".question", has_text="Is this a CT scan?")
        expect(question).to_be_visible()
        expect(confidence(page).first).to_be_visible()
        expect(question).to_be_visible()
        page.close()


def test_the_model_is_there_before_a_visitor_comes(browser, runs, tmp_path):
    log = tmp_path / "log"
    with serve_app(log, str(runs("vilt"))) as address:
        end = time.monotonic() + SECONDS
        while f"Loaded {runs('vilt')} in " not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        page = browser.new_page()
        page.goto(address)
        expect(page.get_by_text("Ready: ")).to_be_visible()
        page.close()


def test_the_model_s_figures_stand_under_the_title(open_page, runs):
    results = {result.figure.key: result for result in read_card_facts(runs("vilt")).results}
    page = open_page(runs("vilt"))
    exact = results["exact_match"]
    line = page.get_by_text("Exact match ")
    expect(line).to_contain_text(f"Exact match {exact.value} % on {exact.split} ({exact.questions} questions)")
    expect(line).to_contain_text(f"calibration error {results['calibration_error'].value} %")


def test_other_answers_are_drawn_from_two_percent(open_page, runs, image):
    expected = Predictor.from_pretrained(runs("vilt")).answer(str(image), QUESTION)
    likely = [other for other in expected.alternatives[:4] if other.confidence >= LEAST_SHOWN]
    page = open_page(runs("vilt"))
    upload(page, image)
    ask(page)
    expect(confidence(page)).to_be_visible()
    chart = page.get_by_label("Confidence of the other answers")
    if not likely:
        expect(chart).to_have_count(0)
        return
    told = chart.first.get_attribute("aria-label") or ""
    assert re.findall(r"([\d.]+)%", told) == [f"{100 * other.confidence:.1f}" for other in likely]


def test_the_page_asks_no_other_host(open_page, runs, image):
    page = open_page(runs("vilt"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.get_by_text("Ready: ").wait_for()
    upload(page, image)
    ask(page)
    expect(confidence(page)).to_be_visible()
    page.get_by_text("Zoom, read values, and draw a region").click()
    page.locator(".js-plotly-plot").wait_for()
    page.get_by_role("tab", name="About the model").click()
    host = page.url.split("/")[2]
    assert asked
    assert not [url for url in asked if not url.startswith(("data:", "blob:")) and url.split("/")[2] != host]
