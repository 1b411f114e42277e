"""The page of the Gradio app, and its API: their parts, and what each click calls."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components.label import LabelConfidence, LabelData
from gradio.data_classes import FileData
from PIL import Image

from modeling.predictor import Answer
from processing.utils import MAX_QUESTION_CHARACTERS
from processing.windows import OWN
from spaces_app.content import BURNT_IN, DISCLAIMER, GENERAL, KEPT, UNLIKE_TRAINING, seen, what_is_seen
from spaces_app.gradio_report import Asked, as_shown
from spaces_app.gradio_routes import guard
from spaces_app.gradio_view import PRESETS, in_words

if TYPE_CHECKING:
    from spaces_app.gradio_app import Panel

ASKED_SECONDS = 540  # after it a question and its answers are forgotten; until then a report of them can be made
MODEL = "model"  # names the events that ask it, of which one runs at a time
ALT_TEXT = "The uploaded image, as the model sees it"
INTRODUCTION = f"""# Ask about a medical image
Do not upload images of people who can be identified. {KEPT} A report is made only when you ask for
one, and its files are deleted after at most 31 minutes, too. {BURNT_IN}"""
REGION = (
    "Click two opposite corners on the image, or give the edges of the region here, in percent of the image's width "
    "and height. The model is then asked about the region, too."
)
CSS = """
.gradio-container { overflow: clip !important } /* hidden would make the disclaimer scroll away */
#disclaimer { position: sticky; top: 0; z-index: 10; background: var(--body-background-fill);
              border-left: 4px solid #b45309; padding: 0.25rem 0 0.25rem 0.75rem }
#examples .grid-wrap { height: auto; min-height: 0; padding-top: 2rem }
#examples .grid-container { grid-template-columns: repeat(auto-fit, minmax(6rem, 1fr)) }
"""


def ranked_label(answers: list[tuple[str, float]] | None) -> LabelData:
    """What a `gr.Label` shows, the answer first: a written one may be less confident than its alternatives."""
    if not answers:
        return LabelData()
    entries = [LabelConfidence(label=text, confidence=confidence) for text, confidence in answers]
    return LabelData(label=answers[0][0], confidences=entries)


def uploaded_path(file: FileData | None) -> str | None:
    """Where a file that a `gr.File` holds lies on the server."""
    return file.path if file else None


def as_details(whole: Answer, of_region: Answer | None) -> dict[str, Any]:
    """The answer as the API has it, with that about the region alone, None without one."""
    return asdict(whole) | {"region": asdict(of_region) if of_region else None}


def ranked(details: dict[str, Any]) -> list[tuple[str, float]]:
    """Every answer with its confidence, the one that was given first."""
    answers = [details, *details["alternatives"]]
    return [(one["answer"] or "(no answer)", one["confidence"]) for one in answers]


def parts_shown(picture: Image.Image | None, edges: list[float | None]) -> tuple[Any, ...]:
    """What the page shows of a picture that nothing was asked about yet, as `build_page` names it in `seen_anew`.

    Args:
        edges: of the region, in percent.
    """
    drawn = None if picture is None else as_shown(picture, None, edges)
    preview, hidden, chosen = gr.update(value=drawn, alt_text=ALT_TEXT), gr.update(visible=False), in_words(edges)
    answers = None, hidden, None, hidden, gr.update(value="", visible=False), None, None, hidden, hidden, hidden
    size = drawn.size if drawn else (1, 1)
    return preview, *answers, size, gr.update(value=chosen, visible=bool(chosen)), gr.update(visible=bool(chosen))


def parts_answered(picture: Image.Image, asked: Asked) -> tuple[Any, ...]:
    """What the page shows of an answer, as `build_page` names it in `shown`.

    Args:
        picture: that was asked about.
    """
    details = as_details(asked.whole, asked.of_region)
    preview, evidence_in_words = gr.skip(), gr.skip()
    if evidence := asked.whole.evidence:
        alt_text = f"{ALT_TEXT}, with outlines: {seen(evidence)}" if evidence.boxes else ALT_TEXT
        preview = gr.update(value=as_shown(picture, evidence, asked.edges), alt_text=alt_text)
        evidence_in_words = gr.update(value=what_is_seen(evidence, asked.of_region is not None), visible=True)
    about_region = ranked(details["region"]) if asked.of_region else None
    region_part, note = gr.update(visible=bool(asked.of_region)), gr.update(visible=asked.whole.unlike_training)
    hidden = gr.update(visible=False)  # the files of an earlier report
    report = asked, gr.update(visible=True), hidden, hidden
    return preview, ranked(details), region_part, about_region, note, evidence_in_words, details, *report


def build_page(panel: "Panel") -> gr.Blocks:
    """The page and its API.

    Args:
        panel: does what a click or a call asks for.
    """
    with gr.Blocks(title="Medical VQA", analytics_enabled=False) as app:
        gr.Markdown(INTRODUCTION)
        gr.Markdown(DISCLAIMER, elem_id="disclaimer")
        with gr.Row():
            with gr.Column(min_width=300):
                file = gr.File(label="Image: PNG, JPEG, TIFF, BMP, WebP, GIF, DICOM or NIfTI", height=140)
                # Gradio's own makes an empty file each time
                file.preprocess = uploaded_path  # type: ignore[method-assign, assignment]  # as below
                gallery = gr.Gallery(
                    panel.examples,
                    elem_id="examples",
                    label="Or an example: generated images, not of any patient",
                    columns=len(panel.examples),
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
                number = gr.Slider(1, 2, 1, step=1, precision=0, label="Slice", visible=False, buttons=[])
                with gr.Row():
                    preset = gr.Dropdown(PRESETS, value=OWN, label="Window", visible=False)
                    inverted = gr.Checkbox(label="Inverted")
                chosen = gr.Markdown(visible=False)
                forget = gr.Button("Forget the region", size="sm", visible=False)
                with gr.Accordion("A region of the image", open=False):
                    gr.Markdown(REGION)
                    with gr.Row():
                        names = ("Left edge, %", "Top edge, %", "Right edge, %", "Bottom edge, %")
                        edges = [gr.Number(label=name, minimum=0, maximum=100, min_width=110) for name in names]
            with gr.Column(min_width=300):
                question = gr.Textbox(label="Question", placeholder=GENERAL[0], max_length=MAX_QUESTION_CHARACTERS)
                # `gr.Examples` would go around the queue
                suggested = gr.Dataset(
                    components=[question], samples=[[text] for text in GENERAL], label="Suggestions", type="values"
                )
                button = gr.Button("Ask", variant="primary")
                label = gr.Label(label="Answer and confidence")
                with gr.Column(visible=False) as region_part:  # an update of the label itself would undo what follows
                    of_region = gr.Label(label="Answer about the region alone")
                # Gradio's own sorts by confidence; a subclass would have Gradio write a .pyi file beside this one
                label.postprocess = ranked_label  # type: ignore[method-assign, assignment]
                of_region.postprocess = ranked_label  # type: ignore[method-assign, assignment]
                note = gr.Markdown(UNLIKE_TRAINING, visible=False)
                seen_in_image = gr.Textbox(label="Evidence in the image", interactive=False, visible=False)
                with gr.Accordion("As JSON", open=False):
                    details = gr.JSON(show_label=False)
                make = gr.Button("Make a report", size="sm", visible=False)
                with gr.Row():
                    formats = ("Report (PDF)", "Report (HTML)")
                    report = [gr.DownloadButton(name, size="sm", visible=False) for name in formats]
        # what only programs send
        slice_number = gr.Number(0, precision=0, visible=False)
        window = [gr.Number(0, visible=False), gr.Number(0, visible=False)]
        region = gr.JSON(visible=False)

        size = gr.State((1, 1))  # of the picture that is shown, in pixels
        answered = gr.State(time_to_live=ASKED_SECONDS)  # what a report is made of
        shown = [preview, label, region_part, of_region, note, seen_in_image, details, answered, make, *report]
        view = [file, number, preset, inverted, *edges]
        seen_anew = [*shown, size, chosen, forget]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        file.change(panel.show, file, [*seen_anew, number, preset, inverted, *edges], **quiet)
        changed = [number.input, preset.input, inverted.input, *(edge.input for edge in edges)]
        gr.on(changed, panel.show_view, view, seen_anew, trigger_mode="always_last", **quiet)
        preview.select(panel.choose_corner, [size, *edges], edges, **quiet).then(
            panel.show_view, view, seen_anew, **quiet
        )
        forget.click(lambda: [None] * 4, None, edges, **quiet).then(panel.show_view, view, seen_anew, **quiet)
        gallery.select(panel.choose_example, None, file, **quiet)
        suggested.click(lambda texts: texts[0], suggested, question, **quiet)
        by_hand = [button.click, question.submit]
        asked = [file, question, number, preset, inverted, *edges]
        gr.on(by_hand, panel.ask_on_page, asked, shown, api_visibility="private", concurrency_id=MODEL)
        make.click(panel.report, answered, report, api_visibility="private")
        asked = [file, question, slice_number, *window, region]
        gr.on([], panel.ask, asked, [label, details], api_name="answer", concurrency_id=MODEL)
    app.process_api = guard(app.process_api)  # type: ignore[method-assign]
    # one question at a time: the model takes all cores, and more would only wait inside
    return app.queue(max_size=32, default_concurrency_limit=1)
