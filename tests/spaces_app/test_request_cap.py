"""spaces_app.request_cap, alone and in both apps."""

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from streamlit.testing.v1 import AppTest

from modeling.predictor import Predictor
from processing.errors import UserError
from spaces_app import gradio_app, request_cap
from spaces_app.request_cap import RequestCap
from tests.support.app_server import ROOT

pytestmark = pytest.mark.xdist_group("apps")
QUESTION = "Is this a CT scan?"


@pytest.fixture
def two_a_minute(monkeypatch):
    monkeypatch.setattr(request_cap, "REQUESTS", 2)


def test_requests_of_any_minute_are_counted(two_a_minute, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    cap = RequestCap()
    cap.take()
    now += 50
    cap.take()
    now += 2.5
    with pytest.raises(UserError, match="^More than 2 requests a minute; try again in 8 seconds.$"):
        cap.take()
    now += 7.5
    cap.take()
    with pytest.raises(UserError, match="try again in 50 seconds"):
        cap.take()


def test_a_session_of_the_gradio_app_is_held_back_and_another_is_not(two_a_minute, trained, phantoms):
    app = gradio_app.build(Predictor.from_pretrained(trained))
    _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    image = handle_file(phantoms / "imgs" / "xmlab1" / "source.jpg")
    try:
        client = Client(url, verbose=False)
        for _ in range(2):
            client.predict(image, QUESTION, api_name="/answer")
        with pytest.raises(AppError, match="More than 2 requests a minute"):
            client.predict(image, QUESTION, api_name="/answer")
        Client(url, verbose=False).predict(image, QUESTION, api_name="/answer")
    finally:
        app.close()


def test_a_visit_of_the_streamlit_app_is_held_back_and_another_is_not(two_a_minute, trained, monkeypatch):
    monkeypatch.setenv("MODEL_ID", str(trained))

    def visit(times: int) -> AppTest:
        app = AppTest.from_file(str(ROOT / "spaces_app" / "page.py"), default_timeout=120).run()
        app.button_group[0].set_value("Examples").run()
        for _ in range(times):
            app.chat_input[0].set_value(QUESTION).run()
        assert not app.exception
        return app

    held_back = visit(3)
    assert any(w.value.startswith("More than 2 requests a minute; try again in") for w in held_back.warning)
    assert sum(QUESTION in element.body for element in held_back.get("html") if "question" in element.body) == 2
    assert not any("a minute" in w.value for w in visit(2).warning)
