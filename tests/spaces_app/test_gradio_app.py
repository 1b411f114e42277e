"""spaces_app.gradio_app: a real server, asked by a browser and by gradio_client."""

import importlib
import io
import re
import sys
from dataclasses import asdict, replace
from types import ModuleType

import httpx
import numpy as np
import pydicom.data
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from modeling.parts.evidence import Detection, Evidence
from modeling.predictor import Answer, Predictor
from processing.errors import UserError
from processing.images import MAX_IMAGE_BYTES
from spaces_app import gradio_app, gradio_page
from spaces_app.content import CONTRADICTED, DISCLAIMER, EXAMPLES, GENERAL, NOT_SEEN, UNLIKE_TRAINING
from tests.support import warm
from tests.support.app_server import serve
from tests.support.layout import boxes

pytestmark = pytest.mark.xdist_group("gradio")  # one worker trains the model and serves it

QUESTION = "Is this a CT scan?"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("gradio") / "log"


@pytest.fixture(scope="module")
def url(trained, log):
    command = ("-m", "spaces_app.gradio_app")
    environment = {"MODEL_ID": str(trained), "MODEL_DTYPE": "float32", "TRUSTED_PROXIES": "1"}
    with serve(log, *command, **environment, GRADIO_SERVER_PORT="PORT") as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture
def page(browser, url):
    """The page at the width of a phone; it may ask nobody but its server."""
    visitor = {"X-Forwarded-For": "198.51.100.1"}  # uses nothing up of what programs may ask
    page = browser.new_page(viewport={"width": 390, "height": 844}, extra_http_headers=visitor)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.get_by_label("Question").wait_for()
    yield page
    assert not [address for address in asked if not address.startswith((url, "data:", "blob:"))]
    page.close()


@pytest.fixture(scope="module")
def image(phantoms):
    return phantoms / "imgs" / "xmlab1" / "source.jpg"


@pytest.fixture(scope="module")
def expected(trained, image):
    return Predictor.from_pretrained(trained, dtype="float32").answer(image, QUESTION)


def upload(page, path) -> None:
    page.locator("input[type=file]").first.set_input_files(path)


def ask(page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


# By hand -------------------------------------------------------------------------------------------------------------


def test_uploaded_image_is_shown_and_the_question_answered_with_alternatives(page, image, expected):
    upload(page, image)
    page.get_by_alt_text("The uploaded image").wait_for()
    ask(page, QUESTION)
    page.get_by_test_id("label-output-value").wait_for()
    assert page.get_by_test_id("label-output-value").inner_text() == expected.answer
    for other in expected.alternatives:
        percent = f"{other.confidence:.0%}".replace("%", " ?%")
        row = page.get_by_role("button", name=re.compile(rf"^{re.escape(other.answer)}\s*{percent}"))
        assert row.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_long_thin_image_is_answered(client, page, trained, tmp_path):
    Image.effect_noise((10_000, 30), 60).save(tmp_path / "ecg.png")
    _, details = client.predict(handle_file(tmp_path / "ecg.png"), QUESTION, api_name="/answer")
    expected = Predictor.from_pretrained(trained, dtype="float32").answer(tmp_path / "ecg.png", QUESTION)
    assert details["answer"] == expected.answer
    assert details["confidence"] == pytest.approx(expected.confidence, rel=1e-3)
    upload(page, tmp_path / "ecg.png")
    page.get_by_alt_text("The uploaded image").wait_for()


def test_bad_file_is_told_in_one_sentence_and_the_next_one_works(page, image, tmp_path, expected):
    upload(page, image)
    page.get_by_alt_text("The uploaded image").wait_for()
    (tmp_path / "notes.png").write_text("no image")
    page.get_by_label("Clear").first.click()
    upload(page, tmp_path / "notes.png")
    error = page.get_by_test_id("toast-body")
    error.wait_for()
    text = " ".join(error.inner_text().split())
    assert "Cannot open the image" in text
    assert "Traceback" not in text
    assert "/tmp" not in text
    assert not page.get_by_alt_text("The uploaded image").is_visible()
    page.get_by_label("Clear").first.click()
    upload(page, image)
    page.get_by_alt_text("The uploaded image").wait_for()
    ask(page, QUESTION)
    page.get_by_test_id("label-output-value").wait_for()
    assert page.get_by_test_id("label-output-value").inner_text() == expected.answer


def test_markup_in_names_of_files_is_text(page, image):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for name in ("**x**![](http://e.example/x.png).png", "<img src=x onerror=alert(1)>.png"):
        upload(page, {"name": name, "mimeType": "image/png", "buffer": image.read_bytes()})
        page.get_by_alt_text("The uploaded image").wait_for()
        assert name[:8] in "".join(page.locator(".file-preview").inner_text().split("\n"))
        assert page.locator(".file-preview :is(strong, img)").count() == 0
        page.get_by_label("Clear").first.click()
    assert not [url for url in asked if "e.example" in url or url.endswith("/x")]


def test_errors_are_plain_text_on_the_page(browser, trained, image, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    message = "<img src=x onerror=alert(1)> **x** & more"
    predictor = Predictor.from_pretrained(trained)

    def fail(*_: object, **__: object) -> None:
        raise UserError(message)

    monkeypatch.setattr(predictor, "answer", fail)
    app, url = gradio_app.launch(predictor, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        page = browser.new_page()
        page.goto(url)
        upload(page, image)
        page.get_by_alt_text("The uploaded image").wait_for()
        ask(page, QUESTION)
        page.get_by_test_id("toast-body").wait_for()
        assert message in page.get_by_test_id("toast-body").inner_text()
        assert page.get_by_test_id("toast-body").locator("img, strong").count() == 0
        page.close()
    finally:
        app.close()


def test_evidence_is_outlined_and_named_until_another_image_comes(browser, trained, image, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    found = Detection("<b>Liver</b>", 0.9, (0.25, 0.25, 0.5, 0.5))
    answers = [Answer("Yes", 0.8, evidence=Evidence(((0.9,),), boxes, not boxes)) for boxes in ((found,), ())]
    answers[1] = replace(answers[1], unlike_training=True)
    predictor = Predictor.from_pretrained(trained)
    monkeypatch.setattr(predictor, "answer", lambda *_: answers[0])
    app, url = gradio_app.launch(predictor, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        _, details = Client(url, verbose=False).predict(handle_file(image), QUESTION, api_name="/answer")
        box = {"label": "<b>Liver</b>", "probability": 0.9, "box": [0.25, 0.25, 0.5, 0.5]}
        assert details["evidence"] == {"cells": [[0.9]], "boxes": [box], "contradicts": False}
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(url)
        upload(page, image)
        page.get_by_alt_text("The uploaded image").wait_for()
        ask(page, QUESTION)
        outlined = page.get_by_alt_text("with outlines: <b>Liver</b> (90%)")
        outlined.wait_for()
        shown = Image.open(io.BytesIO(page.request.get(outlined.get_attribute("src")).body())).convert("RGB")
        assert shown.size == (720, 720)
        assert np.abs(np.subtract(shown.getpixel((360, 534)), (255, 210, 63))).max() < 30  # the preview is a WebP
        seen, note = page.get_by_label("Evidence in the image"), page.get_by_text(UNLIKE_TRAINING)
        assert not note.is_visible()
        assert seen.input_value() == "Seen: <b>Liver</b> (90%)."
        page.get_by_alt_text("Head MRI").click()
        seen.wait_for(state="detached")
        outlined.wait_for(state="detached")
        answers.reverse()
        page.get_by_role("button", name="Ask", exact=True).click()
        seen.wait_for()
        assert seen.input_value() == f"{NOT_SEEN} {CONTRADICTED}"
        note.wait_for()
        page.get_by_alt_text("Chest CT").click()
        note.wait_for(state="hidden")
        page.close()
    finally:
        app.close()


def test_example_brings_its_image_and_takes_the_old_answer_away(page, image):
    upload(page, image)
    page.get_by_alt_text("The uploaded image").wait_for()
    ask(page, QUESTION)
    answer = page.get_by_test_id("label-output-value")
    answer.wait_for()
    page.get_by_alt_text("Head MRI").click()
    answer.wait_for(state="detached")
    page.get_by_role("button", name="Ask", exact=True).click()
    answer.wait_for()
    page.get_by_role("button", name=GENERAL[2]).click()
    page.wait_for_function("question => document.querySelector('textarea').value === question", arg=GENERAL[2])


def test_disclaimer_is_always_in_view_and_pictures_have_descriptions(page):
    assert page.get_by_text("burnt into the pixels").is_visible()
    assert page.get_by_text("for at most 31 minutes").is_visible()
    for place in (0, 10_000):
        page.evaluate("place => window.scrollTo(0, place)", place)
        [box] = boxes(page, page.get_by_text(DISCLAIMER))
        assert 0 <= box["y"] < 844 - box["height"]
    descriptions = [picture.get_attribute("alt") for picture in page.locator("img").all()]
    assert set(EXAMPLES) <= set(descriptions)
    assert all(descriptions)


# By program ----------------------------------------------------------------------------------------------------------


def test_documented_call_works_as_printed(url, image, expected, tmp_path, monkeypatch, capsys):
    [code] = re.findall(r"```python\n(.*?)```", gradio_app.__doc__, re.DOTALL)
    Image.open(image).save(tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    assert "http://127.0.0.1:7860" in code
    names: dict = {}
    exec(compile(code.replace("http://127.0.0.1:7860", url), "gradio_app.py", "exec"), names)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{expected.answer} ")
    label, details = names["shown"], names["details"]
    wanted = asdict(expected)
    assert details["confidence"] == pytest.approx(wanted["confidence"], rel=1e-3)
    assert [other["answer"] for other in details["alternatives"]] == [a["answer"] for a in wanted["alternatives"]]
    assert label["label"] == expected.answer
    ranked = [expected.answer, *(other.answer for other in expected.alternatives)]
    assert [entry["label"] for entry in label["confidences"]] == ranked


def test_a_model_of_images_and_text_is_asked_like_any_other(runs, image, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    predictor = Predictor.from_pretrained(runs("smolvlm"), dtype="float32")
    expected = predictor.answer(image, QUESTION)
    app, url = gradio_app.launch(predictor, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        _, details = Client(url, verbose=False).predict(handle_file(image), QUESTION, api_name="/answer")
    finally:
        app.close()
    assert details["answer"] == expected.answer
    assert details["confidence"] == pytest.approx(expected.confidence, rel=1e-3)
    np.testing.assert_allclose(details["evidence"]["cells"], expected.evidence.cells, atol=1e-3)


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff", "bmp", "webp", "dicom"])
def test_every_format_is_answered(client, image, tmp_path, format):
    file = tmp_path / f"x.{format}"
    if format == "dicom":
        file = pydicom.data.get_testdata_file("CT_small.dcm")
    else:
        Image.open(image).save(file)
    _, details = client.predict(handle_file(file), QUESTION, api_name="/answer")
    assert details["answer"]
    assert not details["question_cut"]


def test_a_program_is_told_which_question_is_unlike_the_training(client, image):
    asked = (QUESTION, "Which drug should I give?")
    answers = [client.predict(handle_file(image), question, api_name="/answer")[1] for question in asked]
    assert [details["unlike_training"] for details in answers] == [False, True]


def test_grey_values_of_more_than_8_bits_reach_the_model(trained, client, tmp_path):
    deep = Image.new("I;16", (64, 64))
    deep.putdata([40_000 + (x * x) % 997 for x in range(64 * 64)])
    deep.save(tmp_path / "deep.tiff")
    _, details = client.predict(handle_file(tmp_path / "deep.tiff"), QUESTION, api_name="/answer")
    direct = Predictor.from_pretrained(trained, dtype="float32").answer(tmp_path / "deep.tiff", QUESTION)
    assert (details["answer"], details["confidence"]) == (direct.answer, pytest.approx(direct.confidence, rel=1e-3))


def test_mistakes_are_one_sentence(client, image, tmp_path, log):
    (tmp_path / "notes.png").write_text("no image")
    for file, question, message in (
        (handle_file(tmp_path / "notes.png"), QUESTION, "Cannot open the image: "),
        (handle_file(image), " ", "The question is empty; ask something about the image."),
        (handle_file(image), "Is this " * 200, "The question has 1,600 characters; ask in at most 1,000."),
        (None, QUESTION, "There is no image; upload one or choose an example."),
    ):
        with pytest.raises(AppError) as error:
            client.predict(file, question, api_name="/answer")
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)
        assert str(tmp_path) not in str(error.value)
    assert "Traceback" not in log.read_text()


def test_upload_beyond_the_limit_is_refused(url):
    def status(size: int) -> int:
        return httpx.post(f"{url}/gradio_api/upload", files={"files": ("x.png", io.BytesIO(bytes(size)))}).status_code

    assert (status(MAX_IMAGE_BYTES), status(MAX_IMAGE_BYTES + 1)) == (200, 413)


def test_there_is_one_endpoint_and_no_telemetry(client, url):
    assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {"/answer"}
    assert httpx.get(f"{url}/config").json()["analytics_enabled"] is False


def test_queue_is_bounded(trained, tmp_path):
    app = gradio_app.build_page(gradio_app.Panel(Predictor.from_pretrained(trained), tmp_path))
    assert (app._queue.max_size, app._queue.default_concurrency_limit) == (32, 1)


def test_answer_stays_first_where_an_alternative_is_surer():
    shown = gradio_page.ranked_label([("Left", 0.2), ("Right", 0.7)])
    assert (shown.label, [entry.label for entry in shown.confidences]) == ("Left", ["Left", "Right"])


def test_answering_is_what_zerogpu_lends_a_gpu_for(trained, tmp_path, monkeypatch):
    lent = []
    spaces = ModuleType("spaces")
    spaces.GPU = lambda function: lent.append(function.__name__) or function
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    try:
        module = importlib.reload(gradio_app)
        module.Panel(Predictor.from_pretrained(trained), tmp_path)
    finally:
        monkeypatch.undo()
        importlib.reload(gradio_app)
    assert lent == ["answer"]


def test_model_that_is_not_there_is_one_sentence(tmp_path):
    variables = {"MODEL_ID": str(tmp_path / "nothing"), "MEDICAL_VQA_CACHE": str(tmp_path), "PATH": ""}
    done = warm.run("-m", "spaces_app.gradio_app", **variables)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/nothing: there is no such folder")
    assert "Traceback" not in done.stderr
