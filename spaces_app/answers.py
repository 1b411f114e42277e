"""Questions and answers of the Streamlit app: asking the models, showing what they answer and where they looked."""

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from PIL import Image

from processing.answers import answer_identity
from processing.errors import UserError
from spaces_app.content import PROBES, UNLIKE_TRAINING, UNSURE, suggestions, what_is_seen, why_silent
from spaces_app.limits import LIMITER, QUESTIONS, Limit, LimitError, client_address
from spaces_app.models import short_name

if TYPE_CHECKING:
    from modeling.parts.evidence import Evidence
    from modeling.predictor import Answer, Predictor  # the page is painted before torch is loaded

OTHER_ANSWERS = 4  # shown below an answer
LABEL_LENGTH = 40  # characters of an answer beside its bar


@dataclass
class Turn:
    """A question about an image.

    Attributes:
        question: as it was asked.
        window: of a DICOM image, in which the models saw it; None is the file's own.
        answers: by model; a text says why there is no answer.
        heat_maps: by model, of those that were shown.
    """

    question: str
    window: tuple[float, float] | None
    answers: "dict[str, Answer | str]" = field(default_factory=dict)
    heat_maps: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Conversation:
    """What was asked about an image.

    Attributes:
        turns: the oldest first.
        pending: a question that is not answered yet.
        suggestions: questions to offer, empty until the model was asked which body part the image shows.
    """

    turns: list[Turn] = field(default_factory=list)
    pending: str | None = None
    suggestions: tuple[str, ...] = ()


def show_line(text: str, style: str) -> None:
    """A line of plain text; nothing in it is markup.

    Args:
        style: class of the page's CSS.
    """
    st.html(f'<p class="{style}">{html.escape(text)}</p>')


def show_error(text: str) -> None:
    """An error. It may quote the name of a file, which is plain text here and would be Markdown in `st.error`."""
    st.html(f'<p class="problem" role="alert">{html.escape(text)}</p>')


def plain(text: str) -> str:
    """A text for what Streamlit takes for Markdown only, such as the label of a button, where it says nothing else.

    All punctuation is escaped. An invisible character breaks what is recognised after that: addresses and `:names:`.
    """
    escaped = re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)
    return re.sub(r"(\\[:@]|www)", "\\1\u200b", escaped, flags=re.IGNORECASE)


def count(limit: Limit, amount: int = 1) -> None:
    """Counts what this visitor asks a model for.

    Raises:
        LimitError: the limit is reached.
    """
    # Streamlit tells no address of its own machine
    address = client_address(st.context.ip_address or "127.0.0.1", st.context.headers.get_all("x-forwarded-for"))
    LIMITER.take(address, limit, amount)


def answer_pending(
    conversation: Conversation,
    models: "Mapping[str, Predictor]",
    image: Image.Image,
    window: tuple[float, float] | None,
) -> None:
    """Asks every model the pending question, and shows each answer as soon as it is there.

    Where this run of the script is interrupted, the next one asks again.

    Raises:
        LimitError: the visitor has asked for too much; the question is no longer pending.
    """
    turn = Turn(conversation.pending or "", window)
    try:
        count(QUESTIONS, len(models))
    except LimitError:
        conversation.pending = None
        raise
    places = _show_question(turn.question, models)
    for name, model in models.items():
        try:
            turn.answers[name] = model.answer(image, turn.question)
        except UserError as error:
            turn.answers[name] = str(error)
        with places[name]:
            _show_answer(turn.answers[name], name, models, newest=True)
    _show_difference(turn)
    conversation.turns.append(turn)
    conversation.pending = None


def show_turn(turn: Turn, models: "Mapping[str, Predictor]", newest: bool) -> None:
    """Shows a question with its answers; the newest one with the other answers that the models thought of."""
    with st.container(border=True):
        places = _show_question(turn.question, models)
        for name, place in places.items():
            with place:
                _show_answer(turn.answers[name], name, models, newest)
        _show_difference(turn)


def _show_question(question: str, models: "Mapping[str, Predictor]") -> dict[str, Any]:
    """Shows a question; the place below it for the answer of each model."""
    show_line(question, "question")
    if len(models) == 1:
        return dict.fromkeys(models, st.container())
    return dict(zip(models, st.columns(len(models)), strict=True))


def _show_answer(answer: "Answer | str", name: str, models: "Mapping[str, Predictor]", newest: bool) -> None:
    """Shows one model's answer and its confidence, or why there is none."""
    if len(models) > 1:
        show_line(short_name(name), "model")
    if isinstance(answer, str):
        show_error(answer)
        return
    text = answer.answer or "(no answer)"
    show_line("(silent)" if answer.silent else text, "answer")
    st.progress(min(answer.confidence, 1.0), text=f"Confidence {answer.confidence:.0%}")
    if answer.silent:
        st.warning(why_silent(models[name].abstention_threshold), icon=":material/block:")
    elif answer.confidence < UNSURE:
        st.warning("The model is unsure: read the other answers too.", icon=":material/help:")
    if answer.unlike_training:
        st.info(UNLIKE_TRAINING)
    if answer.question_cut:
        st.info("The question is longer than the model can read; its end was left out.")
    if answer.evidence is not None:
        show_line(what_is_seen(answer.evidence), "seen")
    if answer.alternatives and newest:
        st.caption("Other answers")
        others = answer.alternatives[:OTHER_ANSWERS]
        _show_chart({other.answer or "(no answer)": other.confidence for other in others})


def _show_chart(shares: Mapping[str, float]) -> None:
    """Shows shares of one as bars with their names and numbers."""
    color = "#e8f1f2" if st.context.theme.type == "dark" else "#14252b"
    axis = {"title": None, "labelLimit": 240, "labelColor": color}
    bars = [{"answer": f"{name[:LABEL_LENGTH]} {share:.1%}", "share": share} for name, share in shares.items()]
    spec = {  # plain Vega-Lite: checking one of Altair's charts would take as long as an answer
        "data": {"values": bars},
        "height": {"step": 26},
        "mark": {"type": "bar", "cornerRadius": 3},
        "encoding": {
            "x": {"field": "share", "type": "quantitative", "scale": {"domain": [0, 1]}, "axis": None},
            "y": {"field": "answer", "type": "nominal", "sort": None, "axis": axis},
        },
    }
    described = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    st.vega_lite_chart(spec, alt=f"Confidence of the other answers: {described}")


def _show_difference(turn: Turn) -> None:
    """Says so where the models do not agree."""
    texts = {answer if isinstance(answer, str) else answer_identity(answer.answer) for answer in turn.answers.values()}
    if len(texts) > 1:
        st.badge("The models differ", icon=":material/compare_arrows:", color="orange")


def with_evidence(image: Image.Image, evidence: "Evidence", opacity: float | None) -> Image.Image:
    """The image with what a model finds in it: outlines with names, or a map of probabilities.

    Args:
        opacity: of a place that is certain in the map, 0 to 1; None is outlines.
    """
    from modeling.asking.heat_maps import outline, overlay

    if opacity is None:
        return outline(image, evidence.boxes)
    return overlay(image, np.array(evidence.cells), opacity, limits=(0, 1))


def with_heat_map(image: Image.Image, turn: Turn, name: str, model: "Predictor", opacity: float) -> Image.Image:
    """The image under the heat map of what moved a model's answer. There must be an answer.

    Args:
        image: in the window of the turn.
        opacity: of the hottest place, 0 to 1.

    Raises:
        LimitError: the visitor has asked for too much; a map that was shown counts once.
        UserError: the model has no map.
    """
    from modeling.asking.heat_maps import overlay

    answer = turn.answers[name]
    assert not isinstance(answer, str)
    if name not in turn.heat_maps:
        count(QUESTIONS)
        likeliest = answer.alternatives[0].answer if answer.silent else answer.answer
        turn.heat_maps[name] = model.heat_map(image, turn.question, likeliest)
    return overlay(image, turn.heat_maps[name], opacity)


def suggest(conversation: Conversation, model: "Predictor", image: Image.Image) -> tuple[str, ...]:
    """Questions that fit the image, by the body part that the model sees in it; asked once.

    Those that fit any image where the visitor has asked for too much.
    """
    if not conversation.suggestions:
        try:
            count(QUESTIONS)
        except LimitError:
            return suggestions("")
        conversation.suggestions = suggestions(model.answer(image, PROBES[0], top_k=1).answer)
    return conversation.suggestions


def as_json(conversations: Iterable[tuple[str, Conversation]]) -> str:
    """Questions and answers as a JSON list. Of the evidence it has the boxes, without the map.

    Args:
        conversations: each with the name of its image.
    """
    rows = [
        {
            "image": image,
            "question": turn.question,
            "window": turn.window,
            "answers": [_answer_entry(name, answer) for name, answer in turn.answers.items()],
        }
        for image, conversation in conversations
        for turn in conversation.turns
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def _answer_entry(name: str, answer: "Answer | str") -> dict[str, Any]:
    if isinstance(answer, str):
        return {"model": name, "error": answer}
    entry = {"model": name, **asdict(answer)}
    if entry["evidence"] is not None:
        del entry["evidence"]["cells"]
    return entry
