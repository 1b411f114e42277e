"""A web page and an API where a trained model answers questions about an uploaded image.

    MODEL_ID=user/name python -m spaces_app.gradio_app

`MODEL_ID` is a folder or a Hub id, by default what `make demo` leaves; `MODEL_DTYPE` is float32, float16 or bfloat16,
by default what the model's `Predictor` takes. The page is at http://127.0.0.1:7860; Gradio's own variables, such as
GRADIO_SERVER_NAME and GRADIO_SERVER_PORT, change that. A program asks with

```python
from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")  # of a Space: Client("user/medical-vqa")
shown, details = client.predict(handle_file("x.png"), "Is this a CT scan?", api_name="/answer")
print(details["answer"], details["confidence"], details["alternatives"])
```

where the file may be a PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM. A mistake of the user is a
`gradio_client.exceptions.AppError` of one sentence.
"""

import io
import logging
import os
import sys
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
from PIL import Image

from modeling.asking.predictor import Predictor
from processing.errors import UserError, run_command
from processing.images import MAX_IMAGE_BYTES, open_image
from processing.utils import MAX_QUESTION_CHARACTERS
from spaces_app.content import DEFAULT_MODEL, DISCLAIMER, GENERAL, SILENT, example_images
from spaces_app.request_cap import RequestCap

INTRODUCTION = """# Ask a medical image
Do not upload images of people who can be identified. Uploads are deleted within two hours."""
KEPT_SECONDS = 3600  # an upload is deleted at the first of these intervals after its first one
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
    # named, since ZeroGPU has CUDA that torch's other ways to look for a GPU do not see
    device = "cuda" if torch.cuda.is_available() else None
    return Predictor.from_pretrained(name, device=device, dtype=os.environ.get("MODEL_DTYPE") or None)


def ranked_label(answers: list[tuple[str, float]] | None) -> LabelData:
    """What a `gr.Label` shows, the answer first: a written one may be less confident than its alternatives."""
    if not answers:
        return LabelData()
    entries = [LabelConfidence(label=text, confidence=confidence) for text, confidence in answers]
    return LabelData(label=answers[0][0], confidences=entries)


def build(predictor: Predictor) -> gr.Blocks:
    """The page and its API, over a model."""

    def ask(image: str | None, question: str, cap: RequestCap) -> tuple[list[tuple[str, float]], dict[str, Any]]:
        """Answers a question about a medical image: every answer with its confidence, and the same as an object."""
        if image is None:
            raise _error("There is no image; upload one or choose an example.")
        try:
            cap.take()
        except UserError as error:
            raise _error(str(error)) from None
        return answer(image, question)

    @GPU  # from which only gr.Error comes back with its message, and no change of an object
    def answer(image: str, question: str) -> tuple[list[tuple[str, float]], dict[str, Any]]:
        try:
            result = predictor.answer(_upload(image), question)
        except UserError as error:
            raise _error(str(error)) from None
        if result.question_cut:
            gr.Warning("The question is longer than the model reads; its end was left out.")
        ranked = [(result.answer, result.confidence), *((a.answer, a.confidence) for a in result.alternatives)]
        if result.silent:
            gr.Warning(SILENT.format(predictor.threshold))
        return [(text or "(no answer)", confidence) for text, confidence in ranked], asdict(result)

    def show(image: str | None) -> tuple[Image.Image | None, None, None]:
        """The image, and no answer any more: it was about another one."""
        picture = None
        if image is not None:
            try:
                picture = open_image(_upload(image))
            except UserError as error:  # an exception would leave what was shown before
                gr.Warning(str(error), title="Error")
        return picture, None, None

    def choose(event: gr.SelectData) -> str:
        return str(shown[event.index][0])

    shown = [(str(file), name) for name, file in example_images()]
    with gr.Blocks(title="Medical VQA", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as app:
        gr.Markdown(INTRODUCTION)
        gr.Markdown(DISCLAIMER, elem_id="disclaimer")
        with gr.Row():
            with gr.Column(min_width=300):
                file = gr.File(label="Image: PNG, JPEG, TIFF, BMP, WebP, GIF or DICOM", height=140)
                gallery = gr.Gallery(
                    shown,
                    elem_id="examples",
                    label="Or an example: generated images, of no patient",
                    columns=len(shown),
                    buttons=[],
                    allow_preview=False,
                    interactive=False,
                )
                preview = gr.Image(
                    label="What the model sees",
                    alt_text="The uploaded image, as the model sees it",
                    interactive=False,
                    buttons=["fullscreen"],
                    height=280,
                )
            with gr.Column(min_width=300):
                question = gr.Textbox(label="Question", placeholder=GENERAL[0], max_length=MAX_QUESTION_CHARACTERS)
                gr.Examples([[text] for text in GENERAL], question, label="Suggestions", api_visibility="private")
                button = gr.Button("Ask", variant="primary")
                label = gr.Label(label="Answer and confidence")
                label.postprocess = ranked_label  # type: ignore[method-assign, assignment] # its own sorts by confidence
                with gr.Accordion("As JSON", open=False):
                    details = gr.JSON(show_label=False)
        file.change(show, file, [preview, label, details], show_progress="hidden", api_visibility="private")
        gallery.select(choose, None, file, show_progress="hidden", api_visibility="private")
        asked = [file, question, gr.State(RequestCap())]
        gr.on([button.click, question.submit], ask, asked, [label, details], api_name="answer")
    # one question at a time: the model takes all cores, and more would only wait inside
    return app.queue(max_size=32, default_concurrency_limit=1)


def _upload(path: str) -> io.BytesIO:
    """An uploaded file with its own name, which errors tell, and not that of its place on the server."""
    with open(path, "rb") as stream:
        file = io.BytesIO(stream.read(MAX_IMAGE_BYTES + 1))  # one more shows that it is too large
    file.name = Path(path).name
    return file


def _error(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)


def main(_: list[str] | None = None) -> None:
    """Loads the model and serves it.

    Raises:
        UserError: the model can't be loaded.
    """
    build(load()).launch(
        allowed_paths=[str(file.parent) for _, file in example_images()],
        max_file_size=MAX_IMAGE_BYTES,
        share=False,
        ssr_mode=False,
        theme=gr.themes.Default(primary_hue="blue"),
        css=CSS,
        footer_links=["api", "gradio"],
    )


if __name__ == "__main__":
    run_command(main, logging.WARNING)
