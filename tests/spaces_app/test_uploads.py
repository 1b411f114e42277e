"""spaces_app.uploads and visits: what visitors send is bounded, has no name on the disk, and goes again."""

import os
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from modeling.predictor import Predictor
from processing.images import MAX_IMAGE_BYTES
from spaces_app import gradio_app, uploads
from spaces_app.limits import Limit, Limiter
from tests.support.app_page import upload
from tests.support.app_server import ROOT, serve
from tests.support.proxy import behind_proxy

pytestmark = pytest.mark.xdist_group("apps")
QUESTION = "Is this a CT scan?"
NAME = "Jane Secret 1970-01-01.png"
LITTLE = Limit(100_000, 600, "More than 0.1 MB of files in ten minutes")


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# The Gradio app ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder in which Gradio's folder of uploads is made."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def url(trained, folder, monkeypatch):
    """The address of a server of its own, which looks for what may go all the time."""
    monkeypatch.setattr(uploads, "LIMITER", Limiter())
    monkeypatch.setattr(gradio_app, "LIMITER", Limiter())
    monkeypatch.setattr(gradio_app, "FORGET_SECONDS", 0.05)
    page, url = gradio_app.launch(
        Predictor.from_pretrained(trained), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True
    )
    yield url.rstrip("/")
    page.close()
    wait_until(lambda: not list(folder.iterdir()))  # a server that ends leaves nothing


@pytest.fixture
def image(phantoms):
    return phantoms / "imgs" / "xmlab1" / "source.jpg"


def files(folder: Path) -> list[Path]:
    """What is kept of images; Gradio makes empty files beside it. The examples are the app's own."""
    return [path for path in folder.rglob("*") if path.suffix != ".jpg" and path.is_file() and path.stat().st_size]


def send(url: str, content: bytes, name: str = NAME, **options) -> httpx.Response:
    return httpx.post(f"{url}/gradio_api/upload", files={"files": (name, content)}, **options)


def ask(url: str, path: str) -> str:
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, QUESTION]}
    event = httpx.post(f"{url}/gradio_api/call/answer", json=data).json()["event_id"]
    return httpx.get(f"{url}/gradio_api/call/answer/{event}").text


def test_no_name_stands_on_the_disk(url, folder, browser, image, tmp_path):
    named = tmp_path / NAME
    named.write_bytes(image.read_bytes())
    Client(url, verbose=False).predict(handle_file(named), QUESTION, api_name="/answer")
    page = browser.new_page()
    page.goto(url)
    page.locator("input[type=file]").first.set_input_files(named)
    page.get_by_alt_text("The uploaded image").wait_for()
    page.close()
    kept = files(folder)
    assert {path.name for path in kept} == {"image", "image.webp"}  # two uploads, and what the page shows of one
    assert [path.read_bytes() for path in kept if path.name == "image"] == [image.read_bytes()] * 2
    assert not [path for path in folder.rglob("*") if "Jane" in str(path) or b"Jane" in path.name.encode()]
    assert not [path for path in files(folder) if b"Jane" in path.read_bytes()]


def test_an_image_is_kept_for_half_an_hour_after_its_last_question(url, folder, image):
    used, unused = (send(url, image.read_bytes()).json()[0] for _ in range(2))
    almost, past = (time.time() - gradio_app.KEPT_SECONDS + seconds for seconds in (60, -1))
    os.utime(used, (almost, almost))
    assert "event: complete" in ask(url, used)
    assert time.time() - os.stat(used).st_mtime < 60
    os.utime(unused, (past, past))
    wait_until(lambda: not Path(unused).exists())
    assert not Path(unused).parent.exists()
    assert [str(path) for path in files(folder)] == [used]
    assert "The image is no longer kept; upload it again." in ask(url, unused)
    assert list(folder.rglob("*.jpg"))  # the examples stay


def test_what_a_killed_server_left_goes_and_files_of_others_stay(folder, trained):
    left = folder / "medical-vqa-uploads-old" / "1" / "image"
    other = folder / "other" / "image"
    past = time.time() - gradio_app.KEPT_SECONDS - 1
    for file in (left, other):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"image")
        os.utime(file, (past, past))
    page, _ = gradio_app.launch(
        Predictor.from_pretrained(trained), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True
    )
    try:
        wait_until(lambda: not left.exists())
        assert other.exists()
    finally:
        page.close()


def test_bytes_of_a_visitor_are_bounded_however_they_come(url, folder, monkeypatch):
    monkeypatch.setattr(uploads, "UPLOADS", LITTLE)
    assert [send(url, bytes(40_000)).status_code for _ in range(3)] == [200, 200, 429]
    refused = send(url, bytes(40_000))
    assert refused.status_code == 429
    assert refused.text.startswith("More than 0.1 MB of files in ten minutes; try again in ")
    assert refused.text.endswith(" seconds.")
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    in_parts = httpx.post(f"{url}/gradio_api/upload", content=iter([b"x" * 30_000] * 4), headers=form)
    assert in_parts.status_code == 429  # its length stands in no header
    elsewhere = httpx.post(f"{url}/gradio_api/call/answer", json={"data": ["x" * 200_000]})
    assert elsewhere.status_code == 429
    assert sum(path.stat().st_size for path in files(folder)) == 80_000


def test_a_body_beyond_a_file_is_refused_before_it_is_kept(url, folder):
    sent = httpx.post(f"{url}/gradio_api/upload", files={"files": bytes(MAX_IMAGE_BYTES + 2**21)}, timeout=60)
    assert (sent.status_code, sent.text) == (
        413,
        "The file exceeds the maximum allowed size of 64 MB; send a smaller one.",
    )
    assert files(folder) == []


def test_files_of_all_visitors_together_are_bounded(url, folder, monkeypatch):
    own = sum(path.stat().st_size for path in folder.rglob("*.jpg"))  # the examples
    monkeypatch.setattr(uploads, "MAX_HELD_BYTES", own + 100_000)
    monkeypatch.setenv("TRUSTED_PROXIES", "1")
    answers = [send(url, bytes(60_000), headers={"X-Forwarded-For": f"198.51.100.{n}"}) for n in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].text == "The app holds as many files as it can; try again in some minutes."


def test_an_address_on_the_internet_is_not_fetched(url, folder):
    image = {"path": "http://192.0.2.1/x.png", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError, match="^The image is an address on the internet; send the file itself.$"):
        Client(url, verbose=False).predict(image, QUESTION, api_name="/answer")
    assert files(folder) == []


# The Streamlit app ---------------------------------------------------------------------------------------------------

START = """
import sys
from spaces_app import limits, uploads, visits
{changes}
from streamlit.web.cli import main
sys.argv = ["streamlit", "run", "spaces_app/app.py", "--server.port", "PORT", "--server.headless", "true"]
sys.argv += ["--server.address", "127.0.0.1", "--server.disconnectedSessionTTL", "1"]
main()
"""


def serve_streamlit(log: Path, model: Path, changes: str):
    """The address of the Streamlit app with other bounds."""
    command = ("-c", START.format(changes=changes))
    return serve(log, *command, folder=ROOT, health="/_stcore/health", MODEL_ID=str(model), TRUSTED_PROXIES="1")


def opened(url: str, visitor: int):
    """A page of a visitor as the server knows it, a web socket."""
    return connect(
        f"{url.replace('http', 'ws')}/_stcore/stream",
        subprotocols=["streamlit"],
        additional_headers={"X-Forwarded-For": f"198.51.100.{visitor}"},
    )


def click(page, size: int) -> int | None:
    """Sends a message of a few bytes more than that; the code by which the server closes the page, if it does."""
    message = BackMsg()
    message.rerun_script.query_string = "a" * size
    try:
        page.send(message.SerializeToString())
        for _ in range(100):
            if ForwardMsg.FromString(page.recv(timeout=60)).WhichOneof("type") == "script_finished":
                return None
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 0
    raise AssertionError("the script does not end")


def test_messages_of_a_page_are_bounded(trained, tmp_path):
    bound = "visits.MESSAGES = limits.Limit(1_900_000, 600, 'More than 1.9 MB of clicks in ten minutes')"
    with serve_streamlit(tmp_path / "log", trained, bound) as url:
        with opened(url, 1) as page:
            assert click(page, 5_000_000) in (1009, 0)  # is not even held, nor read to its end
        with opened(url, 1) as page:
            assert click(page, 1_000_000) == 1009  # is not kept
        with opened(url, 1) as page:
            assert click(page, 500_000) is None
            assert click(page, 490_000) == 1008
        with opened(url, 1) as page:
            assert click(page, 490_000) == 1008
        with opened(url, 2) as page:
            assert click(page, 490_000) is None
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_pages_of_a_visitor_and_of_all_are_bounded(trained, tmp_path):
    changes = (
        "visits.MAX_OPEN, visits.MAX_OPEN_IN_ALL = 2, 3\n"
        "visits.VISITS = limits.Limit(4, 600, 'More than 4 visits in ten minutes')"
    )

    def is_open(stack: ExitStack, visitor: int) -> bool:
        try:
            stack.enter_context(opened(url, visitor))
        except InvalidStatus:
            return False
        return True

    with serve_streamlit(tmp_path / "log", trained, changes) as url:
        with ExitStack() as pages:
            assert [is_open(pages, 1) for _ in range(3)] == [True, True, False]
            assert [is_open(pages, visitor) for visitor in (2, 2, 3)] == [True, False, False]
        wait_until(lambda: is_open(pages, 1))
        assert is_open(pages, 1)
        pages.close()
        assert [is_open(pages, visitor) for visitor in (1, 1, 2)] == [False, False, True]
        pages.close()


def held(url: str) -> str:
    """What Streamlit says of uploaded files in memory."""
    lines = httpx.get(f"{url}/_stcore/metrics").text.splitlines()
    return "".join(line for line in lines if "UploadedFileManager" in line)


def test_files_of_a_visit_go_after_it(browser, trained, image, tmp_path):
    with serve_streamlit(tmp_path / "log", trained, "visits.FORGET_SECONDS = 0.1") as url:
        page = browser.new_page()
        page.goto(url)
        page.get_by_text("Ready: ").wait_for()
        upload(page, image)
        assert f" {image.stat().st_size}" in held(url)
        page.close()
        wait_until(lambda: not held(url))


def test_visitors_of_the_streamlit_app_are_told_apart_and_their_bytes_bounded(browser, trained, image, tmp_path):
    changes = (
        "limits.QUESTIONS = limits.Limit(3, 600, 'More than 3 questions in ten minutes')\n"
        "uploads.UPLOADS = limits.Limit(20_000, 600, 'More than 20 KB of files in ten minutes')"
    )
    with serve_streamlit(tmp_path / "log", trained, changes) as url, ExitStack() as proxies:
        for visitor in (1, 2):
            page = browser.new_page()
            page.goto(proxies.enter_context(behind_proxy(url, f"6.6.6.{time.time_ns() % 200}, 198.51.100.{visitor}")))
            page.get_by_text("Ready: ").wait_for()
            upload(page, image)
            page.locator(".st-key-suggestions button").first.wait_for()  # they have been a question too
            for number in range(3):
                box = page.get_by_placeholder("Ask about the image")
                box.fill(f"Is this CT {number}?")
                box.press("Enter")
                if number < 2:
                    expect(page.locator(".question").first).to_have_text(f"Is this CT {number}?")
                    expect(page.locator(".answer")).to_have_count(number + 1)
            expect(page.get_by_text("More than 3 questions in ten minutes; try again in")).to_be_visible()
            with page.expect_response(lambda response: response.status == 429) as refused:
                page.locator("input[type=file][multiple]").first.set_input_files(
                    {"name": "big.png", "mimeType": "image/png", "buffer": bytes(30_000)}
                )
            assert refused.value.text().startswith("More than 20 KB of files in ten minutes; ")
            page.close()
