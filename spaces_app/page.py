"""The script of the Streamlit app's page, run by `app.py`.

Streamlit runs it anew for each click. A page is painted before the models are loaded, and completed with what needs
them.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import streamlit as st
from PIL import Image

from processing.errors import UserError
from processing.regions import Region, outlined
from processing.utils import MAX_QUESTION_CHARACTERS
from spaces_app.answers import (
    Conversation,
    answer_pending,
    plain,
    show_error,
    show_line,
    show_turn,
    suggest,
    with_evidence,
    with_heat_map,
)
from spaces_app.batch_page import BatchPage
from spaces_app.choosing import choose_picture
from spaces_app.content import BURNT_IN, DISCLAIMER, PRIVACY, seen, short_name
from spaces_app.limits import LimitError
from spaces_app.models import LOADING, load_card, model_names
from spaces_app.pictures import Picture, View, icon
from spaces_app.take_home import judge, show_downloads
from spaces_app.viewing import choose_slices, choose_view
from spaces_app.zoom import choose_region, show_zoomed

if TYPE_CHECKING:
    from modeling.predictor import Predictor  # the page is painted before torch is loaded

STYLE = """
<style>
.answer { font-size: 1.7rem; font-weight: 650; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
.seen { margin: 0; overflow-wrap: anywhere; }
.question { font-weight: 600; margin: 0; overflow-wrap: anywhere; }
.verdict { margin: 0; overflow-wrap: anywhere; }
.disclaimer { font-size: 0.875rem; font-weight: 600; margin: 0; }
/* captions: their own grey has too little contrast */
[data-testid="stCaptionContainer"] { opacity: 0.85 !important; }
/* and so has the main colour as that of text */
[role="tab"][aria-selected="true"] p, [role="radio"][aria-checked="true"] p { color: light-dark(#14252b, #e8f1f2); }
.model { margin: 0; overflow-wrap: anywhere; }
.facts { margin: 0; font-size: 0.875rem; opacity: 0.85; overflow-wrap: anywhere; }
.problem { margin: 0; padding: 0.75rem 1rem; border-radius: 0.5rem; overflow-wrap: anywhere;
           color: light-dark(#7d1020, #ffd9dd); background: light-dark(#fdecee, #4a1a20); }
/* thumbnails take their room before they are loaded: a button that moves under the pointer is not clicked */
.st-key-strip [data-testid="stElementContainer"]:first-child { min-height: 96px; }
.st-key-strip img { height: 96px; object-fit: contain; }
.block-container { padding-top: 2.5rem; padding-bottom: 1rem; max-width: 76rem; }
/* the line at the bottom stands under the page, not at the edge of the window, and wastes no room below itself */
[data-testid="stBottomBlockContainer"] { padding: 0.75rem 5rem; max-width: 76rem; margin: 0 auto; }
@media (max-width: 640px) {
  .block-container, [data-testid="stBottomBlockContainer"] { padding-left: 1rem; padding-right: 1rem; }
  h1 { font-size: 1.75rem !important; }
  .disclaimer { font-size: 0.75rem; }
}
</style>
"""
HEADLINES = {
    "Exact Match": "Exact match {value} % on {split} ({questions} questions)",
    "Exact Match without near neighbours": "{value} % about images unlike those of the training ({questions})",
    "Calibration error": "calibration error {value} %",
}
POLL_SECONDS = 0.25  # between two looks whether the model is there
OUTLINES, EVIDENCE_MAP, HEAT_MAP, NOTHING = "Evidence", "Evidence map", "What moved the answer", "Nothing"


@dataclass
class AskPage:
    """Questions about one image.

    Attributes:
        picture: that was chosen.
        view: in which it is shown.
        region: that is asked about besides the whole image.
        image: the picture in that view.
        is_zoomed: it is shown to zoom into and to draw on.
        frame, map_controls, suggestions, newest, earlier: places on the page, in this order.
    """

    picture: Picture
    view: View
    region: Region | None
    image: Image.Image
    is_zoomed: bool
    frame: Any
    map_controls: Any
    suggestions: Any
    newest: Any
    earlier: Any

    @classmethod
    def paint(cls) -> "AskPage | None":
        """Paints what needs no model; None where there is no image to ask about."""
        left, right = st.columns((1, 1), gap="large")
        with left:
            viewer = st.container()  # above the choice of its picture
            picture = choose_picture()
        if picture is None:
            return None
        with viewer:
            frame = st.container(key="frame").empty()
            facts = st.empty()
            is_zoomed = st.toggle("Zoom, read values, and draw a region", key=f"zoom-{picture.key}")
            try:
                view = choose_view(picture)
                region = choose_region(picture)
                numbers = choose_slices(picture, region)
                image = picture.image(view)
            except UserError as error:
                show_error(str(error))
                return None
            with facts:
                show_line(picture.details(view), "facts")
            map_controls = st.container()
        with right:
            if question := st.chat_input("Ask about the image", max_chars=MAX_QUESTION_CHARACTERS):
                _note(picture.conversation, question)
            if picture.conversation.asked_about is None:
                picture.conversation.asked_about = view, numbers, region
            suggestions = st.container(horizontal=True, gap="small", key="suggestions")
            newest, earlier = st.empty(), st.empty()  # no answer of before stands under another question
            if picture.conversation.pending is not None:
                with newest.container(border=True):
                    show_line(picture.conversation.pending, "question")
                    st.caption(":material/hourglass_top: Waiting for the model …")
        page = cls(picture, view, region, image, is_zoomed, frame, map_controls, suggestions, newest, earlier)
        if not (is_zoomed and "ready" in st.session_state):  # else it is shown once, with what lies over it
            page._show()
        return page

    def complete(self, models: "Mapping[str, Predictor]") -> None:
        """Answers the pending question and paints answers, evidence or heat map, and suggestions."""
        conversation = self.picture.conversation
        self._show_answers(models)
        overlay = None
        if conversation.turns:
            with self.map_controls:
                overlay = self._choose_overlay(models)
        if overlay or self.is_zoomed:
            self._show(overlay)
        suggested = suggest(self.picture, next(iter(models.values())), self.image)
        with self.suggestions:
            for question in suggested:
                st.button(question, key=f"suggested-{question}", on_click=_note, args=(conversation, question))

    def _show_answers(self, models: "Mapping[str, Predictor]") -> None:
        conversation = self.picture.conversation
        is_asked = conversation.pending is not None
        with self.newest.container():
            if is_asked:
                try:
                    with st.container(border=True):
                        assert conversation.asked_about is not None
                        answer_pending(self.picture, models, *conversation.asked_about)
                except LimitError as error:
                    st.warning(str(error), icon=":material/hourglass_top:")
                    is_asked = False
            if conversation.turns:
                if not is_asked:
                    show_turn(conversation.turns[-1], models, newest=True)
                self._judge(len(conversation.turns) - 1)
        with self.earlier.container():
            for number in reversed(range(len(conversation.turns) - 1)):
                show_turn(conversation.turns[number], models, newest=False)
                self._judge(number)
            if conversation.turns:
                show_downloads(models)

    def _judge(self, number: int) -> None:
        turn = self.picture.conversation.turns[number]
        is_shown = turn.view.number == self.view.number
        judge(turn, f"{self.picture.key}-{number}", self.region if is_shown else None)

    def _choose_overlay(self, models: "Mapping[str, Predictor]") -> "Overlay | None":
        """Shows what may lie over the image: what a model finds for its newest answer, or what moved the answer."""
        name = next(iter(models))
        if len(models) > 1:
            name = st.selectbox("Model shown over the image", list(models), format_func=short_name, key="map-model")
        turn = self.picture.conversation.turns[-1]
        answer = turn.answers[name]
        if isinstance(answer, str) or turn.slices or turn.view.number != self.view.number:
            return None  # there is none, or not for the slice that is shown
        evidence = answer.evidence
        choices = (HEAT_MAP, NOTHING) if evidence is None else (OUTLINES, EVIDENCE_MAP, HEAT_MAP, NOTHING)
        # Without boxes in its training a model has fewer choices, and begins with the plain image.
        default = choices.index(NOTHING) if evidence is None else choices.index(OUTLINES)
        key = f"over-image-{len(choices)}"
        chosen = st.radio("Shown over the image", choices, default, horizontal=True, key=key)
        is_map = chosen in (EVIDENCE_MAP, HEAT_MAP)
        opacity = st.slider("Opacity of the map, percent", 0, 100, 50, key="opacity", disabled=not is_map) / 100
        number = len(self.picture.conversation.turns)
        if chosen == HEAT_MAP:
            what = f"a heat map of what moved the answer to: {turn.question}"
            image = self.picture.image(turn.view)  # in the window of the answer
            return Overlay(
                what, (number, name, opacity), lambda: with_heat_map(image, turn, name, models[name], opacity)
            )
        if evidence is None or chosen == NOTHING or (chosen == OUTLINES and not evidence.boxes):
            return None
        what = f"a map of what the model finds for: {turn.question}" if is_map else f"outlines: {seen(evidence)}"
        shown = opacity if is_map else None
        return Overlay(what, (number, name, shown), lambda: with_evidence(self.image, evidence, shown))

    def _show(self, overlay: "Overlay | None" = None) -> None:
        """Shows the image, with what lies over it and the region."""
        is_zoomed = self.is_zoomed and "ready" in st.session_state

        def draw() -> Image.Image:
            image = self.image if overlay is None else overlay.draw()
            return image if self.region is None or is_zoomed else outlined(image, self.region)

        alt = f"The chosen image, {self.picture.name}"
        key: tuple[Any, ...] = (self.view, None if is_zoomed else self.region)
        if overlay is not None:
            alt += f", with {overlay.what}"
            key += (overlay.what, *overlay.key)
        try:
            png = self.picture.drawn(key, draw, is_zoomed)
        except UserError as error:
            with self.map_controls:
                if isinstance(error, LimitError):
                    st.warning(str(error), icon=":material/hourglass_top:")
                else:
                    show_error(str(error))
            self._show()  # without it
            return
        if is_zoomed:
            with self.frame.container():
                show_zoomed(self.picture, png, self.image.size, self.view.number, self.region, alt)
            return
        if self.region is not None:
            alt += "; a region is outlined"
        self.frame.image(png, width="stretch", output_format="PNG", alt=alt)


class Overlay(NamedTuple):
    """What lies over an image.

    Attributes:
        what: it is, in words.
        key: tells it from others of the same words.
        draw: the image with it.
    """

    what: str
    key: tuple[Any, ...]
    draw: Callable[[], Image.Image]


def _note(conversation: Conversation, question: str) -> None:
    """Notes a question, which is answered at the end of the script."""
    conversation.pending, conversation.asked_about = question, None


def _headline(name: str) -> str:
    """A model's `HEADLINES` in a line of Markdown, with a link to its card."""
    card = load_card(name)
    figures = {} if card is None else {str(figure["Figure"]): figure["Value"] for figure in card[1]}
    parts = []
    for start, words in HEADLINES.items():
        for title, value in figures.items():
            if match := re.match(rf"{start} \((\w+), ([\d,]+) questions", title):
                parts.append(words.format(value=value, split=match[1], questions=match[2]))
                break
    line = plain("; ".join(parts) or "No figures are known of this model.")
    is_local = Path(name).is_dir() or card is None
    return line if is_local else f"{line} [Model card](https://huggingface.co/{quote(name)})"


def show_about_page() -> None:
    """What the models' cards say, and the limits of all models."""
    for name in model_names():
        st.subheader(plain(short_name(name)))
        card = load_card(name)
        if card is None:
            st.write("This model has no card, so its figures are not known.")
            continue
        metadata, figures = card
        st.text("\n".join(f"{key.replace('_', ' ')}: {value}" for key, value in metadata.items() if value))
        if figures:
            st.dataframe(figures, hide_index=True)
    st.subheader("Limits")
    st.markdown(
        "- The model answers questions about any image. Its confidence was fitted to images of its own data set; on "
        "others, a high confidence promises nothing.\n"
        "- It answers questions that its training never asked, too. A note says so where half of a question's words "
        "are new to it, but not where they are known.\n"
        "- It learned from few images from few hospitals; nothing is known about other devices, ages or diseases.\n"
        "- An outline shows where the model finds what the question and its answer are about, not that the answer is "
        "right.\n"
        "- A heat map shows what influenced the answer, not that the answer is right.\n"
        f"- {PRIVACY} {BURNT_IN}"
    )


def main() -> None:
    """The script."""
    st.set_page_config("Medical VQA", icon(), layout="wide")
    st.html(STYLE)
    st.title("Ask about a medical image", anchor=False)
    names = model_names()
    titles = plain(" and ".join(map(short_name, names)))
    for line in map(_headline, names):
        st.caption(line)
    ready = f":material/check_circle: Ready: {titles}"
    status = st.empty()
    status.caption(ready if st.session_state.get("ready") else f":material/hourglass_top: Loading {titles} …")
    with st.bottom:
        show_line(DISCLAIMER, "disclaimer")
    ask_tab, batch_tab, about_tab = st.tabs(("Ask", "Many at once", "About the model"))
    with ask_tab:
        ask_page = AskPage.paint()
    with batch_tab:
        batch_page = BatchPage.paint()
    with about_tab:
        show_about_page()
    try:
        while (models := LOADING.models()) is None:
            # what the visitor does meanwhile ends this run of the script here
            seconds = time.monotonic() - LOADING.began
            status.caption(f":material/hourglass_top: Loading {titles} … {seconds:.0f} s")
            time.sleep(POLL_SECONDS)
    except UserError as error:
        with status:
            show_error(f"The model can't be loaded. {error}")
        return
    st.session_state.ready = True
    status.caption(ready)
    if ask_page:
        with ask_tab:
            ask_page.complete(models)
    with batch_tab:
        batch_page.complete(models)


main()
