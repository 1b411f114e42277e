"""A web page and an API where a trained model answers questions about an uploaded image.

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

where the file may be a PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM. `details["evidence"]` has the boxes of what the
model finds in the image and the map that they come from; it is None for a model that was trained without boxes.
`details["unlike_training"]` is true where the training had few or no questions like this one. A mistake of the user is
a `gradio_client.exceptions.AppError` of one sentence.
"""

import asyncio
import html
import io
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

try:
    from spaces import GPU  # on ZeroGPU there is a GPU while a decorated function runs; before torch
except ImportError:

    def GPU(function: Any) -> Any:
        return function


if not __package__:  # run as a file: the packages are beside its folder
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gradio as gr
import torch
from gradio.components.label import LabelConfidence, LabelData
from gradio.data_classes import FileData
from gradio.route_utils import API_PREFIX
from PIL import Image
from starlette.middleware import Middleware
from starlette.routing import Route

from modeling.asking.heat_maps import outline
from modeling.predictor import Answer, Predictor
from processing.errors import UserError, run_command
from processing.images import MAX_IMAGE_BYTES, open_image
from processing.utils import MAX_QUESTION_CHARACTERS
from spaces_app.content import (
    BURNT_IN,
    DEFAULT_MODEL,
    DISCLAIMER,
    GENERAL,
    KEPT,
    UNLIKE_TRAINING,
    example_images,
    seen,
    what_is_seen,
    why_silent,
)
from spaces_app.gradio_routes import AllowedRoutes, plain_error, refuse_addresses, without_quotes
from spaces_app.limits import DECODING, LIMITER, QUESTIONS, client_address, trusted_proxies
from spaces_app.uploads import UploadFolder, UploadLimit

KEPT_SECONDS = 1800  # after the last question about it an image is deleted from the disk
PREVIEW = 2048  # pixels of the longer side of an image that is shown, at most
MODEL = "model"  # names the events that ask it, of which one runs at a time
ALT_TEXT = "The uploaded image, as the model sees it"
FORGET_SECONDS = 60  # between two looks for such images
INTRODUCTION = f"""# Ask about a medical image
Do not upload images of people who can be identified. {KEPT} {BURNT_IN}"""
CSS = """
.gradio-container { overflow: clip !important } /* hidden would make the disclaimer scroll away */
#disclaimer { position: sticky; top: 0; z-index: 10; background: var(--body-background-fill);
              border-left: 4px solid #b45309; padding: 0.25rem 0 0.25rem 0.75rem }
#examples .grid-wrap { height: auto; min-height: 0; padding-top: 2rem }
#examples .grid-container { grid-template-columns: repeat(auto-fit, minmax(6rem, 1fr)) }
"""


def load() -> Predictor:
    """The model that `MODEL_ID` names.

    Raises:
        UserError: it can't be loaded.
    """
    name = os.environ.get("MODEL_ID") or DEFAULT_MODEL
    # asked for by name: on ZeroGPU torch.accelerator finds no GPU, but torch.cuda does
    device = "cuda" if torch.cuda.is_available() else None
    return Predictor.from_pretrained(name, device=device, dtype=os.environ.get("MODEL_DTYPE") or None)


def ranked_label(answers: list[tuple[str, float]] | None) -> LabelData:
    """What a `gr.Label` shows, the answer first: a written one may be less confident than its alternatives."""
    if not answers:
        return LabelData()
    entries = [LabelConfidence(label=text, confidence=confidence) for text, confidence in answers]
    return LabelData(label=answers[0][0], confidences=entries)


def uploaded_path(file: FileData | None) -> str | None:
    """Where a file that a `gr.File` holds lies on the server."""
    return file.path if file else None


class Panel:
    """What the page does at a click or a call of its API, over one model.

    Args:
        predictor: the model that is asked.
        examples: path and name of each example image.
    """

    def __init__(self, predictor: Predictor, examples: list[tuple[str, str]]) -> None:
        self.predictor = predictor
        self.examples = examples
        # ZeroGPU calls it in another process: arguments and results are pickled, so the model must not be one of them
        self.answer_on_gpu = GPU(self.answer)

    def ask(
        self, image: str | None, question: str, request: gr.Request
    ) -> tuple[list[tuple[str, float]], dict[str, Any]]:
        """Answers a question about a medical image: every answer with its confidence, and the same as an object."""
        _, result = self._ask(image, question, request)
        return _ranked(result), asdict(result)

    def ask_on_page(
        self, image: str | None, question: str, request: gr.Request
    ) -> tuple[Any, list[tuple[str, float]], Any, Any, dict[str, Any]]:
        """The same for the page: the image with outlines, answers, a note on the question, what is seen in words."""
        picture, result = self._ask(image, question, request)
        ranked, details = _ranked(result), asdict(result)
        note = gr.update(visible=result.unlike_training)
        if result.evidence is None:
            return gr.skip(), ranked, note, gr.skip(), details
        boxes = result.evidence.boxes
        alt_text = f"{ALT_TEXT}, with outlines: {seen(result.evidence)}" if boxes else ALT_TEXT
        preview = gr.update(value=outline(picture, boxes), alt_text=alt_text)
        return preview, ranked, note, gr.update(value=what_is_seen(result.evidence), visible=True), details

    def _ask(self, image: str | None, question: str, request: gr.Request) -> tuple[Image.Image, Answer]:
        """The image that was opened, and its answer."""
        if image is None:
            raise plain_error("There is no image; upload one or choose an example.")
        try:  # here and not in `answer`, whose changes of an object stay in another process
            picture = _open(image, request)
        except UserError as error:
            raise plain_error(str(error)) from None
        return picture, self.answer_on_gpu(picture, question)

    def answer(self, picture: Image.Image, question: str) -> Answer:
        """Answers a question about an image that was opened."""
        try:
            result = self.predictor.answer(picture, question)
        except UserError as error:
            raise plain_error(str(error)) from None  # only the message of a gr.Error comes back from another process
        if result.question_cut:
            gr.Warning("The question is longer than the model can read; its end was left out.")
        if result.silent:
            gr.Warning(why_silent(self.predictor.abstention_threshold))
        return result

    def show(self, image: str | None, request: gr.Request) -> tuple[Any, None, Any, Any, None]:
        """The chosen image; what was said of another one is emptied."""
        picture = None
        if image is not None:
            try:
                picture = _open(image, request)
                picture.thumbnail((PREVIEW, PREVIEW))
            except UserError as error:  # an exception would leave what was shown before
                gr.Warning(html.escape(str(error), quote=False), title="Error")
        preview, seen_in_image = gr.update(value=picture, alt_text=ALT_TEXT), gr.update(value="", visible=False)
        return preview, None, gr.update(visible=False), seen_in_image, None

    def choose_example(self, event: gr.SelectData) -> str:
        """The path of the example that was clicked."""
        return self.examples[event.index][0]


def _ranked(result: Answer) -> list[tuple[str, float]]:
    """Every answer with its confidence, the one that was given first."""
    answers = [(result.answer, result.confidence)]
    answers += [(other.answer, other.confidence) for other in result.alternatives]
    return [(text or "(no answer)", confidence) for text, confidence in answers]


def build(predictor: Predictor) -> gr.Blocks:
    """The page and its API, over a model."""
    examples = [(str(file), name) for name, file in example_images()]
    panel = Panel(predictor, examples)
    with gr.Blocks(title="Medical VQA", analytics_enabled=False) as app:
        gr.Markdown(INTRODUCTION)
        gr.Markdown(DISCLAIMER, elem_id="disclaimer")
        with gr.Row():
            with gr.Column(min_width=300):
                file = gr.File(label="Image: PNG, JPEG, TIFF, BMP, WebP, GIF or DICOM", height=140)
                file.async_move_resource_to_block_cache = refuse_addresses(  # type: ignore[method-assign]  # as below
                    file.async_move_resource_to_block_cache
                )
                # Gradio's own makes an empty file each time
                file.preprocess = uploaded_path  # type: ignore[method-assign, assignment]  # as below
                gallery = gr.Gallery(
                    examples,
                    elem_id="examples",
                    label="Or an example: generated images, not of any patient",
                    columns=len(examples),
                    buttons=[],
                    allow_preview=False,
                    interactive=False,
                )
                preview = gr.Image(
                    label="What the model sees",
                    alt_text=ALT_TEXT,
                    interactive=False,
                    buttons=["fullscreen"],
                    height=280,
                )
            with gr.Column(min_width=300):
                question = gr.Textbox(label="Question", placeholder=GENERAL[0], max_length=MAX_QUESTION_CHARACTERS)
                # `gr.Examples` would go around the queue
                suggested = gr.Dataset(
                    components=[question], samples=[[text] for text in GENERAL], label="Suggestions", type="values"
                )
                button = gr.Button("Ask", variant="primary")
                label = gr.Label(label="Answer and confidence")
                # Gradio's own sorts by confidence; a subclass would have Gradio write a .pyi file beside this one
                label.postprocess = ranked_label  # type: ignore[method-assign, assignment]
                note = gr.Markdown(UNLIKE_TRAINING, visible=False)
                seen_in_image = gr.Textbox(label="Evidence in the image", interactive=False, visible=False)
                with gr.Accordion("As JSON", open=False):
                    details = gr.JSON(show_label=False)
        shown = [preview, label, note, seen_in_image, details]
        asked = [file, question]
        file.change(panel.show, file, shown, show_progress="hidden", api_visibility="private")
        gallery.select(panel.choose_example, None, file, show_progress="hidden", api_visibility="private")
        suggested.click(lambda texts: texts[0], suggested, question, show_progress="hidden", api_visibility="private")
        by_hand = [button.click, question.submit]
        gr.on(by_hand, panel.ask_on_page, asked, shown, api_visibility="private", concurrency_id=MODEL)
        gr.on([], panel.ask, asked, [label, details], api_name="answer", concurrency_id=MODEL)
    app.process_api = without_quotes(app.process_api)  # type: ignore[method-assign]  # as above
    # one question at a time: the model takes all cores, and more would only wait inside
    return app.queue(max_size=32, default_concurrency_limit=1)


def launch(predictor: Predictor, **options: Any) -> tuple[gr.Blocks, str]:
    """Serves the page and its API.

    Args:
        options: of `gr.Blocks.launch`, which win.

    Returns:
        The page and its address.
    """
    folder = UploadFolder(os.environ.get("GRADIO_TEMP_DIR"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder.path)  # where Gradio writes what it shows
    app = build(predictor)
    _, url, _ = app.launch(**_launch_options(folder, app) | options)
    return app, url


def _launch_options(folder: UploadFolder, app: gr.Blocks) -> dict[str, Any]:
    return {
        "allowed_paths": [str(file.parent) for _, file in example_images()],
        "max_file_size": MAX_IMAGE_BYTES,
        "share": False,
        "ssr_mode": False,
        "theme": gr.themes.Default(primary_hue="blue"),
        "css": CSS,
        "footer_links": ["api", "gradio"],
        "app_kwargs": {
            # before Gradio's own, which keeps a file under its own name
            "routes": [Route(f"{API_PREFIX}/upload", folder.save, methods=["POST"])],
            "middleware": [Middleware(AllowedRoutes, folder=folder.path), Middleware(UploadLimit, held=folder.held)],
            "lifespan": forget_uploads(folder, app),
        },
    }


def forget_uploads(folder: UploadFolder, app: gr.Blocks) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """While the server runs, deletes what nobody has asked about for `KEPT_SECONDS`; at its end, all."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async def look() -> None:
            while True:
                kept = {path for block in app.blocks.values() for path in getattr(block, "keep_in_cache", ())}
                await asyncio.to_thread(folder.forget, KEPT_SECONDS, kept)
                await asyncio.sleep(FORGET_SECONDS)

        task = asyncio.create_task(look())
        try:
            yield
        finally:
            task.cancel()
            shutil.rmtree(folder.path, ignore_errors=True)

    return lifespan


def _open(path: str, request: gr.Request) -> Image.Image:
    """An uploaded image. To see it or to ask about it counts as a question of the client.

    Raises:
        UserError: the limit is reached, the file is no longer kept, or it can't be opened.
    """
    peer = request.client.host if request.client else None
    LIMITER.take(client_address(peer, request.headers.getlist("x-forwarded-for")), QUESTIONS)
    try:
        os.utime(path)  # it is in use
        with DECODING, open(path, "rb") as stream:
            # without a name: errors must not show its path on the server; one byte more shows that it is too large
            return open_image(io.BytesIO(stream.read(MAX_IMAGE_BYTES + 1)))
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
