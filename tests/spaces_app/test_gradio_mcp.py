"""spaces_app.gradio_mcp: the tool for assistants, called by a client of the protocol."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Tool
from PIL import Image

from modeling.asking.regions import ask_about_region
from modeling.parts.evidence import Detection, Evidence
from modeling.predictor import Alternative, Answer, Predictor
from processing.images import MAX_IMAGE_BYTES, open_image
from processing.regions import Region
from spaces_app import gradio_app, gradio_mcp, uploads
from spaces_app.content import DISCLAIMER
from spaces_app.limits import Limit, Limiter
from tests.support.calls import counting_calls
from tests.support.gradio_server import serve_gradio
from tests.support.image_files import encoded

pytestmark = pytest.mark.xdist_group("gradio")
QUESTION = "Is this a CT scan?"
T = TypeVar("T")
ARGUMENTS = ["image", "question", "slice", "window_center", "window_width", "region"]


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.from_pretrained(trained, dtype="float32")


@pytest.fixture(scope="module")
def app(predictor, tmp_path_factory):
    # Gradio's own server of tools stays away all the same
    with serve_gradio(predictor, tmp_path_factory.mktemp("uploads"), GRADIO_MCP_SERVER="true") as page:
        yield page


def data_url(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ClientSession]:
    async with (
        streamable_http_client(f"{url}/gradio_api/mcp") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


def run(ask: Callable[[], Awaitable[T]]) -> T:
    """What a coroutine returns that runs in another thread: Playwright's loop is in this one."""
    with start_blocking_portal() as portal:
        return portal.call(ask)


def list_tools(url: str) -> list[Tool]:
    async def ask() -> list[Tool]:
        async with connected(url) as session:
            return (await session.list_tools()).tools

    return run(ask)


def call(url: str, image: object, question: object = QUESTION, name: str = "answer", **arguments) -> CallToolResult:
    async def ask() -> CallToolResult:
        async with connected(url) as session:
            return await session.call_tool(name, {"image": image, "question": question} | arguments)

    return run(ask)


def sentence(result: CallToolResult) -> str:
    """The text of a refusal."""
    [content] = result.content
    assert result.isError
    assert result.structuredContent is None
    assert "\n" not in content.text
    return content.text


def test_there_is_one_tool_and_its_arguments_are_described(url):
    [tool] = list_tools(url)
    assert tool.name == "answer"
    assert tool.description.startswith("Answers a question about a medical image ")
    assert DISCLAIMER in tool.description
    assert list(tool.inputSchema["properties"]) == ARGUMENTS
    assert tool.inputSchema["required"] == ["image", "question"]
    assert all(len(one["description"]) > 30 for one in tool.inputSchema["properties"].values())


def test_an_image_in_the_call_and_one_that_was_uploaded_are_answered_as_by_the_api(url, predictor, image):
    expected = predictor.answer(image, QUESTION)
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": image.read_bytes()}).json()[0]
    for source in (data_url(image.read_bytes()), path):
        result = call(url, source)
        assert not result.isError
        assert result.content[0].text.startswith(f"Answer: {expected.answer} ({expected.confidence:.0%}); ")
        details = result.structuredContent
        assert set(details) == {*asdict(expected), "region"}
        assert details["confidence"] == pytest.approx(expected.confidence, rel=1e-3)
        assert details["region"] is None


def test_slice_window_and_region_are_those_of_the_api(url, predictor, image):
    pages = [Image.new("L", (96, 96), 200), Image.open(image).convert("L")]
    stack = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    view = {"slice": 2, "window_center": 100, "window_width": 90}
    result = call(url, data_url(stack), **view, region=[0, 0, 0.5, 0.5])
    shown = open_image(image, window=(100, 90))
    expected = ask_about_region(predictor, shown, QUESTION, Region(0, 0, 0.5, 0.5))
    details = result.structuredContent
    assert (details["answer"], details["region"]["answer"]) == (expected.whole.answer, expected.region.answer)
    assert details["confidence"] == pytest.approx(expected.whole.confidence, rel=1e-2)  # the JPEG became grey
    assert f"Asked about the region alone: {expected.region.answer} (" in result.content[0].text


def test_evidence_is_told_in_words_and_as_an_object(url, predictor, image, monkeypatch):
    found = Detection("<b>Liver</b>", 0.9, (0.25, 0.25, 0.5, 0.5))
    answer = Answer("Yes", 0.8, evidence=Evidence(((0.9,),), (found,), True))
    monkeypatch.setattr(predictor, "answer", lambda *_: answer)
    result = call(url, data_url(image.read_bytes()))
    assert result.structuredContent["evidence"] == {
        "cells": [[0.9]],
        "boxes": [{"label": "<b>Liver</b>", "probability": 0.9, "box": [0.25, 0.25, 0.5, 0.5]}],
        "contradicts": True,
    }
    assert result.content[0].text.splitlines() == [
        "Answer: Yes (80%); less likely: nothing",
        "Found in the image: <b>Liver</b> (90%) at [0.25, 0.25, 0.5, 0.5].",
        "What is found speaks against the answer.",
    ]
    monkeypatch.setattr(predictor, "answer", lambda *_: replace(answer, unlike_training=True, evidence=None))
    assert "few or no questions like this one" in call(url, data_url(image.read_bytes())).content[0].text
    silent = Answer("", 0.4, (Alternative("Yes", 0.4),), question_cut=True, silent=True)
    monkeypatch.setattr(predictor, "answer", lambda *_: silent)
    assert call(url, data_url(image.read_bytes())).content[0].text.splitlines() == [
        "Answer: (no answer) (40%); candidates: Yes (40%)",
        "The model gives no answer: its confidence is below its threshold.",
        "The question is longer than the model can read; its end was left out.",
    ]


def test_no_address_is_fetched_and_no_file_of_the_server_read(url, image, hub):
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": image.read_bytes()}).json()[0]
    folder = path.removesuffix("/image")
    for source in (
        f"{hub.url}/x.png",
        f"{url}/gradio_api/file={path}",
        "/etc/passwd",
        "file:///etc/passwd",
        str(image),
        f"{folder}/../../{image.name}",
        f"{folder}/../{'0' * 32}/../../x/image",
        f"{path}\n",
        folder,
        "",
        "data:image/png,x",
    ):
        assert sentence(call(url, source)) == gradio_mcp.SOURCE
    assert sentence(call(url, "data:image/png;base64,*")).startswith("The image is no valid base64; ")
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    for arguments in ({"image": file}, {"image": path, "region": [file]}, {"image": path, "region": file}):
        assert "is not of type" in sentence(call(url, **arguments))
    gone = f"{folder.rpartition('/')[0]}/{'0' * 32}/image"
    assert sentence(call(url, gone)) == "The image is no longer kept; upload it again."
    assert hub.requests == []


def test_mistakes_are_one_sentence(url, image):
    source = data_url(image.read_bytes())
    for arguments, message in (
        ({"image": data_url(b"no image")}, "Cannot open the image: its content is not a known image; "),
        ({"image": source, "question": " "}, "The question is empty; ask something about the image."),
        ({"image": source, "slice": 7}, "Cannot open the image: "),
        ({"image": source, "region": [0.1, 0.2]}, "The region must be four numbers from 0 to 1: "),
        ({"image": source, "region": [0, 0, 0.01, 0.01]}, "The region has fewer than 8 pixels on a side; "),
        ({"image": source, "question": 5}, "Input validation error: 5 is not of type 'string'"),
        ({"image": source, "name": "other"}, "There is one tool: answer."),
    ):
        assert sentence(call(url, **arguments)).startswith(message)


def test_nothing_that_is_sent_stays_on_the_disk_or_in_the_log(url, image, capfd, caplog, monkeypatch, predictor):
    def fail(_: object, question: str) -> None:
        raise ValueError(question)

    path = httpx.post(f"{url}/gradio_api/upload", files={"files": image.read_bytes()}).json()[0]
    folder = Path(path).parent.parent
    before = set(folder.rglob("*"))
    assert not call(url, data_url(image.read_bytes()), "Is Jane here?").isError
    monkeypatch.setattr(predictor, "answer", fail)
    assert sentence(call(url, data_url(image.read_bytes()), "Is Jane here?")) == gradio_mcp.FAILED
    logged = "".join(capfd.readouterr()) + caplog.text
    assert "ValueError in a request:" in logged
    assert "Is Jane" not in logged
    assert set(folder.rglob("*")) == before


def test_calls_count_as_questions_of_whoever_calls(url, image, monkeypatch):
    monkeypatch.setattr(gradio_app, "QUESTIONS", Limit(2, 60, "More than 2 questions a minute"))
    told = [call(url, data_url(image.read_bytes())) for _ in range(3)]
    assert [one.isError for one in told] == [False, False, True]
    assert sentence(told[2]).startswith("More than 2 questions a minute; try again in ")
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": image.read_bytes()}).json()[0]
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, QUESTION]}
    event = httpx.post(f"{url}/gradio_api/call/answer", json=data).json()["event_id"]
    assert "More than 2 questions a minute" in httpx.get(f"{url}/gradio_api/call/answer/{event}").text


def post(url: str, content: bytes) -> httpx.Response:
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    return httpx.post(f"{url}/gradio_api/mcp", content=content, headers=headers, timeout=60)


def test_bodies_are_bounded_as_uploads_are(url, monkeypatch):
    refused = post(url, bytes(MAX_IMAGE_BYTES + 2**21))
    assert (refused.status_code, refused.text) == (413, uploads.TOO_LARGE)
    monkeypatch.setattr(uploads, "LIMITER", Limiter())
    monkeypatch.setattr(uploads, "UPLOADS", Limit(1_000, 600, "More than 1 KB"))
    assert post(url, bytes(600)).status_code == 400
    assert (post(url, bytes(600)).status_code, post(url, bytes(2_000)).text) == (
        429,
        "More than 1 KB; send less at once.",
    )


def test_a_call_waits_for_the_one_before_and_only_so_many_wait(url, image, predictor, monkeypatch):
    count, most = counting_calls(predictor.answer, patience=0.3)
    monkeypatch.setattr(predictor, "answer", count)
    with ThreadPoolExecutor(3) as pool:
        told = [pool.submit(call, url, data_url(image.read_bytes())) for _ in range(3)]
    assert not [one for one in told if one.result().isError]
    assert most == [1] * 3
    monkeypatch.setattr(gradio_mcp, "WAITING", 0)
    assert sentence(call(url, data_url(image.read_bytes()))) == gradio_mcp.BUSY


def test_only_posts_are_answered(url):
    for path in ("mcp", "mcp/"):
        assert httpx.get(f"{url}/gradio_api/{path}", headers={"Accept": "text/event-stream"}).status_code == 405
    for path in ("mcp/sse", "mcp/schema", "mcp/messages/", "mcp/http"):
        assert httpx.get(f"{url}/gradio_api/{path}").status_code == 404
