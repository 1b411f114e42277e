"""Streamlit apps that run, and their pages."""

import itertools
from contextlib import ExitStack

import pytest
from playwright.sync_api import Page

from spaces_app.limits import Limiter
from tests.support import app_server
from tests.support.proxy import behind_proxy

VISITORS = itertools.count()


@pytest.fixture(scope="package")
def serve(tmp_path_factory):
    """A function from models to the address of an app that asks them."""
    logs = tmp_path_factory.mktemp("logs")
    addresses: dict[tuple[str, ...], str] = {}
    with ExitStack() as servers:

        def start(*models: object) -> str:
            names = tuple(map(str, models))
            if names not in addresses:
                app = app_server.serve_app(logs / f"{len(addresses)}", *names)
                addresses[names] = servers.enter_context(app)
            return addresses[names]

        yield start
    assert not [log for log in logs.iterdir() if "Traceback" in log.read_text()], "an app printed a traceback"


@pytest.fixture
def open_page(browser, serve):
    """A function from models and options of a browser context to a page that is ready."""
    with ExitStack() as opened:

        def open_one(*models: object, **options) -> Page:
            visitor = f"198.51.100.{next(VISITORS) % 256}"  # no test uses up what another may ask
            url = opened.enter_context(behind_proxy(serve(*models), visitor))
            context = browser.new_context(**({"viewport": {"width": 1280, "height": 1000}} | options))
            opened.callback(context.close)
            page = context.new_page()
            page.goto(url)
            page.get_by_text("Ready: ").wait_for()
            return page

        yield open_one


@pytest.fixture(scope="module")
def image(phantoms):
    return sorted((phantoms / "imgs").glob("*/source.jpg"))[0]


@pytest.fixture
def url(app, monkeypatch):
    """The address of the Gradio page `app` of a module, whose visitors have asked for nothing yet."""
    for module in ("gradio_app", "uploads"):
        monkeypatch.setattr(f"spaces_app.{module}.LIMITER", Limiter())
    return app.local_url.rstrip("/")
