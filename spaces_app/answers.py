"""Questions and answers of the Streamlit app: asking the models, showing what they answer and where they looked."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from PIL import Image

from processing.answers import answer_identity
from processing.errors import UserError
from processing.regions import Region
from spaces_app.content import (
    FIRST_EXAMPLE,
    FIRST_QUESTION,
    PROBES,
    QUESTION_CUT,
    UNLIKE_TRAINING,
    UNSURE,
    short_name,
    suggestions,
    text_of,
    what_is_seen,
    why_silent,
)
from spaces_app.corrections import Verdict
from spaces_app.limits import LIMITER, QUESTIONS, Limit, LimitError, client_address

if TYPE_CHECKING:
    from modeling.parts.evidence import Evidence
    from modeling.predictor import Answer, Predictor  # the page is painted before torch is loaded
    from spaces_app.pictures import Picture, View

OTHER_ANSWERS = 4  # shown below an answer
LEAST_SHOWN = 0.02  # confidence of those
LABEL_LENGTH = 40  # characters of an answer beside its bar


@dataclass
class Turn:
    """A question about an image, or about several slices of a stack.

    Attributes:
        question: as it was asked.
        view: in which the models saw the image.
        about: that view in words.
        answers: by model; a text says why there is no answer. About several slices it is what most of them say, as
            the surest of these has it.
        slices: by model the answer about each slice, by its number, where there were several.
        region: that was asked about, besides the whole image.
        of_region: by model the answer about it.
        verdict: what the reader says of the answer.
        heat_maps: by model, of those that were shown.
    """

    question: str
    view: "View"
    about: str = ""
    answers: "dict[str, Answer | str]" = field(default_factory=dict)
    slices: "dict[str, dict[int, Answer | str]]" = field(default_factory=dict)
    region: Region | None = None
    of_region: "dict[str, Answer | str]" = field(default_factory=dict)
    heat_maps: dict[str, np.ndarray] = field(default_factory=dict)
    verdict: Verdict | None = None


@dataclass
class Conversation:
    """What was asked about an image.

    Attributes:
        turns: the oldest first.
        pending: a question that is not answered yet.
        asked_about: view, slices and region that were chosen when it was asked, as `answer_pending` takes them.
        suggestions: questions to offer, empty until the model was asked which body part the image shows.
    """

    turns: list[Turn] = field(default_factory=list)
    pending: str | None = None
    asked_about: "tuple[View, list[int], Region | None] | None" = None
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


def is_own(picture: "Picture", question: str) -> bool:
    """Whether the app has asked a question itself."""
    return picture.key == FIRST_EXAMPLE and question == FIRST_QUESTION


def answer_pending(
    picture: "Picture",
    models: "Mapping[str, Predictor]",
    view: "View",
    numbers: Sequence[int],
    region: Region | None,
) -> None:
    """Asks every model the pending question, and shows each answer as soon as it is there.

    Where this run of the script is interrupted, the next one asks again.

    Args:
        view: in which the image is asked about.
        numbers: of the slices that are asked about, where they are several; else empty.
        region: that is asked about besides the whole image; None where `numbers` has slices.

    Raises:
        LimitError: the visitor has asked for too much; the question is no longer pending.
    """
    conversation = picture.conversation
    about = f"slices {', '.join(map(str, numbers))}" if numbers else picture.in_words(view)
    turn = Turn(conversation.pending or "", view, about, region=region)
    try:
        if not is_own(picture, turn.question):
            count(QUESTIONS, len(models) * (len(numbers) or (1 if region is None else 2)))
    except LimitError:
        conversation.pending = None
        raise
    places = _show_question(turn, models)
    for name, model in models.items():
        try:
            _ask(model, name, picture, turn, numbers)
        except UserError as error:
            turn.answers[name] = str(error)
        if len(turn.answers) == len(models):  # before it is shown: a click there ends this run of the script
            conversation.turns.append(turn)
            conversation.pending = None
        with places[name]:
            _show_answer(turn, name, models, newest=True)
    _show_difference(turn)


def _ask(model: "Predictor", name: str, picture: "Picture", turn: Turn, numbers: Sequence[int]) -> None:
    """Puts a model's answers into a turn.

    Raises:
        UserError: the image can't be opened, or there is no answer.
    """
    from modeling.asking.regions import ask_about_region

    if numbers:
        images: list[Any] = [picture.image(turn.view._replace(number=number)) for number in numbers]
        results = model.try_batch(images, [turn.question] * len(images), top_k=1)
        told = [str(result) if isinstance(result, UserError) else result for result in results]
        turn.slices[name] = dict(zip(numbers, told, strict=True))
        turn.answers[name] = most_say(told)
    elif turn.region is not None:
        both = ask_about_region(model, picture.image(turn.view), turn.question, turn.region)
        turn.of_region[name], turn.answers[name] = both.region, both.whole
    else:
        turn.answers[name] = model.answer(picture.image(turn.view), turn.question)


def most_say(answers: "Sequence[Answer | str]") -> "Answer | str":
    """What most of some answers say, as the surest of these has it; of as many, what is said with more confidence.

    Errors, which are texts, count only where all are.
    """
    told = [answer for answer in answers if not isinstance(answer, str)]
    if not told:
        return answers[0]
    sums: dict[str, tuple[int, float]] = {}
    for answer in told:
        count, total = sums.get(answer_identity(answer.answer), (0, 0.0))
        sums[answer_identity(answer.answer)] = count + 1, total + answer.confidence
    best = max(sums, key=lambda identity: sums[identity])
    return max((a for a in told if answer_identity(a.answer) == best), key=lambda answer: answer.confidence)


def show_turn(turn: Turn, models: "Mapping[str, Predictor]", newest: bool) -> None:
    """Shows a question with its answers; the newest one with the other answers that the models thought of."""
    with st.container(border=True):
        places = _show_question(turn, models)
        for name, place in places.items():
            with place:
                _show_answer(turn, name, models, newest)
        _show_difference(turn)


def _show_question(turn: Turn, models: "Mapping[str, Predictor]") -> dict[str, Any]:
    """Shows a question and what it is about; the place below it for the answer of each model."""
    show_line(turn.question, "question")
    if turn.about:
        st.caption(plain(turn.about))
    if len(models) == 1:
        return dict.fromkeys(models, st.container())
    return dict(zip(models, st.columns(len(models)), strict=True))


def _show_answer(turn: Turn, name: str, models: "Mapping[str, Predictor]", newest: bool) -> None:
    """Shows one model's answer and its confidence, or why there is none."""
    answer = turn.answers[name]
    if len(models) > 1:
        show_line(short_name(name), "model")
    if isinstance(answer, str):
        show_error(answer)
        return
    if name in turn.of_region:
        of_region = turn.of_region[name]
        st.caption("In the region")
        show_line(text_of(of_region), "answer")
        if not isinstance(of_region, str):
            _show_confidence(of_region)
        st.caption("In the whole image")
    show_line(text_of(answer), "answer")
    if name in turn.slices:
        _show_slices(turn.slices[name], answer)
        return
    _show_confidence(answer)
    if answer.silent:
        st.warning(why_silent(models[name].abstention_threshold), icon=":material/block:")
    elif answer.confidence < UNSURE:
        st.warning("The model is unsure: read the other answers too.", icon=":material/help:")
    if answer.unlike_training:
        st.info(UNLIKE_TRAINING)
    if answer.question_cut:
        st.info(QUESTION_CUT)
    if answer.evidence is not None:
        show_line(what_is_seen(answer.evidence, turn.region is not None), "seen")
    others = [other for other in answer.alternatives[:OTHER_ANSWERS] if other.confidence >= LEAST_SHOWN]
    if others and newest:
        st.caption("Other answers")
        _show_chart({other.answer or "(no answer)": other.confidence for other in others})


def _show_confidence(answer: "Answer") -> None:
    st.progress(min(answer.confidence, 1.0), text=f"Confidence {answer.confidence:.0%}")


def _show_slices(answers: "Mapping[int, Answer | str]", most: "Answer") -> None:
    """Shows the answer about each slice, and how many say what most say."""
    identity = answer_identity(most.answer)
    agreeing = sum(not isinstance(one, str) and answer_identity(one.answer) == identity for one in answers.values())
    st.caption(f"{agreeing} of {len(answers)} slices say so.")
    rows = [
        {"Slice": number, "Answer": text_of(one), "Confidence": None if isinstance(one, str) else one.confidence}
        for number, one in answers.items()
    ]
    columns = {"Confidence": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)}
    st.dataframe(rows, hide_index=True, column_config=columns)


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


def suggest(picture: "Picture", model: "Predictor", image: Image.Image) -> tuple[str, ...]:
    """Questions that fit the image, by the body part that the model sees in it; asked once.

    Those that fit any image where the visitor has asked for too much.
    """
    conversation = picture.conversation
    if not conversation.suggestions:
        try:
            if picture.key != FIRST_EXAMPLE:  # nobody has chosen that
                count(QUESTIONS)
            body_part = model.answer(image, PROBES[0], top_k=1).answer
        except LimitError:
            return suggestions("")
        except UserError:  # the answer to a question says why
            body_part = ""
        conversation.suggestions = suggestions(body_part)
    return conversation.suggestions
