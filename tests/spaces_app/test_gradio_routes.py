"""spaces_app.gradio_routes: what a visitor gets of Gradio's own server, and what it keeps and logs of him."""

import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image
from starlette.routing import Route

from modeling.predictor import Predictor
from spaces_app import gradio_app, gradio_view
from spaces_app.limits import Limit
from tests.support.calls import counting_calls
from tests.support.gradio_server import serve_gradio, uploaded_file

pytestmark = pytest.mark.xdist_group("gradio")
QUESTION = "Is this a CT scan?"
NAME = "Jane Secret.png"
USED = {  # by the page or its API; what stands in braces is filled in by the tests
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/config"),
    ("GET", "/theme.css"),
    ("GET", "/favicon.ico"),
    ("GET", "/assets/{path}"),
    ("GET", "/static/{path}"),
    ("GET", "/gradio_api/info"),
    ("GET", "/gradio_api/app_id"),
    ("GET", "/gradio_api/startup-events"),
    ("GET", "/gradio_api/queue/data"),
    ("GET", "/gradio_api/call/{api_name}/{event_id}"),
    ("POST", "/gradio_api/call/{api_name}"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/cancel"),
    ("POST", "/gradio_api/upload"),
}


@pytest.fixture(scope="module")
def app(trained, tmp_path_factory):
    """The page, which keeps what visitors send in a folder of its own."""
    with serve_gradio(Predictor.from_pretrained(trained), tmp_path_factory.mktemp("uploads")) as page:
        yield page


@pytest.fixture
def image(url, phantoms):
    """An uploaded image, as calls name it."""
    return uploaded_file(url, phantoms / "imgs" / "xmlab1" / "source.jpg", NAME)


def number(app, name: str) -> int:
    """By which the page calls a function."""
    return next(entry["id"] for entry in app.config["dependencies"] if entry["api_name"] == name)


def join(url: str, function: int, data: list, session: str) -> str:
    """Calls a function as the page does; all that the server says of it."""
    body = {"data": data, "fn_index": function, "session_hash": session}
    joined = httpx.post(f"{url}/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    return httpx.get(f"{url}/gradio_api/queue/data", params={"session_hash": session}, timeout=60).text


def ask(url: str, data: list) -> str:
    event = httpx.post(f"{url}/gradio_api/call/answer", json={"data": data}).json()["event_id"]
    return httpx.get(f"{url}/gradio_api/call/answer/{event}").text


def test_no_route_of_gradio_is_offered_but_those_that_are_used(app, url):
    found = set()
    for route in app.app.routes + app.app.router.routes:
        routes = getattr(getattr(route, "original_router", None), "routes", [route])
        for one in routes:
            if not isinstance(one, Route) or "=" in one.path:
                continue
            path = one.path if one.path.startswith("/gradio_api") or one is route else f"/gradio_api{one.path}"
            found |= {(method, re.sub(r":\w+}", "}", path)) for method in one.methods or ()}
    assert len(found) > 60
    assert found >= USED
    for method, path in sorted(found - USED):
        answer = httpx.request(method, url + re.sub("{[^}]*}", "x", path), json={})
        assert (answer.status_code, answer.text) == (404, "" if method == "HEAD" else "Not Found"), (method, path)


def test_the_preview_and_the_answer_are_had_from_the_queue_alone(app, url, image, monkeypatch):
    opened = []
    monkeypatch.setattr(gradio_view, "open_image", lambda *_, **__: opened.append(1))
    for path in ("run/x", "run/show", "run/answer", "api/answer", "call/show", "call/v2/answer"):
        body = {"data": [image, QUESTION], "fn_index": number(app, "show"), "session_hash": "s"}
        assert httpx.post(f"{url}/gradio_api/{path}", json=body).status_code == 404
    assert opened == []


def test_files_are_those_of_the_apps_own_folder(url, image):
    def read(path: str) -> int:
        return httpx.get(f"{url}/gradio_api/file={path}").status_code

    folder = Path(image["path"]).parent.parent
    here = Path(__file__)
    assert read(image["path"]) == 200
    elsewhere = [here, folder.parent / "other", "http://192.0.2.1/x.png", "https:/192.0.2.1/x", here.relative_to("/")]
    assert [read(str(path)) for path in elsewhere] == [404] * 5
    assert read(f"{folder}/%2e%2e/%2e%2e/%2e%2e/etc/passwd") in (403, 404)
    assert httpx.get(f"{url}/gradio_api/proxy=http://192.0.2.1/").status_code == 404


def test_what_a_visitor_asks_leaves_no_further_file(app, url, image):
    folder = Path(image["path"]).parent.parent
    before = set(folder.rglob("*"))
    for _ in range(3):
        assert "event: complete" in ask(url, [image, QUESTION])
    assert set(folder.rglob("*")) == before
    join(url, number(app, "show"), [image], "files")
    assert httpx.get(f"{url}/gradio_api/deep_link", params={"session_hash": "files"}).status_code == 404
    [shown] = [path for path in set(folder.rglob("*")) - before if path.is_file()]
    assert shown.name == "image.webp"


def test_malformed_calls_get_one_sentence_and_log_no_name(app, url, image, capfd, caplog):
    sentence = "The app could not answer this request; "
    for data in (
        [image],
        [NAME, QUESTION],
        [{"path": NAME, "orig_name": NAME, "meta": {"_type": "gradio.FileData"}}, QUESTION],
        [image | {"size": NAME}, QUESTION],
        [[image], QUESTION],
        [image | {"path": f"/tmp/{NAME}"}, QUESTION],
    ):
        assert sentence in ask(url, data)
    ask(url, [image, QUESTION, NAME])
    for function, data in ((number(app, "show"), [NAME]), (number(app, "choose_example"), []), (999, [image])):
        join(url, function, data, NAME)
    logged = "".join(capfd.readouterr()) + caplog.text
    assert "ValueError in a request:" in logged
    assert "Jane" not in logged


def test_an_image_that_is_shown_counts_as_a_question(app, url, image, monkeypatch):
    monkeypatch.setattr(gradio_app, "QUESTIONS", Limit(2, 60, "More than 2 questions a minute"))
    told = [join(url, number(app, "show"), [image], f"shown-{n}") for n in range(3)]
    assert ["image.webp" in text for text in told] == [True, True, False]
    assert "More than 2 questions a minute; try again in" in told[2]
    assert "More than 2 questions a minute; try again in" in ask(url, [image, QUESTION])


def test_a_large_image_is_shown_smaller(app, url):
    file = BytesIO()
    Image.new("L", (5_000, 2_500), 90).save(file, "PNG")
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": file.getvalue()}).json()[0]
    told = join(url, number(app, "show"), [{"path": path, "meta": {"_type": "gradio.FileData"}}], "large")
    [shown] = re.findall(r'"path": ?"([^"]*image[.]webp)"', told)
    with Image.open(BytesIO(httpx.get(f"{url}/gradio_api/file={shown}").content)) as picture:
        assert picture.size == (2048, 1024)


def test_one_image_is_opened_at_a_time(app, url, image, monkeypatch):
    count, most = counting_calls(gradio_view.open_image, patience=0.3)
    monkeypatch.setattr(gradio_view, "open_image", count)
    with ThreadPoolExecutor(6) as pool:
        shown = [pool.submit(join, url, number(app, "show"), [image], f"one-{n}") for n in range(3)]
        asked = [pool.submit(ask, url, [image, QUESTION]) for _ in range(3)]
    assert all("image.webp" in one.result() for one in shown)
    assert all("event: complete" in one.result() for one in asked)
    assert most == [1] * 6


def test_the_page_shows_its_api(browser, url):
    page = browser.new_page()
    page.goto(url)
    page.get_by_role("button", name="Use via API").first.click()
    page.get_by_text("/answer").first.wait_for()
    assert page.get_by_text("gradio_client").first.is_visible()
    page.close()
