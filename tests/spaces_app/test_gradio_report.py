"""The Gradio app's report: what stands in it, its files, what it counts as, and how long it can be made."""

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pydicom.data
import pytest
from PIL import Image
from pypdf import PdfReader

from modeling.parts.evidence import Detection, Evidence
from modeling.predictor import Alternative, Answer, Predictor
from processing.windows import CT_WINDOWS, OWN
from spaces_app import gradio_app, gradio_view
from spaces_app.content import DISCLAIMER, QUESTION_CUT, UNLIKE_TRAINING, what_is_seen
from spaces_app.gradio_report import Asked, as_shown, reported, write_report
from spaces_app.gradio_view import View, open_view
from spaces_app.limits import Limit
from tests.support.calls import counting_calls
from tests.support.gradio_server import serve_gradio, uploaded_file
from tests.support.image_files import encoded

pytestmark = pytest.mark.xdist_group("gradio")
QUESTION = "Is this a <b>CT</b> scan?"
NAME = "Jane Secret.png"
GONE = "The answer is no longer kept; ask again."
NO_EDGES = (None,) * 4


@pytest.fixture(scope="module")
def predictor(trained):
    predictor = Predictor.from_pretrained(trained, dtype="float32")
    predictor.commit = "0123abcd"
    return predictor


@pytest.fixture(scope="module")
def app(predictor, tmp_path_factory):
    """The page, which looks for what may go all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradio_app, "FORGET_SECONDS", 0.05)
        with serve_gradio(predictor, tmp_path_factory.mktemp("uploads"), MODEL_ID="lab/vqa") as page:
            yield page


@pytest.fixture
def uploaded(url, image):
    """An uploaded image, as calls name it."""
    return uploaded_file(url, image, NAME)


def call(app, name: str, data: list, session: str) -> str:
    """Calls a function as the page does; all that the server says of it."""
    number = next(entry["id"] for entry in app.config["dependencies"] if entry["api_name"] == name)
    url = app.local_url.rstrip("/")
    body = {"data": data, "fn_index": number, "session_hash": session}
    assert httpx.post(f"{url}/gradio_api/queue/join", json=body).status_code == 200
    return httpx.get(f"{url}/gradio_api/queue/data", params={"session_hash": session}, timeout=60).text


def ask(app, uploaded: dict, session: str) -> None:
    assert "image.webp" in call(app, "ask_on_page", [uploaded, QUESTION, 1, OWN, False, *NO_EDGES], session)


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def text_of(pdf: bytes) -> str:
    return " ".join(" ".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages).split())


# What stands in it ---------------------------------------------------------------------------------------------------


def about(data: bytes, whole: Answer, view: View = View(), edges=NO_EDGES, of_region: Answer | None = None):  # noqa: B008
    return reported(data, Asked("unused", view, edges, QUESTION, whole, of_region), threshold=0.4)


def test_the_picture_is_as_it_was_seen():
    first, *others = (Image.linear_gradient("L").rotate(angle) for angle in (0, 90, 180))
    data = encoded(first, "TIFF", save_all=True, append_images=others)
    evidence = Evidence(((0.9,),), (Detection("Liver", 0.9, (0.25, 0.25, 0.5, 0.5)),), False)
    view, edges = View(3, percentiles=(25, 99.5), inverted=True), (10, 20, 60, 70)
    question = about(data, Answer("Yes", 0.8, evidence=evidence), view, edges, Answer("No", 0.7))
    np.testing.assert_array_equal(question.picture, as_shown(open_view(data, view), evidence, edges))
    assert question.picture.getpixel((72, 300)) == (255, 255, 255)  # the left edge of the region
    assert question.details == (
        "TIFF, 256 x 256 pixels · slice 3 of 3 · window from percentile 25 to 99.5 · inverted · "
        "Region: 10 to 60 % across, 20 to 70 % down"
    )


def test_window_and_facts_of_a_dicom_file_are_told_without_its_patient():
    data = Path(pydicom.data.get_testdata_file("CT_small.dcm")).read_bytes()
    question = about(data, Answer("Yes", 0.8), View(window=CT_WINDOWS["Bone"]))
    assert question.image_name == "The uploaded image"
    assert question.details.startswith("DICOM, 128 x 128 pixels · level 400, window 1800 · Modality: CT")
    assert "CompressedSamples" not in question.details


def test_what_the_page_says_of_an_answer_stands_below_it(image):
    data = image.read_bytes()
    evidence = Evidence(((0.9,),), (Detection("Liver", 0.9, (0.25, 0.25, 0.5, 0.5)),), False)
    unsure = Answer("", 0.3, (Alternative("No", 0.25),), True, False, evidence, True)
    [answer] = about(data, unsure, edges=(10, 20, 60, 70), of_region=Answer("Left", 0.7)).answers
    assert (answer.answer, answer.confidence, answer.others) == ("(no answer)", 0.3, (("No", 0.25),))
    assert answer.lines == (
        "In the region: Left (70%). In the whole image: as above.",
        "The model is unsure.",
        QUESTION_CUT,
        UNLIKE_TRAINING,
        "Seen: Liver (90%).",
    )
    [answer] = about(data, Answer("", 0.3, silent=True)).answers
    assert answer.answer == "(silent)"
    assert answer.lines == (
        "The model gives no answer below a confidence of 40%: too many such answers were wrong in validation.",
    )
    assert about(data, Answer("Yes", 0.8)).answers[0].lines == ()


def test_a_model_in_a_folder_is_named_without_the_folders_above_it(image, predictor, tmp_path, monkeypatch):
    (tmp_path / "above" / "demo").mkdir(parents=True)
    monkeypatch.setenv("MODEL_ID", str(tmp_path / "above" / "demo"))
    monkeypatch.setattr(predictor, "commit", None)
    paths = write_report(about(image.read_bytes(), Answer("Yes", 0.8)), predictor, tmp_path)
    for text in (text_of(Path(paths[0]).read_bytes()), Path(paths[1]).read_text()):
        assert "demo" in text
        assert "above" not in text
        assert "commit" not in text
        assert "huggingface.co" not in text


# On the page ---------------------------------------------------------------------------------------------------------


def download(page, button: str) -> tuple[str, bytes]:
    """Name and content of the file."""
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_the_report_of_what_was_asked_is_downloaded_until_something_else_is_asked(
    browser, url, app, predictor, image, monkeypatch
):
    monkeypatch.setenv("MODEL_ID", "lab/vqa")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    make, pdf = (page.get_by_role("button", name=name) for name in ("Make a report", "Report (PDF)"))
    question, answer = page.get_by_label("Question"), page.get_by_role("button", name="Ask", exact=True)
    page.locator("input[type=file]").first.set_input_files(
        {"name": NAME, "mimeType": "image/png", "buffer": image.read_bytes()}
    )
    page.get_by_alt_text("The uploaded image").wait_for()
    assert not make.is_visible()
    question.fill(QUESTION)
    answer.click()
    make.wait_for()
    assert not pdf.is_visible()
    question.fill("Which organ?")  # and not asked
    make.click()
    pdf.wait_for()
    expected = predictor.answer(image, QUESTION)
    others = ", ".join(f"{other.answer} ({other.confidence:.1%})" for other in expected.alternatives)
    evidence = what_is_seen(expected.evidence)
    said = (
        QUESTION,
        f"{expected.answer} Confidence {expected.confidence:.0%}",
        f"Other answers: {others}",
        evidence,
        "lab/vqa, commit 0123abcd, https://huggingface.co/lab/vqa",
        "The uploaded image · JPEG, 96 x 96 pixels",
        DISCLAIMER,
    )
    name, content = download(page, "Report (PDF)")
    assert name == "report.pdf"
    assert [part for part in said if part not in text_of(content)] == []
    [picture] = PdfReader(io.BytesIO(content)).pages[0].images
    seen = as_shown(open_view(image.read_bytes(), View()), expected.evidence, NO_EDGES)
    assert picture.image.size == seen.size == (720, 720)
    assert np.abs(np.subtract(picture.image.convert("RGB"), seen, dtype=float)).mean() < 2
    name, html = download(page, "Report (HTML)")
    assert name == "report.html"
    assert "<h3>Is this a &lt;b&gt;CT&lt;/b&gt; scan?</h3>" in html.decode()
    assert DISCLAIMER in html.decode()
    assert b"Jane" not in html
    assert "Jane" not in text_of(content)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for _ in range(2):
        answer.click()
        pdf.wait_for(state="hidden")
        make.click()
        pdf.wait_for()
        assert "Which organ?" in text_of(download(page, "Report (PDF)")[1])
    page.get_by_alt_text("Head MRI").click()
    pdf.wait_for(state="hidden")
    make.wait_for(state="hidden")
    assert not [address for address in asked if not address.startswith((url, "data:", "blob:"))]
    page.close()


# On the server -------------------------------------------------------------------------------------------------------


def test_a_report_leaves_two_files_which_go_after_half_an_hour(app, url, uploaded):
    folder = Path(uploaded["path"]).parent.parent

    def reports() -> list[Path]:
        return sorted(folder.rglob("report*"))

    for old in reports():
        old.unlink()
    ask(app, uploaded, "files")
    before = {path for path in folder.rglob("*") if path.is_file()}
    assert reports() == []
    call(app, "report", [None], "files")
    html, pdf = made = reports()
    assert {path for path in folder.rglob("*") if path.is_file()} - before == set(made)
    assert (html.name, pdf.name, html.parent) == ("report.html", "report.pdf", pdf.parent)
    assert pdf.parent.parent == folder
    assert httpx.get(f"{url}/gradio_api/file={pdf}").content == pdf.read_bytes()
    answer = httpx.get(f"{url}/gradio_api/file={html}")
    assert answer.headers["content-disposition"].startswith("attachment")  # no page of this server
    almost, past = (time.time() - gradio_app.KEPT_SECONDS + seconds for seconds in (60, -1))
    os.utime(html, (almost, almost))
    os.utime(pdf, (past, past))
    wait_until(lambda: not pdf.exists())
    assert html.exists()
    os.utime(html, (past, past))
    wait_until(lambda: not html.parent.exists())
    assert httpx.get(f"{url}/gradio_api/file={html}").status_code in (403, 404)
    assert Path(uploaded["path"]).exists()


def test_a_report_counts_as_a_question(app, url, uploaded, monkeypatch):
    monkeypatch.setattr(gradio_app, "QUESTIONS", Limit(2, 60, "More than 2 questions a minute"))
    ask(app, uploaded, "counted")
    told = [call(app, "report", [None], "counted") for _ in range(2)]
    assert ["report.pdf" in text for text in told] == [True, False]
    assert "More than 2 questions a minute; try again in" in told[1]


def test_a_report_opens_its_image_alone(app, url, uploaded, monkeypatch):
    for number in range(3):
        ask(app, uploaded, f"alone-{number}")
    count, most = counting_calls(gradio_view.open_image, patience=0.3)
    monkeypatch.setattr(gradio_view, "open_image", count)
    with ThreadPoolExecutor(6) as pool:
        made = [pool.submit(call, app, "report", [None], f"alone-{number}") for number in range(3)]
        shown = [pool.submit(call, app, "show", [uploaded], f"shown-{number}") for number in range(3)]
    assert all("report.pdf" in one.result() for one in made)
    assert all("image.webp" in one.result() for one in shown)
    assert most == [1] * 6


def test_nobody_reports_what_another_asked_or_what_was_not_asked(app, url, uploaded):
    ask(app, uploaded, "one")
    forged = ["x", {}, {}, "Who?", {"answer": "Yes", "confidence": 1}, None]
    for data in ([None], [forged], [dict(zip("abcdef", forged, strict=True))]):
        assert GONE in call(app, "report", data, "another")
    assert "report.pdf" in call(app, "report", [forged], "one")


def test_an_image_that_is_no_longer_kept_is_one_sentence(app, url, uploaded):
    ask(app, uploaded, "kept")
    Path(uploaded["path"]).unlink()
    assert "The image is no longer kept; upload it again." in call(app, "report", [None], "kept")


def test_question_and_answers_are_forgotten_after_nine_minutes(app, url, uploaded, monkeypatch):
    [state] = [one for one in app.blocks.values() if isinstance(one, gr.State) and one.value is None]
    assert state.time_to_live == 540
    ask(app, uploaded, "late")
    assert "report.pdf" in call(app, "report", [None], "late")
    kept = app.app.state_holder.session_data["late"]
    [asked] = [value for value in kept.state_data.values() if isinstance(value, Asked)]
    assert (asked.question, asked.image) == (QUESTION, uploaded["path"])
    monkeypatch.setitem(kept._state_ttl, state._id, (540, kept._state_ttl[state._id][1].replace(year=2020)))
    wait_until(lambda: not [value for value in kept.state_data.values() if isinstance(value, Asked)])
    assert GONE in call(app, "report", [None], "late")
