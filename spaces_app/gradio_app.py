"""A web page, an API and a tool for assistants, where a trained model answers questions about an uploaded image.

    MODEL_ID=user/name python -m spaces_app.gradio_app

`MODEL_ID` is a folder or a Hub id, by default what `make demo` leaves; `MODEL_DTYPE` is float32, float16 or bfloat16,
by default what the model's `Predictor` takes; `TRUSTED_PROXIES` is the number of proxies in front of the app
(`spaces_app.limits`). The page is at http://127.0.0.1:7860; Gradio's own variables, such as
GRADIO_SERVER_NAME and GRADIO_SERVER_PORT, change that. A program asks with

```python
from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")  # of a Space: Client("user/medical-vqa")
shown, details = client.predict(handle_file("x.png"), "Is this a CT scan?", api_name="/answer")
print(details["answer"], details["confidence"], details["alternatives"])
```

where the file may be a PNG, JPEG, WebP, TIFF, BMP, GIF, DICOM or NIfTI. `slice=12` names a slice, frame or page of a
file that has several, by default the one in the middle. `window_center=40, window_width=80` is a window in the units
of the file, Hounsfield units for CT. `region=[0.1, 0.2, 0.5, 0.6]` is a part of the image, by its left, top, right
and bottom in shares of the image: `details["region"]` is the answer about it alone, and the evidence is limited to it.
`details["evidence"]` has the boxes of what the model finds in the image and the map that they come from; it is None
for a model that was trained without boxes. `details["unlike_training"]` is true where the training had few or no
questions like this one. A mistake of the user is a `gradio_client.exceptions.AppError` of one sentence.

An assistant calls the same as the tool `answer` by the Model Context Protocol (MCP), at
http://127.0.0.1:7860/gradio_api/mcp (streamable HTTP). It sends the image as base64, or the path of an upload.
"""

import asyncio
import html
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

try:
    from spaces import GPU  # on ZeroGPU there is a GPU while a decorated function runs; before torch
except ImportError:

    def GPU(function: Any) -> Any:
        return function


if not __package__:  # run as a file: the packages are beside its folder
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gradio as gr
import torch
from gradio.route_utils import API_PREFIX
from PIL import Image
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route

from modeling.asking.regions import ask_about_region
from modeling.predictor import Answer, Predictor
from processing.errors import UserError, run_command
from processing.images import MAX_IMAGE_BYTES
from processing.regions import Region
from processing.windows import OWN
from spaces_app.content import QUESTION_CUT, example_images, why_silent
from spaces_app.gradio_mcp import McpEndpoint
from spaces_app.gradio_page import CSS, as_details, build_page, parts_answered, parts_shown, ranked
from spaces_app.gradio_report import Asked, model_id, reported, write_report
from spaces_app.gradio_routes import MCP, AllowedRoutes, plain_error
from spaces_app.gradio_view import (
    Contents,
    View,
    describe,
    middle,
    open_view,
    preset_view,
    region_of_percents,
    region_of_shares,
)
from spaces_app.limits import DECODING, LIMITER, QUESTIONS, Limit, client_address, trusted_proxies
from spaces_app.uploads import UploadFolder, UploadLimit

KEPT_SECONDS = 1800  # after the last question about it an image is deleted from the disk
FORGET_SECONDS = 60  # between two looks for such images
VIEWS = Limit(240, 60, "More than 240 changes of the view a minute")  # of an image that is already shown

Seen = TypeVar("Seen")
Caller = gr.Request | Request  # of a click or the API, or of the tool


def load() -> Predictor:
    """The model that `MODEL_ID` names.

    Raises:
        UserError: it can't be loaded.
    """
    # asked for by name: on ZeroGPU torch.accelerator finds no GPU, but torch.cuda does
    device = "cuda" if torch.cuda.is_available() else None
    return Predictor.from_pretrained(model_id(), device=device, dtype=os.environ.get("MODEL_DTYPE") or None)


class Panel:
    """What the page does at a click or a call of its API, over one model.

    Args:
        predictor: the model that is asked.
        folder: where reports are written.

    Attributes:
        examples: path and name of each example image.
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self.predictor = predictor
        self.folder = folder
        self.examples = [(str(file), name) for name, file in example_images()]
        # ZeroGPU calls it in another process: arguments and results are pickled, so the model must not be one of them
        self.answer_on_gpu = GPU(self.answer)

    def ask(
        self,
        image: str | None,
        question: str,
        request: gr.Request,
        slice: int = 0,
        window_center: float = 0,
        window_width: float = 0,
        region: Any = None,
    ) -> tuple[list[tuple[str, float]], dict[str, Any]]:
        """Answers a question about a medical image: every answer with its confidence, and the same as an object."""
        with _plain_errors():
            view = View(slice or 0, (window_center or 0, window_width) if window_width else None)
            details = self.ask_for_details(image, question, view, region_of_shares(region), request)
        return ranked(details), details

    def ask_for_details(
        self,
        image: str | bytes | None,
        question: str,
        view: View,
        region: Region | None,
        request: Caller,
    ) -> dict[str, Any]:
        """The answer as an object, with that about the region alone, None without one.

        Args:
            image: the path of an uploaded file, or its content.
        """
        _, whole, of_region = self._ask(image, question, view, region, request)
        return as_details(whole, of_region)

    def ask_on_page(
        self,
        image: str | None,
        question: str,
        number: int,
        preset: str,
        is_inverted: bool,
        left: float | None,
        top: float | None,
        right: float | None,
        bottom: float | None,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """The same for the page: the image with outlines, answers, a note on the question, what is seen in words."""
        edges = left, top, right, bottom
        with _plain_errors():
            view, region = preset_view(number, preset, is_inverted), region_of_percents(edges)
            picture, whole, of_region = self._ask(image, question, view, region, request)
        if whole.question_cut:
            gr.Warning(QUESTION_CUT)
        if whole.silent or (of_region and of_region.silent):
            gr.Warning(why_silent(self.predictor.abstention_threshold))
        assert image is not None
        return parts_answered(picture, Asked(image, view, edges, question, whole, of_region))

    def report(self, asked: Asked | None, request: gr.Request) -> list[dict[str, Any]]:
        """The report of what was asked last, as a PDF and as an HTML file that can be downloaded."""
        with _plain_errors():
            if asked is None:
                raise UserError("The answer is no longer kept; ask again.")
            threshold = self.predictor.abstention_threshold
            question = _look(asked.image, request, QUESTIONS, lambda data: reported(data, asked, threshold))
        return [gr.update(value=path, visible=True) for path in write_report(question, self.predictor, self.folder)]

    def _ask(
        self,
        image: str | bytes | None,
        question: str,
        view: View,
        region: Region | None,
        request: Caller,
    ) -> tuple[Image.Image, Answer, Answer | None]:
        """The image that was opened, the answer about it, and that about the region."""
        if not image:
            raise UserError("There is no image; upload one or choose an example.")
        # here and not in `answer`, whose changes of an object stay in another process
        picture = _look(image, request, QUESTIONS, lambda data: open_view(data, view))
        return picture, *self.answer_on_gpu(picture, question, region)

    def answer(self, picture: Image.Image, question: str, region: Region | None) -> tuple[Answer, Answer | None]:
        """Answers a question about an image that was opened, and about a region of it."""
        with _plain_errors():  # only the message of a gr.Error comes back from another process
            if region is None:
                return self.predictor.answer(picture, question), None
            answers = ask_about_region(self.predictor, picture, question, region)
        return answers.whole, answers.region

    def show(self, image: str | None, request: gr.Request) -> tuple[Any, ...]:
        """A file that was just chosen, and what can be chosen of it; what was said of another one is emptied."""
        picture, contents = None, Contents(1, [])
        if image is not None:
            with _errors_as_warnings():

                def look(data: bytes) -> tuple[Contents, Image.Image]:
                    return describe(data), open_view(data, View())

                contents, picture = _look(image, request, QUESTIONS, look)
        slices = contents.slices
        number = gr.update(maximum=max(slices, 2), value=middle(slices), visible=slices > 1)
        preset = gr.update(choices=contents.presets or [OWN], value=OWN, visible=bool(contents.presets))
        return *parts_shown(picture, [None] * 4), number, preset, False, *[None] * 4

    def show_view(
        self,
        image: str | None,
        number: int,
        preset: str,
        is_inverted: bool,
        left: float | None,
        top: float | None,
        right: float | None,
        bottom: float | None,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """The same file in another view; what was said of the former view is emptied."""
        picture = None
        if image is not None:
            view = preset_view(number, preset, is_inverted)
            with _errors_as_warnings():
                picture = _look(image, request, VIEWS, lambda data: open_view(data, view))
        return parts_shown(picture, [left, top, right, bottom])

    def choose_corner(
        self,
        size: tuple[int, int],
        left: float | None,
        top: float | None,
        right: float | None,
        bottom: float | None,
        event: gr.SelectData,
    ) -> tuple[float | None, ...]:
        """The edges of the region in percent after a click: its first corner, or the opposite one."""
        x, y = (round(100 * place / side, 1) for place, side in zip(event.index, size, strict=True))
        if left is None or top is None or right is not None or bottom is not None:
            return x, y, None, None
        return min(left, x), min(top, y), max(left, x), max(top, y)

    def choose_example(self, event: gr.SelectData) -> str:
        """The path of the example that was clicked."""
        return self.examples[event.index][0]


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise plain_error(str(error)) from None


@contextmanager
def _errors_as_warnings() -> Iterator[None]:
    """An exception would leave on the page what was shown before."""
    try:
        yield
    except UserError as error:
        gr.Warning(html.escape(str(error), quote=False), title="Error")


def launch(predictor: Predictor, **options: Any) -> tuple[gr.Blocks, str]:
    """Serves the page and its API.

    Args:
        options: of `gr.Blocks.launch`, which win.

    Returns:
        The page and its address.
    """
    folder = UploadFolder(os.environ.get("GRADIO_TEMP_DIR"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder.path)  # where Gradio writes what it shows
    panel = Panel(predictor, folder.path)
    app = build_page(panel)
    _, url, _ = app.launch(**_launch_options(folder, app, panel) | options)
    return app, url


def _launch_options(folder: UploadFolder, app: gr.Blocks, panel: Panel) -> dict[str, Any]:
    tool = McpEndpoint(panel.ask_for_details, folder.path)
    return {
        "allowed_paths": [str(file.parent) for _, file in example_images()],
        "max_file_size": MAX_IMAGE_BYTES,
        "share": False,
        "ssr_mode": False,
        "mcp_server": False,  # Gradio's own, in the place of which is ours
        "theme": gr.themes.Default(primary_hue="blue"),
        "css": CSS,
        "footer_links": ["api", "gradio"],
        "app_kwargs": {
            # before Gradio's own, which keeps a file under its own name
            "routes": [
                Route(f"{API_PREFIX}/upload", folder.save, methods=["POST"]),
                Route(MCP, tool),
                Route(f"{MCP}/", tool),
            ],
            "middleware": [Middleware(AllowedRoutes, folder=folder.path), Middleware(UploadLimit, held=folder.held)],
            "lifespan": serving(folder, app, tool),
        },
    }


def serving(
    folder: UploadFolder, app: gr.Blocks, tool: McpEndpoint
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """While the server runs, offers the tool, and deletes what nobody has asked about for `KEPT_SECONDS`.

    At its end all that visitors sent is deleted.
    """

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async def look() -> None:
            while True:
                kept = {path for block in app.blocks.values() for path in getattr(block, "keep_in_cache", ())}
                await asyncio.to_thread(folder.forget, KEPT_SECONDS, kept)
                await asyncio.sleep(FORGET_SECONDS)

        task = asyncio.create_task(look())
        try:
            async with tool.manager.run():
                yield
        finally:
            task.cancel()
            shutil.rmtree(folder.path, ignore_errors=True)

    return lifespan


def _look(image: str | bytes, request: Caller, limit: Limit, look: Callable[[bytes], Seen]) -> Seen:
    """What is made of an image, which counts for the client.

    Args:
        image: the path of an uploaded file, or its content.
        limit: that it counts for.
        look: makes it of the content of the file.

    Raises:
        UserError: the limit is reached, the file is no longer kept, or it can't be opened.
    """
    peer = request.client.host if request.client else None
    LIMITER.take(client_address(peer, request.headers.getlist("x-forwarded-for")), limit)
    if isinstance(image, bytes):
        with DECODING:
            return look(image)
    try:
        os.utime(image)  # it is in use
        with DECODING, open(image, "rb") as stream:
            # without a name: errors must not show its path on the server; one byte more shows that it is too large
            return look(stream.read(MAX_IMAGE_BYTES + 1))
    except FileNotFoundError:
        raise UserError("The image is no longer kept; upload it again.") from None


def main(_: list[str] | None = None) -> None:
    """Loads the model and serves it.

    Raises:
        UserError: the model can't be loaded, or `TRUSTED_PROXIES` is wrong.
    """
    trusted_proxies()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the server in order, with its folder of uploads
    launch(load())


if __name__ == "__main__":
    run_command(main, logging.WARNING)
