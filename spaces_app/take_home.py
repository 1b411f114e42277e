"""What a reader says of the answers, and what a visitor takes home: questions and answers, a report, corrections."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import streamlit as st
from PIL import Image

from processing.answers import answer_identity
from processing.errors import UserError
from processing.regions import Region, outlined
from spaces_app.answers import Turn, is_own, plain, show_error, show_line, with_evidence
from spaces_app.content import UNLIKE_TRAINING, UNSURE, short_name, text_of, what_is_seen
from spaces_app.corrections import CorrectedRow, Verdict, as_zip
from spaces_app.pictures import Picture, pictures_of_visit

if TYPE_CHECKING:
    from modeling.predictor import Answer, Predictor  # the page is painted before torch is loaded
    from spaces_app.visit_report import ReportedAnswer, ReportedModel, ReportedQuestion

ANOTHER = "Another answer"


def judge(turn: Turn, key: str, region: Region | None) -> None:
    """Lets a reader say which answer is right, where it is about one image.

    Args:
        key: of this turn.
        region: that is chosen now, and may show what the answer is about.
    """
    if turn.slices:  # no single image is what was asked about
        st.empty()  # in place of the line that says that the model is waited for
        return
    given = list(dict.fromkeys(answer.answer for answer in _answers_of(turn)))
    verdict = turn.verdict
    if verdict is not None:
        show_line(f"Your answer: {verdict.answer}", "verdict")
    is_open = f"judged-{key}" in st.session_state  # each run of the script makes it anew
    with st.expander("Right or wrong?", expanded=is_open), st.form(f"verdict-{key}", border=False):
        about = "The right answer" if turn.region is None else "The right answer about the whole image"
        st.radio(about, (*given, ANOTHER), index=None, format_func=plain, key=f"right-{key}")
        st.text_input(ANOTHER, max_chars=200, key=f"another-{key}")
        if region is not None:
            st.checkbox("The region shows it", key=f"shows-{key}")
            st.text_input("What the region shows", max_chars=100, key=f"label-{key}")
        st.form_submit_button("Keep", on_click=_keep, args=(turn, key, region, given))
        if error := st.session_state.pop(f"refused-{key}", None):
            show_error(error)
        elif verdict is not None:
            st.caption("Kept for this visit, and among what you take home.")


def _keep(turn: Turn, key: str, region: Region | None, given: list[str]) -> None:
    """Keeps what the reader said; where it can't be kept, notes why."""
    state = st.session_state
    state[f"judged-{key}"] = True
    chosen, another = state[f"right-{key}"], state[f"another-{key}"].strip()
    right = another if chosen in (None, ANOTHER) else chosen
    if not right:
        state[f"refused-{key}"] = "There is no right answer yet; choose one, or write another."
        return
    is_right = any(answer_identity(answer) == answer_identity(right) for answer in given)
    try:
        turn.verdict = Verdict(
            is_right, right, region if state.get(f"shows-{key}") else None, state.get(f"label-{key}", "")
        )
    except UserError as error:
        state[f"refused-{key}"] = str(error)


def show_downloads(models: "Mapping[str, Predictor]") -> None:
    """Shows buttons for the questions and answers of the visit, its report, and the reader's corrections."""
    pictures = list(pictures_of_visit().values())
    with st.container(horizontal=True, gap="small"):
        told = [(picture.name, picture.conversation.turns) for picture in pictures]
        st.download_button(
            "Download questions and answers (JSON)",
            lambda: as_json(told),
            "answers.json",
            "application/json",
            on_click="ignore",
        )
        made = datetime.now().astimezone()
        named = _reported_models(models)

        def as_html() -> str:
            from spaces_app import visit_report

            return visit_report.as_html(named, list(_reported_questions(pictures)), made)

        def as_pdf() -> bytes:
            from spaces_app import visit_report

            return visit_report.as_pdf(named, list(_reported_questions(pictures)), made)

        st.download_button("Report (PDF)", as_pdf, "report.pdf", "application/pdf", on_click="ignore")
        st.download_button("Report (HTML)", as_html, "report.html", "text/html", on_click="ignore")
    taken_away = [picture for picture in pictures if not picture.is_there]
    gone = sum(not is_own(one, turn.question) for one in taken_away for turn in one.conversation.turns)
    if gone:
        st.caption(f"Answers about images that were taken away, which report and corrections lack: {gone}")
    if any(turn.verdict for picture in pictures for turn in picture.conversation.turns):
        with_images = st.checkbox("Corrections with the images, as you saw them", value=True)
        st.download_button(
            "Corrections to train on (zip)",
            lambda: as_zip(_corrected_rows(pictures), with_images),
            "corrections.zip",
            "application/zip",
            on_click="ignore",
        )


def as_json(conversations: Iterable[tuple[str, Iterable[Turn]]]) -> str:
    """Questions and answers as a JSON list. Of the evidence it has the boxes, without the map.

    Args:
        conversations: the turns about each image, with its name.
    """
    rows = [
        {
            "image": image,
            "question": turn.question,
            **_view_entry(turn),
            "answers": [_answer_entry(name, answer, turn) for name, answer in turn.answers.items()],
        }
        for image, turns in conversations
        for turn in turns
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def _view_entry(turn: Turn) -> dict[str, Any]:
    """The slice that is asked about, how its greys were shown, the region, and what the reader said.

    A window of None is the file's own.
    """
    view = turn.view
    entry: dict[str, Any] = {"slice": view.number, "window": view.window, "inverted": view.inverted}
    if turn.region is not None:
        entry["region"] = turn.region._asdict()
    if turn.verdict is not None:
        entry["right_answer"] = turn.verdict.answer
    return entry


def _answer_entry(name: str, answer: "Answer | str", turn: Turn) -> dict[str, Any]:
    entry = {"model": name, **_plain_entry(answer)}
    if name in turn.of_region:
        entry["of_region"] = _plain_entry(turn.of_region[name])
    if name in turn.slices:
        entry["slices"] = [{"slice": number, **_plain_entry(one)} for number, one in turn.slices[name].items()]
    return entry


def _plain_entry(answer: "Answer | str") -> dict[str, Any]:
    if isinstance(answer, str):
        return {"error": answer}
    entry = asdict(answer)
    if entry["evidence"] is not None:
        del entry["evidence"]["cells"]
    return entry


def _answers_of(turn: Turn) -> "list[Answer]":
    """Those that are answers, not errors or silence."""
    return [answer for answer in turn.answers.values() if not isinstance(answer, str) and answer.answer]


def _turns_there(pictures: Iterable[Picture]) -> Iterator[tuple[Picture, Turn]]:
    """What was asked about pictures that are still there."""
    return ((picture, turn) for picture in pictures if picture.is_there for turn in picture.conversation.turns)


def _corrected_rows(pictures: Iterable[Picture]) -> Iterator[CorrectedRow]:
    """The answers that were judged."""
    for picture, turn in _turns_there(pictures):
        if turn.verdict is not None:
            yield CorrectedRow(
                picture.name_of(turn.view.number),
                picture.image(turn.view),
                turn.question,
                turn.verdict,
                model=" | ".join(map(short_name, turn.answers)),
                predicted=" | ".join(map(text_of, turn.answers.values())),
            )


def _reported_models(models: "Mapping[str, Predictor]") -> "list[ReportedModel]":
    from spaces_app.visit_report import reported_model

    return [reported_model(name, model.commit) for name, model in models.items()]


def _reported_questions(pictures: Iterable[Picture]) -> "Iterator[ReportedQuestion]":
    """What was asked, with the pictures that were asked about."""
    from spaces_app.visit_report import PICTURE_PIXELS, ReportedQuestion

    shown = small = Image.new("L", (1, 1))
    for picture, turn in _turns_there(pictures):
        image = picture.image(turn.view)
        first = next(iter(turn.answers.values()))
        if not isinstance(first, str) and first.evidence is not None and not turn.slices:
            image = with_evidence(image, first.evidence, None)
        if turn.region is not None:
            image = outlined(image, turn.region)
        if image is not shown:
            shown, small = image, image.copy()  # a visit may have hundreds of large ones
            small.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
        yield ReportedQuestion(
            picture.name_of(turn.view.number),
            picture.details(turn.view),
            small,
            turn.question,
            tuple(_reported_answer(name, answer, turn) for name, answer in turn.answers.items()),
            None if turn.verdict is None else f"The reader's answer: {turn.verdict.answer}",
        )


def _reported_answer(name: str, answer: "Answer | str", turn: Turn) -> "ReportedAnswer":
    from spaces_app.visit_report import ReportedAnswer

    if isinstance(answer, str):
        return ReportedAnswer(short_name(name), answer)
    lines = []
    if name in turn.of_region:
        lines.append(f"In the region: {_with_confidence(turn.of_region[name])}. In the whole image: as above.")
    lines += [f"Slice {number}: {_with_confidence(one)}." for number, one in turn.slices.get(name, {}).items()]
    if answer.confidence < UNSURE:
        lines.append("The model is unsure.")
    if answer.unlike_training:
        lines.append(UNLIKE_TRAINING)
    if answer.evidence is not None and not turn.slices:
        lines.append(what_is_seen(answer.evidence, turn.region is not None))
    others = tuple((other.answer or "(no answer)", other.confidence) for other in answer.alternatives)
    return ReportedAnswer(short_name(name), text_of(answer), answer.confidence, tuple(lines), others)


def _with_confidence(answer: "Answer | str") -> str:
    return answer if isinstance(answer, str) else f"{text_of(answer)} ({answer.confidence:.0%})"
