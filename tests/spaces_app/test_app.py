"""spaces_app.app in a real browser: Debian's chromium against a real Streamlit server."""

import io
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from PIL import Image
from playwright.sync_api import expect

from modeling.predictor import Predictor
from spaces_app.content import DISCLAIMER, FIRST_QUESTION, NOT_SEEN, UNLIKE_TRAINING, what_is_seen
from tests.support.app_page import QUESTION, ask, confidence, upload, upload_table
from tests.support.evidence import surer_starter
from tests.support.image_files import dicom
from tests.support.layout import boxes

pytestmark = pytest.mark.xdist_group("apps")


def test_the_page_is_there_before_the_model(browser, serve, runs):
    page = browser.new_page()
    page.goto(serve(runs("vilt")))
    expect(page.get_by_role("heading", name="Ask about a medical image")).to_be_visible()
    expect(page.get_by_text(re.compile("Loading|Ready: "))).to_be_visible()
    expect(page.get_by_text(DISCLAIMER)).to_be_visible()
    page.close()


@pytest.mark.parametrize("width", [1600, 1280, 390])
def test_the_disclaimer_stands_under_the_page(open_page, runs, width):
    page = open_page(runs("vilt"), viewport={"width": width, "height": 800})
    title, disclaimer = boxes(
        page, page.get_by_role("heading", name="Ask about a medical image"), page.get_by_text(DISCLAIMER)
    )
    assert disclaimer["x"] == title["x"]
    assert 0 < 800 - disclaimer["y"] - disclaimer["height"] < 20


def test_a_question_about_an_uploaded_image_gets_the_model_s_answer(open_page, runs, image):
    expected = Predictor.from_pretrained(runs("vilt")).answer(str(image), QUESTION)
    page = open_page(runs("vilt"))
    upload(page, image)
    expect(page.get_by_alt_text("The chosen image, source.jpg")).to_be_visible()
    expect(page.get_by_text("JPEG, 96 x 96 pixels")).to_be_visible()
    ask(page)
    expect(page.locator(".answer")).to_have_text(expected.answer)
    expect(confidence(page)).to_have_text(f"Confidence {expected.confidence:.0%}")
    chart = page.get_by_label("Confidence of the other answers")
    for other in expected.alternatives[:4]:
        expect(chart.first).to_have_attribute("aria-label", re.compile(re.escape(other.answer)))
    unsure = page.get_by_text("The model is unsure")
    expect(unsure).to_have_count(int(expected.confidence < 0.5))


def test_a_silent_model_says_below_which_confidence_it_is(open_page, runs, image, tmp_path):
    folder = shutil.copytree(runs("vilt"), tmp_path / "silent")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"answer_threshold": 0.98}))
    page = open_page(folder)
    upload(page, image)
    ask(page)
    expect(page.locator(".answer")).to_have_text("(silent)")
    expect(page.get_by_text("The model gives no answer below a confidence of 98%")).to_be_visible()


def test_a_question_unlike_the_training_has_a_note_beside_its_answer(open_page, runs, image):
    page = open_page(runs("vilt"))
    upload(page, image)
    ask(page)
    expect(confidence(page)).to_be_visible()
    note = page.get_by_text(UNLIKE_TRAINING)
    expect(note).to_have_count(0)
    ask(page, "Which drug should I give?")
    expect(page.locator(".question")).to_have_count(2)
    expect(note).to_have_count(1)
    expect(note).to_be_visible()


def test_the_conversation_belongs_to_its_image_and_can_be_taken_home(open_page, runs, image):
    page = open_page(runs("vilt"))
    page.get_by_role("radio", name="Examples").click()
    page.get_by_role("button", name="Head MRI", exact=True).click()
    expect(page.get_by_alt_text("The chosen image, Head MRI")).to_be_visible()
    ask(page, "Is this an MRI?")
    expect(page.locator(".question")).to_have_text(["Is this an MRI?"])
    page.get_by_role("button", name="Does this image look normal?").or_(
        page.get_by_role("button", name="What modality")
    ).first.click()
    expect(page.locator(".question")).to_have_count(2)
    page.get_by_role("button", name="Chest X-ray", exact=True).click()
    expect(page.get_by_alt_text("The chosen image, Chest X-ray")).to_be_visible()
    expect(page.locator(".question")).to_have_count(0)
    page.get_by_role("radio", name="Files").click()
    expect(page.get_by_text("Choose an image")).to_be_visible()
    page.get_by_role("radio", name="Examples").click()
    page.get_by_role("button", name="Head MRI", exact=True).click()
    expect(page.get_by_alt_text("The chosen image, Head MRI")).to_be_visible()
    expect(page.locator(".question")).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download questions and answers").click()
    told = json.loads(Path(download.value.path()).read_text())
    told = [turn for turn in told if turn["question"] != FIRST_QUESTION]  # the app's own, where it was answered
    assert [turn["image"] for turn in told] == ["Head MRI"] * 2
    assert told[0]["question"] == "Is this an MRI?"
    assert len(told[0]["answers"][0]["alternatives"]) == 4


def test_markup_in_a_question_is_text(open_page, runs, image):
    page = open_page(runs("vilt"))
    upload(page, image)
    ask(page, "<b id=bad>Is</b> **this** a $CT$?")
    expect(page.locator(".question")).to_have_text("<b id=bad>Is</b> **this** a $CT$?")
    expect(page.locator("#bad")).to_have_count(0)


ODD_NAMES = (
    "**x**![](http://e/x.png).png",
    "<img src=x onerror=alert(1)>.png",
    ":red[x] :smile: $x^2$ www.e.example a@e.example &lt; `x` ~~x~~ # [x](http://e).png",
)


def test_markup_in_names_of_files_is_text(open_page, runs, image):
    page = open_page(runs("vilt"))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    good = [{"name": name, "mimeType": "image/png", "buffer": image.read_bytes()} for name in ODD_NAMES]
    upload(page, *good)
    expect(page.get_by_alt_text("Thumbnail of")).to_have_count(3)
    shown = [text.replace("\u200b", "") for text in page.locator("button").all_inner_texts()]
    assert set(ODD_NAMES) <= set(shown)
    bad = [{"name": name, "mimeType": "image/png", "buffer": b"no image"} for name in ODD_NAMES]
    for number, file in enumerate(bad):
        page.reload()
        page.get_by_text("Ready: ").wait_for()
        upload(page, file)
        expect(page.get_by_role("alert")).to_contain_text(f"Cannot open '{ODD_NAMES[number]}'")
    page.get_by_role("tab", name="Many at once").click()
    upload_table(page, good[0], {"name": f"{ODD_NAMES[1]}.csv", "mimeType": "text/csv", "buffer": b"q"})
    page.get_by_role("button", name="Answer all").click()
    expect(page.get_by_text(f"{ODD_NAMES[1]}.csv: there is no column question")).to_be_visible()
    assert page.locator("[data-testid=stMain] :is(a[href^=http], strong, code, del, .katex, img[src=x])").count() == 0
    assert not [url for url in asked if "//e" in url or url.endswith("/x")]


def test_the_heat_map_lies_over_the_image(open_page, runs, image):
    page = open_page(runs("vilt"))
    upload(page, image)
    ask(page)
    expect(confidence(page)).to_be_visible()
    plain = page.get_by_alt_text("The chosen image").evaluate("e => e.src")
    page.get_by_text("What moved the answer", exact=True).click()
    heat = page.get_by_alt_text("with a heat map of what moved the answer")
    expect(heat).to_be_visible()
    half = heat.evaluate("e => e.src")
    assert half != plain
    slider = page.get_by_role("slider", name="Opacity of the map")
    slider.press("End")
    expect(heat).not_to_have_attribute("src", half)


def test_a_dicom_file_is_shown_in_its_window_and_without_the_patient(open_page, runs, tmp_path):
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    dataset.PatientName, dataset.PatientID = "Secret^Jane", "4711-secret"
    dataset.save_as(tmp_path / "scan")
    page = open_page(runs("vilt"))
    upload(page, tmp_path / "scan")
    expect(page.get_by_text("DICOM, 128 x 128 pixels")).to_be_visible()
    expect(page.get_by_text("Modality: CT")).to_be_visible()
    picture = page.get_by_alt_text("The chosen image, scan")
    before = picture.evaluate("e => e.src")
    page.get_by_text("Window and level").click()
    page.get_by_role("slider", name="Window (width)").press("Home")
    expect(picture).not_to_have_attribute("src", before)
    ask(page)
    expect(confidence(page)).to_be_visible()
    assert "ecret" not in page.content()
    expect(page.get_by_text("Nothing about the patient in a DICOM header is read or shown")).to_be_visible()
    expect(page.get_by_text("burnt into the pixels").first).to_be_visible()


def test_a_map_of_small_values_stays_a_picture_when_its_window_is_moved(open_page, runs, tmp_path):
    stored = np.linspace(0, 4000, 64 * 64).astype(np.uint16).reshape(64, 64)
    header = {"RescaleSlope": "0.000001", "RescaleIntercept": "0"}
    (tmp_path / "adc").write_bytes(dicom(stored, WindowCenter="0.0011", WindowWidth="0.0016", **header))
    page = open_page(runs("vilt"))
    upload(page, tmp_path / "adc")
    picture = page.get_by_alt_text("The chosen image, adc")
    before = picture.evaluate("e => e.src")
    page.get_by_text("Window and level").click()
    for name, now in (("Level (centre)", "0.00110"), ("Window (width)", "0.00160")):
        slider = page.get_by_role("slider", name=name)
        assert (slider.get_attribute("aria-valuetext") or "").startswith(now)
        slider.press("ArrowRight")
        expect(picture).not_to_have_attribute("src", before)
        before = picture.evaluate("e => e.src")
    moved = Image.open(io.BytesIO(page.request.get(picture.evaluate("e => e.src")).body()))
    assert len(moved.convert("L").getcolors()) > 50


def test_a_long_thin_image_is_answered_and_has_a_heat_map(open_page, runs, tmp_path):
    Image.effect_noise((2100, 100), 60).save(tmp_path / "ecg.png")
    page = open_page(runs("vilt"))
    upload(page, tmp_path / "ecg.png")
    expect(page.get_by_text("PNG, 2100 x 100 pixels")).to_be_visible()
    ask(page)
    expect(confidence(page)).to_be_visible()
    page.get_by_text("What moved the answer", exact=True).click()
    expect(page.get_by_alt_text("with a heat map of what moved the answer")).to_be_visible()


def test_a_series_is_a_strip_to_choose_from(open_page, runs, phantoms):
    page = open_page(runs("vilt"))
    files = sorted((phantoms / "imgs").glob("*/source.jpg"))[:3]
    upload(
        page, *({"name": f"{n}.jpg", "mimeType": "image/jpeg", "buffer": f.read_bytes()} for n, f in enumerate(files))
    )
    expect(page.get_by_alt_text(re.compile("Thumbnail of"))).to_have_count(3)
    page.get_by_role("button", name="2.jpg", exact=True).click()
    expect(page.get_by_alt_text("The chosen image, 2.jpg")).to_be_visible()


def test_a_bad_file_is_one_sentence(open_page, runs, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no image")
    page = open_page(runs("vilt"))
    upload(page, tmp_path / "bad.png")
    expect(page.get_by_text("Cannot open 'bad.png'")).to_be_visible()
    expect(page.get_by_text("Traceback")).to_have_count(0)


@pytest.mark.parametrize("other", ["llama", "smolvlm"])
def test_two_models_stand_side_by_side_and_differences_are_marked(open_page, runs, image, other):
    page = open_page(runs(other), runs("vilt"))  # the first of them has its heat map shown
    upload(page, image)
    found = [Predictor.from_pretrained(runs(name)).answer(str(image), QUESTION) for name in (other, "vilt")]
    ask(page)
    expect(page.locator(".answer")).to_have_text([one.answer for one in found])
    expect(page.locator(".model")).to_have_text([other, "vilt"])
    expect(page.locator(".seen")).to_have_text([what_is_seen(one.evidence) for one in found])
    expect(page.get_by_text("The models differ")).to_have_count(int(found[0].answer != found[1].answer))
    page.get_by_text("What moved the answer", exact=True).click()
    expect(page.get_by_alt_text("with a heat map of what moved the answer")).to_be_visible()


def test_evidence_is_outlined_and_named_and_can_be_taken_home(open_page, runs, image, tmp_path):
    finds, blind = (surer_starter(runs("starter"), tmp_path / f"{logits}", logits) for logits in (10, -10))
    expected = [Predictor.from_pretrained(model).answer(str(image), QUESTION).evidence for model in (finds, blind)]
    [found] = expected[0].boxes
    name = f"{found.label} ({found.probability:.0%})"
    page = open_page(finds, blind)
    upload(page, image)
    ask(page)
    expect(page.locator(".seen")).to_contain_text([f"Seen: {name}.", NOT_SEEN])
    outlined = page.get_by_alt_text(f"The chosen image, source.jpg, with outlines: {name}")
    expect(outlined).to_be_visible()
    shown = Image.open(io.BytesIO(page.request.get(outlined.evaluate("e => e.src")).body()))
    lines = np.array([shown.getpixel((360, y)) for y in (719, 714)])  # a dark one around a bright one, of a JPEG
    assert np.abs(lines - [(16, 24, 27), (255, 210, 63)]).max() < 30
    plain = page.get_by_alt_text("The chosen image, source.jpg", exact=True)
    for choice, picture in (
        ("Evidence map", page.get_by_alt_text("with a map of what the model finds")),
        ("What moved the answer", page.get_by_alt_text("with a heat map of what moved the answer")),
        ("Nothing", plain),
        ("Evidence", outlined),
    ):
        page.get_by_text(choice, exact=True).click()
        expect(picture).to_be_visible()
    page.get_by_label("Model shown over the image").click()
    page.get_by_role("option", name="-10").click()
    expect(plain).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download questions and answers").click()
    answers = json.loads(Path(download.value.path()).read_text())[-1]["answers"]
    box = asdict(found) | {"box": list(found.box)}
    told = [{"boxes": boxes, "contradicts": one.contradicts} for boxes, one in zip(([box], []), expected, strict=True)]
    assert [answer["evidence"] for answer in answers] == told


def test_nothing_is_wider_than_a_phone(open_page, runs, image):
    page = open_page(runs("vilt"), viewport={"width": 390, "height": 844})
    upload(page, image)
    ask(page)
    expect(confidence(page)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    drawn = [box for box in boxes(page, *page.locator("button").all()) if box]
    assert drawn
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in drawn)


def test_about_tells_the_figures_of_the_card(open_page, runs):
    page = open_page(runs("vilt"))
    page.get_by_role("tab", name="About the model").click()
    expect(page.get_by_text("license: ")).to_be_visible()
    expect(page.get_by_text("a high confidence promises nothing")).to_be_visible()


def test_a_model_that_is_not_there_is_one_sentence(browser, serve, tmp_path):
    page = browser.new_page()
    page.goto(serve(tmp_path / "nothing here"))
    expect(page.get_by_text("there is no such folder")).to_be_visible()
    page.close()
