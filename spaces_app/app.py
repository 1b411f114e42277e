"""The Streamlit app: questions about a medical image, answered in the browser.

    python -m streamlit run spaces_app/app.py

`MODEL_ID` names the model, a folder or a Hub id, `COMPARE_MODEL_ID` a second one that gets the same questions, and
`MODEL_DTYPE` float32, float16 or bfloat16, by default what the model's `Predictor` takes.
The page is painted before the model is loaded; whatever needs the model comes at the end of the script.
"""

import html
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st
from PIL import Image

from metrics.squad_v2.scoring import normalize_answer
from processing.errors import UserError
from processing.images import MAX_IMAGE_BYTES, ImageFacts, ImageSource, image_facts, open_image
from processing.utils import MAX_QUESTION_CHARACTERS
from spaces_app.batch import answer_all, as_csv, read_archive, read_questions
from spaces_app.content import (
    DEFAULT_MODEL,
    DISCLAIMER,
    PRIVACY,
    PROBES,
    SILENT,
    UNSURE,
    example_images,
    suggestions,
)
from spaces_app.request_cap import RequestCap

if TYPE_CHECKING:
    from modeling.asking.predictor import Answer, Predictor

MAX_FILES = 100
THUMBNAIL = 96  # pixels
STYLE = """
<style>
.answer { font-size: 1.7rem; font-weight: 650; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
.question { font-weight: 600; margin: 0; overflow-wrap: anywhere; }
.disclaimer { font-size: 0.875rem; font-weight: 600; margin: 0; }
/* captions: their own grey has too little contrast */
[data-testid="stCaptionContainer"] { opacity: 0.85 !important; }
/* and so has the main colour as that of text */
[role="tab"][aria-selected="true"] p, [role="radio"][aria-checked="true"] p { color: light-dark(#14252b, #e8f1f2); }
.model { margin: 0; overflow-wrap: anywhere; }
/* thumbnails take their room before they are loaded: a button that moves under the pointer is not clicked */
.st-key-strip [data-testid="stElementContainer"]:first-child { min-height: 96px; }
.st-key-strip img { height: 96px; object-fit: contain; }
.block-container { padding-top: 2.5rem; padding-bottom: 1rem; max-width: 76rem; }
@media (max-width: 640px) {
  .block-container { padding-left: 1rem; padding-right: 1rem; }
  h1 { font-size: 1.75rem !important; }
  .disclaimer { font-size: 0.75rem; }
}
</style>
"""


@dataclass
class Turn:
    """A question about an image, and each model's answer or the sentence that says why there is none."""

    question: str
    answers: "list[Answer | str]"
    window: tuple[float, float] | None
    heat: dict[str, Any] = field(default_factory=dict)  # of the model that is shown


@dataclass
class Picture:
    """An image of this visit."""

    key: str
    name: str
    data: bytes
    facts: ImageFacts | None = None
    drawn: tuple[tuple[float, float] | None, Image.Image] | None = None
    shown: tuple[Image.Image, bytes] | None = None  # and encoded, once: Streamlit would do so in every run
    small: bytes | None = None
    pending: str | None = None  # a question that is not answered yet
    turns: list[Turn] = field(default_factory=list)
    suggestions: tuple[str, ...] = ()

    def image(self, window: tuple[float, float] | None = None) -> Image.Image:
        """The picture in a window, the file's own by default; the last one is kept."""
        if self.drawn is None or self.drawn[0] != window:
            self.drawn = window, open_image(self._file(), window=window)
        return self.drawn[1]

    def png(self, window: tuple[float, float] | None = None) -> bytes:
        """`image` as a PNG file; the last one is kept."""
        image = self.image(window)
        if self.shown is None or self.shown[0] is not image:
            self.shown = image, as_png(image)
        return self.shown[1]

    def thumbnail(self) -> bytes:
        """A small copy as a PNG file, made once."""
        if self.small is None:
            image = open_image(self._file())
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            self.small = as_png(image)
        return self.small

    def read_facts(self) -> ImageFacts:
        """What may be shown of the file."""
        if self.facts is None:
            self.facts = image_facts(self._file())
        return self.facts

    def _file(self) -> BytesIO:
        file = BytesIO(self.data)
        file.name = self.name
        return file


def as_png(image: Image.Image) -> bytes:
    """An image as a file."""
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def model_names() -> list[str]:
    """The models that answer: one, or two to compare."""
    names = [os.environ.get("MODEL_ID") or DEFAULT_MODEL, os.environ.get("COMPARE_MODEL_ID") or ""]
    return [name for name in names if name]


@st.cache_resource(show_spinner=False)
def load_model(name: str) -> "Predictor":
    """Loads a model once for all visitors."""
    from modeling.asking.predictor import Predictor

    return Predictor.from_pretrained(name, dtype=os.environ.get("MODEL_DTYPE") or None)


@st.cache_data(show_spinner=False, max_entries=4)
def load_card(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Data and figures of a model's card, None where it has none."""
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HTTPError

    try:
        card = ModelCard.load(Path(name) / "README.md" if Path(name).is_dir() else name)
    except (OSError, ValueError, HTTPError):
        return None
    data = card.data.to_dict()
    figures = [
        {
            "Figure": result.metric_name or result.metric_type,
            "Data set": result.dataset_name,
            "Split": result.dataset_split,
            "Value": result.metric_value,
        }
        for result in card.data.eval_results or []
    ]
    return {name: data.get(name) for name in ("license", "base_model", "datasets", "language")}, figures


def short_name(name: str) -> str:
    """A model's name without the folder it lies in."""
    return Path(name).name if Path(name).is_dir() else name


def line(text: str, style: str) -> None:
    """A line of plain text; nothing in it is markup."""
    st.html(f'<p class="{style}">{html.escape(text)}</p>')


# Choosing an image ---------------------------------------------------------------------------------------------------


def choose_picture() -> Picture | None:
    """The source, the files and the strip to choose from; the picture that was chosen."""
    source = st.segmented_control(
        "Where the image comes from", ("Files", "Examples", "Camera"), default="Files", required=True
    )
    pictures: list[Picture] = []
    if source == "Files":
        files = st.file_uploader(
            "Images: PNG, JPEG, TIFF, BMP, WebP or DICOM",
            accept_multiple_files=True,
            max_upload_size=MAX_IMAGE_BYTES // 2**20,
        )
        st.caption("Nothing is stored; of a DICOM header nothing about the patient is read or shown.")
        if len(files) > MAX_FILES:
            st.warning(f"Only the first {MAX_FILES} of {len(files)} files are shown.")
        for file in sorted(files, key=lambda file: file.name)[:MAX_FILES]:
            pictures.append(remember(file.file_id, file.name, file.getvalue))
    elif source == "Examples":
        st.caption("Drawn images, no patient's. They have the shapes and greys of CT, MRI and X-ray.")
        pictures = [remember(name, name, file.read_bytes) for name, file in example_images()]
    else:
        photo = st.camera_input("Photograph an image")
        if photo is not None:
            pictures = [remember(photo.file_id, "photo.jpg", photo.getvalue)]
    forget_others(pictures)
    return strip(pictures)


def remember(key: str, name: str, read: Callable[[], bytes]) -> Picture:
    """The picture of this visit with that key."""
    pictures = st.session_state.setdefault("pictures", {})
    if key not in pictures:
        pictures[key] = Picture(key, name, b"")
    pictures[key].data = pictures[key].data or read()
    return pictures[key]


def forget_others(pictures: list[Picture]) -> None:
    """Frees the bytes of images that were taken away and were not asked about."""
    kept = {picture.key for picture in pictures}
    for key, picture in list(st.session_state.get("pictures", {}).items()):
        if key not in kept:
            picture.data, picture.drawn, picture.shown, picture.small = b"", None, None, None
            if not picture.turns:
                del st.session_state.pictures[key]


def strip(pictures: list[Picture]) -> Picture | None:
    """Thumbnails to choose from, where there are several images."""
    if len(pictures) < 2:
        return pictures[0] if pictures else None
    keys = [picture.key for picture in pictures]
    if st.session_state.get("chosen") not in keys:
        st.session_state.chosen = keys[0]
    with st.container(horizontal=True, key="strip"):
        for number, picture in enumerate(pictures, 1):
            with st.container(width=THUMBNAIL + 8, gap="small"):
                chosen = picture.key == st.session_state.chosen
                try:
                    st.image(picture.thumbnail(), width=THUMBNAIL, alt=f"Thumbnail of {picture.name}")
                except UserError:
                    st.caption("can't be opened")
                st.button(
                    picture.name,
                    key=f"choose-{picture.key}",
                    type="primary" if chosen else "tertiary",
                    help=f"Image {number} of {len(pictures)}: {picture.name}",
                    on_click=choose,
                    args=(picture.key,),
                )
    return next(picture for picture in pictures if picture.key == st.session_state.chosen)


def choose(key: str) -> None:
    """Chooses an image of the strip."""
    st.session_state.chosen = key


def choose_window(picture: Picture, facts: ImageFacts) -> tuple[float, float] | None:
    """Sliders for a grey DICOM image; None is the file's own window."""
    if facts.window is None or facts.value_range is None:
        return None
    (center, width), (low, high) = facts.window, facts.value_range
    low, high = min(low, center), max(high, center, low + 1)
    widest = max(high - low, width, 2.0)
    with st.expander("Window and level"):
        level = st.slider("Level (centre)", low, high, center, key=f"level-{picture.key}")
        wide = st.slider("Window (width)", 1.0, widest, max(width, 1.0), key=f"width-{picture.key}")
        st.caption("In the units of the file, Hounsfield units for CT. The model sees what you see.")
    return None if (level, wide) == (center, max(width, 1.0)) else (level, wide)


# Asking --------------------------------------------------------------------------------------------------------------


def ask(picture: Picture, question: str) -> None:
    """Notes a question; it is answered at the end of the script, or of the next one where that is interrupted."""
    try:
        count_request()
    except UserError as error:
        st.session_state.refused = str(error)
    else:
        picture.pending = question


def count_request() -> None:
    """Counts a request of this visit.

    Raises:
        UserError: there were too many.
    """
    st.session_state.setdefault("cap", RequestCap()).take()


def answer(models: "dict[str, Predictor]", picture: Picture, window: tuple[float, float] | None) -> None:
    """Asks every model; each answer is shown as soon as it is there."""
    turn = Turn(picture.pending or "", [], window)
    slots = heading(turn)
    for model, slot in zip(models.values(), slots, strict=True):
        try:
            turn.answers.append(model.answer(picture.image(window), turn.question))
        except UserError as error:
            turn.answers.append(str(error))
        with slot:
            draw_answer(turn, len(turn.answers) - 1, newest=True)
    mark_difference(turn)
    picture.turns.append(turn)
    picture.pending = None


def heading(turn: Turn) -> list[Any]:
    """The question, and a place for the answer of each model."""
    line(turn.question, "question")
    names = model_names()
    if len(names) == 1:
        return [st.container()]
    return list(st.columns(len(names)))


def draw_turn(turn: Turn, newest: bool) -> None:
    """A question with its answers."""
    with st.container(border=True):
        for number, slot in enumerate(heading(turn)):
            with slot:
                draw_answer(turn, number, newest)
        mark_difference(turn)


def draw_answer(turn: Turn, number: int, newest: bool) -> None:
    """One model's answer, its confidence and what else it thought of."""
    names = model_names()
    if len(names) > 1:
        line(short_name(names[number]), "model")
    found = turn.answers[number]
    if isinstance(found, str):
        st.error(found)
        return
    line("(silent)" if found.silent else found.answer or "(no answer)", "answer")
    st.progress(min(found.confidence, 1.0), text=f"Confidence {found.confidence:.0%}")
    if found.silent:
        st.warning(SILENT.format(load_model(names[number]).threshold), icon=":material/block:")
    elif found.confidence < UNSURE:
        st.warning("The model is unsure: read the other answers too.", icon=":material/help:")
    if found.question_cut:
        st.info("The question is longer than the model reads; its end was left out.")
    if found.alternatives and newest:
        other = {other.answer or "(no answer)": other.confidence for other in found.alternatives[:4]}
        st.caption("Other answers")
        draw_chart(other)


def draw_chart(shares: dict[str, float]) -> None:
    """Bars of shares of one, with their names and numbers."""
    text = "#e8f1f2" if st.context.theme.type == "dark" else "#14252b"
    axis = {"title": None, "labelLimit": 240, "labelColor": text}
    spec = {  # a plain one: to check one of Altair's would take as long as an answer
        "data": {"values": [{"answer": f"{name[:40]} {share:.1%}", "share": share} for name, share in shares.items()]},
        "height": {"step": 26},
        "mark": {"type": "bar", "cornerRadius": 3},
        "encoding": {
            "x": {"field": "share", "type": "quantitative", "scale": {"domain": [0, 1]}, "axis": None},
            "y": {"field": "answer", "type": "nominal", "sort": None, "axis": axis},
        },
    }
    told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    st.vega_lite_chart(spec, alt=f"Confidence of the other answers: {told}")


def mark_difference(turn: Turn) -> None:
    """Says so where the models do not agree."""
    given = [found if isinstance(found, str) else normalize_answer(found.answer) for found in turn.answers]
    if len(set(given)) > 1:
        st.badge("The models differ", icon=":material/compare_arrows:", color="orange")


def show_heat(frame: Any, models: "dict[str, Predictor]", picture: Picture) -> None:
    """Where the model looked for its newest answer, over the image."""
    from modeling.asking.heat_maps import overlay

    turn = picture.turns[-1]
    name = st.session_state.get("looker") or next(iter(models))
    found = turn.answers[list(models).index(name)]
    if isinstance(found, str):
        return
    image = picture.image(turn.window)
    if name not in turn.heat:
        answer = found.alternatives[0].answer if found.silent else found.answer  # what it would have said
        turn.heat[name] = models[name].heat_map(image, turn.question, answer)
    opacity = st.session_state.get("opacity", 50) / 100
    frame.image(
        overlay(image, turn.heat[name], opacity),
        width="stretch",
        alt=f"{picture.name} with a heat map of where the model looked for: {turn.question}",
    )


def as_json() -> str:
    """Questions and answers of this visit."""
    pictures = st.session_state.get("pictures", {}).values()
    return json.dumps(
        [
            {
                "image": picture.name,
                "question": turn.question,
                "window": turn.window,
                "answers": [
                    {"model": name, **({"error": found} if isinstance(found, str) else asdict(found))}
                    for name, found in zip(model_names(), turn.answers, strict=True)
                ],
            }
            for picture in pictures
            for turn in picture.turns
        ],
        indent=2,
        ensure_ascii=False,
    )


# Pages ---------------------------------------------------------------------------------------------------------------


def ask_page() -> Callable[["dict[str, Predictor]"], None]:
    """Paints the page without the model; what comes back paints the rest."""
    left, right = st.columns((1, 1), gap="large")
    with left:
        picture = choose_picture()
        if picture is None:
            st.info("Choose an image, or look at the examples.", icon=":material/image_search:")
            return lambda models: None
        try:
            facts = picture.read_facts()
            window = choose_window(picture, facts)
            image = picture.image(window)
        except UserError as error:
            st.error(str(error))
            return lambda models: None
        frame = st.empty()
        frame.image(picture.png(window), width="stretch", alt=f"The chosen image, {picture.name}")
        details = " · ".join(f"{name}: {value}" for name, value in facts.details.items())
        st.caption(f"{facts.format}, {image.width} x {image.height} pixels" + f" · {details}" * bool(details))
        look = st.container()
    with right:
        if asked := st.chat_input("Ask about the image", max_chars=MAX_QUESTION_CHARACTERS):
            ask(picture, asked)
        if refused := st.session_state.pop("refused", None):
            st.warning(refused, icon=":material/hourglass_top:")
        offered = st.container(horizontal=True, gap="small", key="suggestions")
        newest = st.empty()
        earlier = st.container()

    def finish(models: "dict[str, Predictor]") -> None:
        if picture.pending is not None:
            with newest.container(border=True):
                answer(models, picture, window)
        elif picture.turns:
            with newest.container():
                draw_turn(picture.turns[-1], newest=True)
        with earlier:
            for turn in reversed(picture.turns[:-1]):
                draw_turn(turn, newest=False)
            if picture.turns:
                st.download_button(
                    "Download questions and answers (JSON)", as_json(), "answers.json", "application/json"
                )
        if picture.turns:
            with look:
                if len(models) > 1:
                    st.selectbox("Model whose look is shown", list(models), format_func=short_name, key="looker")
                shown = st.toggle("Show where the model looked", key="look")
                st.slider("Opacity of the heat map, percent", 0, 100, 50, key="opacity", disabled=not shown)
            if shown:
                try:
                    show_heat(frame, models, picture)
                except UserError as error:
                    look.error(str(error))
        if not picture.suggestions:
            part = next(iter(models.values())).answer(image, PROBES[0], top_k=1).answer
            picture.suggestions = suggestions(part)
        with offered:
            for question in picture.suggestions:
                st.button(question, key=f"suggested-{question}", on_click=ask, args=(picture, question))

    return finish


def batch_page() -> Callable[["dict[str, Predictor]"], None]:
    """A table of questions for one image, or the same questions for an archive of images."""
    kind = st.radio(
        "What to ask",
        ("Many questions about one image", "The same questions about many images"),
        horizontal=True,
    )
    image_file = archive = table = None
    questions = ""
    if kind.startswith("Many"):
        image_file = st.file_uploader("The image", key="batch-image", max_upload_size=MAX_IMAGE_BYTES // 2**20)
        table = st.file_uploader("CSV file with the column question", type="csv", key="batch-csv")
    else:
        archive = st.file_uploader("Zip file of images", type="zip", key="batch-zip")
        questions = st.text_area("Questions, one a line", "\n".join(PROBES), max_chars=20_000)
    ready = bool(table and image_file) or bool(archive and questions.strip())
    if not ready:
        st.session_state.pop("batch", None)
    start = st.button("Answer all", type="primary", disabled=not ready)
    bar, result = st.empty(), st.container()

    def finish(models: "dict[str, Predictor]") -> None:
        if start:
            st.session_state.pop("batch", None)
            try:
                count_request()
                asked: list[tuple[str, ImageSource, str]] = []
                if image_file is not None and table is not None:
                    image, texts = open_image(image_file), read_questions(table.getvalue(), table.name)
                    asked = [(image_file.name, image, text) for text in texts]
                elif archive is not None:
                    lines = [text.strip() for text in questions.splitlines() if text.strip()]
                    images = read_archive(archive.getvalue())
                    asked = [(name, data, text) for name, data in images.items() for text in lines]
                told = f"of {len(asked):,} questions answered"

                def progress(share: float) -> None:
                    bar.progress(share, text=f"{share:.0%} {told}")

                progress(0.0)
                st.session_state.batch = answer_all(next(iter(models.values())), asked, progress)
                bar.empty()
            except UserError as error:
                bar.error(str(error))
        if rows := st.session_state.get("batch"):
            with result:
                failed = sum(bool(row["error"]) for row in rows)
                st.success(f"{len(rows):,} questions answered" + f", {failed:,} with an error" * bool(failed) + ".")
                st.dataframe(rows, hide_index=True)
                st.download_button("Download the answers (CSV)", as_csv(rows), "answers.csv", "text/csv")

    return finish


def about_page() -> None:
    """What the models' cards say."""
    for name in model_names():
        st.subheader(short_name(name))
        card = load_card(name)
        if card is None:
            st.write("This model has no card, so nothing is known about its figures.")
            continue
        facts, figures = card
        told = [f"{key.replace('_', ' ')}: {value}" for key, value in facts.items() if value]
        st.text("\n".join(told))
        if figures:
            st.dataframe(figures, hide_index=True)
    st.subheader("Limits")
    st.markdown(
        "- The model answers every question. Its confidence was fitted to images of its own data set; for others a "
        "high one is no promise.\n"
        "- It learned from few images of few hospitals; nothing is known about other devices, ages or diseases.\n"
        "- A heat map shows what moved the answer, not that the answer is right.\n"
        f"- {PRIVACY}"
    )


def main() -> None:
    """The script."""
    st.set_page_config("Medical VQA", ":material/radiology:", layout="wide")
    st.html(STYLE)
    st.title("Ask a medical image", anchor=False)
    names = model_names()
    told = " and ".join(map(short_name, names))
    loading, ready = f":material/hourglass_top: Loading {told} …", f":material/check_circle: Ready: {told}"
    status = st.empty()
    status.caption(ready if st.session_state.get("ready") else loading)
    with st.bottom:
        line(DISCLAIMER, "disclaimer")
    one, many, about = st.tabs(("Ask", "Many at once", "About the model"))
    with one:
        finish_ask = ask_page()
    with many:
        finish_batch = batch_page()
    with about:
        about_page()
    try:
        models = {name: load_model(name) for name in names}
    except UserError as error:
        status.error(f"The model can't be loaded. {error}")
        return
    st.session_state.ready = True
    status.caption(ready)
    with one:
        finish_ask(models)
    with many:
        finish_batch(models)


main()
