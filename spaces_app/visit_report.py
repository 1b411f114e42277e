"""The questions and answers of a visit as a file to take home: one HTML page, or a PDF."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

import jinja2
import matplotlib
from PIL import Image
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import (
    BaseDocTemplate,
    Frame,
    HRFlowable,
    KeepTogether,
    PageTemplate,
    Paragraph,
    Table,
    TableStyle,
)
from reportlab.platypus import Image as PdfImage

from spaces_app.content import DISCLAIMER, short_name

TITLE = "Medical VQA: questions about medical images"
PICTURE_PIXELS = 800  # the longer side of an embedded picture

# Of the PDF's pages, in points.
MARGIN, FOOTER = 18 * mm, 26 * mm  # at the sides and the top; at the bottom, with the disclaimer
WIDTH, HEIGHT = A4[0] - 2 * MARGIN, A4[1] - MARGIN - FOOTER  # of the text
PICTURE_HEIGHT = 65 * mm  # at most
LATIN, BOLD, CHINESE = "DejaVuSans", "DejaVuSans-Bold", "STSong-Light"  # only the first two are embedded
UNKNOWN = "\ufffd"  # for a character that none of the fonts has
INK, QUIET = HexColor("#16201f"), HexColor("#54625f")
_TEXT = ParagraphStyle("text", fontName=LATIN, fontSize=10, leading=14, spaceAfter=3, textColor=INK)
_SMALL = ParagraphStyle("small", _TEXT, fontSize=8.5, leading=11, textColor=QUIET)
_DISCLAIMER = ParagraphStyle("disclaimer", _SMALL, fontName=BOLD, textColor=INK)
_TITLE = ParagraphStyle("title", _TEXT, fontName=BOLD, fontSize=16, leading=20)
_HEADING = ParagraphStyle("heading", _TEXT, fontName=BOLD, fontSize=12, leading=16, spaceBefore=8)
_MODEL = ParagraphStyle("model", _SMALL, fontName=BOLD, spaceBefore=6)
_ANSWER = ParagraphStyle("answer", _TEXT, fontName=BOLD, fontSize=16, leading=20)
_STRONG = ParagraphStyle("strong", _TEXT, fontName=BOLD, spaceBefore=6)
_BESIDE = TableStyle(
    [("VALIGN", (0, 0), (-1, -1), "TOP")]
    + [(f"{side}PADDING", (0, 0), (-1, -1), 0) for side in ("LEFT", "RIGHT", "TOP", "BOTTOM")]
)

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  :root { color-scheme: light dark; --ink: #16201f; --quiet: #54625f; --page: #f6f8f7; --card: #fff; --line: #d5dddb; }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e8eeec; --quiet: #a3b1ae; --page: #101615; --card: #19211f; --line: #33403d; } }
  * { box-sizing: border-box; }
  body { margin: 0 auto; max-width: 64rem; padding: 1rem; background: var(--page); color: var(--ink);
         font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
  h1, h2, h3 { margin: 0; font-size: 1.1rem; }
  h1 { font-size: 1.5rem; } header h2 { margin-top: 1rem; }
  h4 { margin: .8rem 0 0; font-size: .85rem; color: var(--quiet); }
  p { margin: .3rem 0; max-width: 75ch; }
  a { color: inherit; }
  .quiet { color: var(--quiet); font-size: .9rem; }
  .answer { margin: 0; font-size: 1.7rem; font-weight: 650; line-height: 1.25; }
  .disclaimer, .verdict { font-weight: 600; }
  .picture { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); gap: 1rem; align-items: start;
             margin: 1rem 0; padding: 1rem; background: var(--card); border: 1px solid var(--line);
             border-radius: .6rem; }
  .question + .question { margin-top: 1rem; padding-top: 1rem; border-top: 1px solid var(--line); }
  img { display: block; width: 100%; max-height: 80vh; object-fit: contain; object-position: left top;
        margin-top: .5rem; }
  ul { margin: .3rem 0; padding-left: 1.2rem; }
  footer { display: none; }
  @media (max-width: 40rem) { .picture { grid-template-columns: minmax(0, 1fr); } }
  @page { margin: 15mm; }
  @media print {
    :root { color-scheme: light; --ink: #000; --quiet: #444; --page: #fff; --card: #fff; --line: #bbb; }
    body { display: table; width: 100%; max-width: none; padding: 0; font-size: 11pt; }
    .picture { display: block; border-width: 1px 0 0; border-radius: 0; padding: 1rem 0; }
    .about, .question { break-inside: avoid; }
    .about { break-after: avoid; margin-bottom: 1rem; }
    img { max-height: 6cm; }
    .answer { font-size: 15pt; }
    /* its room is repeated on each page, so that no text runs into the line */
    footer { display: table-footer-group; break-inside: avoid; }
    footer::before { content: ""; display: block; height: 3rem; }
    footer p { position: fixed; bottom: 0; left: 0; right: 0; max-width: none; margin: 0; font-size: 8pt; }
  }
</style>
<body>
<header>
<h1>{{ title }}</h1>
<p class="quiet">{{ made }}</p>
<p class="disclaimer">{{ disclaimer }}</p>
<h2>Models</h2>
<ul>
{%- for model in models %}
  <li>{{ model.name }}
  {%- if model.commit %}, commit {{ model.commit }}{% endif %}
  {%- if model.card %}, <a href="{{ model.card }}" rel="noreferrer">model card</a>{% endif %}</li>
{%- endfor %}
</ul>
</header>
<main>
{%- for pictured in pictures %}
<section class="picture">
<div class="about">
<h2>{{ pictured[0].image_name }}</h2>
<p class="quiet">{{ pictured[0].details }}</p>
<img src="{{ pictured[0].picture | data_uri }}" alt="The image {{ pictured[0].image_name }}, as it was asked about">
</div>
<div>
{%- for question in pictured %}
<section class="question">
<h3>{{ question.question }}</h3>
{%- for answer in question.answers %}
<h4>{{ answer.model }}</h4>
<p class="answer">{{ answer.answer }}</p>
{%- if answer.confidence is not none %}
<p>{{ answer.confidence | confidence }}</p>
{%- endif %}
{%- for line in answer.lines %}
<p>{{ line }}</p>
{%- endfor %}
{%- if answer.others %}
<p class="quiet">{{ answer.others | others }}</p>
{%- endif %}
{%- endfor %}
{%- if question.verdict %}
<p class="verdict">{{ question.verdict }}</p>
{%- endif %}
</section>
{%- endfor %}
</div>
</section>
{%- endfor %}
</main>
<footer><p class="disclaimer">{{ disclaimer }}</p></footer>
"""


@dataclass(frozen=True)
class ReportedModel:
    """A model that was asked.

    Attributes:
        name: as its answers have it.
        commit: of its repo, None where it is not known.
        card: the address of its card, beginning with https://; None where it has none.
    """

    name: str
    commit: str | None = None
    card: str | None = None


@dataclass(frozen=True)
class ReportedAnswer:
    """What a model said to a question.

    Attributes:
        model: its name.
        answer: the text that is shown large.
        confidence: 0 to 1, None where there is none, as with an error.
        lines: sentences below it, such as what the evidence is or that the model is unsure.
        others: other answers that the model thought of, each with its confidence, 0 to 1.
    """

    model: str
    answer: str
    confidence: float | None = None
    lines: tuple[str, ...] = ()
    others: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ReportedQuestion:
    """A question about a picture, with all answers.

    Attributes:
        image_name: name of the picture's file.
        details: format, size, slice and window in one line.
        picture: as it was shown, with its outlines.
        question: as it was asked.
        answers: one of each model.
        verdict: what the reader says to the answers, in one line; None where there is nothing.
    """

    image_name: str
    details: str
    picture: Image.Image
    question: str
    answers: tuple[ReportedAnswer, ...]
    verdict: str | None = None


def reported_model(name: str, commit: str | None) -> ReportedModel:
    """A model as a report has it, with the address of its card where it comes from the Hub.

    Args:
        name: its Hub id or folder.
        commit: of its repo on the Hub, None of a folder.
    """
    return ReportedModel(short_name(name), commit, commit and f"https://huggingface.co/{quote(name)}")


def as_html(models: Sequence[ReportedModel], questions: Sequence[ReportedQuestion], made: datetime) -> str:
    """A report as one HTML file, which runs no script and fetches nothing.

    Questions in a row about the same picture object stand beside one copy of it.

    Args:
        models: that were asked.
        questions: in the order of the report.
        made: when the report is made.

    Raises:
        ValueError: `made` has no time zone.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"confidence": _confidence_text, "others": _others_text, "data_uri": _data_uri}
    page = environment.from_string(_PAGE).render(
        title=TITLE,
        made=_time_text(made),
        disclaimer=DISCLAIMER,
        models=models,
        pictures=[list(group) for _, group in groupby(questions, lambda one: (id(one.picture), one.details))],
    )
    return page.encode(errors="replace").decode()  # half a surrogate pair can't be written to a file


def as_pdf(models: Sequence[ReportedModel], questions: Sequence[ReportedQuestion], made: datetime) -> bytes:
    """A report as a PDF file of A4 pages, with the disclaimer and the page's number on each.

    The same arguments give the same bytes. A character that none of its fonts has is shown as U+FFFD; they have the
    Latin, Greek, Cyrillic, Chinese and Japanese ones. The Chinese font is not embedded: the reader's program has it.

    Args:
        models: that were asked.
        questions: in the order of the report.
        made: when the report is made.

    Raises:
        ValueError: `made` has no time zone.
    """
    _register_fonts()
    different = {id(one.picture): one.picture for one in questions}
    pictures = {key: _as_jpeg(picture) for key, picture in different.items()}
    _, pages = _build_pdf(models, questions, pictures, made, pages=0)  # how many pages they are is known only now
    return _build_pdf(models, questions, pictures, made, pages)[0]


def _time_text(made: datetime) -> str:
    if made.tzinfo is None:
        raise ValueError("The time of a report needs a time zone.")
    return f"Made on {made:%Y-%m-%d at %H:%M} {made.tzname()}"


def _confidence_text(confidence: float) -> str:
    return f"Confidence {confidence:.0%}"


def _others_text(others: Sequence[tuple[str, float]]) -> str:
    return "Other answers: " + ", ".join(f"{answer} ({confidence:.1%})" for answer, confidence in others)


def _as_jpeg(picture: Image.Image) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    small.info.clear()  # a comment of the file may tell a name
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90, subsampling=0)  # outlines keep their colours
    return file.getvalue()


def _data_uri(picture: Image.Image) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(_as_jpeg(picture)).decode()}"


@cache
def _register_fonts() -> None:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name in (LATIN, BOLD):
        pdfmetrics.registerFont(TTFont(name, folder / f"{name}.ttf"))
    pdfmetrics.registerFont(UnicodeCIDFont(CHINESE))


def _build_pdf(
    models: Sequence[ReportedModel],
    questions: Sequence[ReportedQuestion],
    pictures: dict[int, bytes],
    made: datetime,
    pages: int,
) -> tuple[bytes, int]:
    """The PDF, and how many pages it has.

    Args:
        pictures: JPEG files by the id of the picture.
        pages: how many the footers say that there are.
    """

    def begin_page(canvas: Any, _: Any) -> None:
        # without a formatter, a file that is always the same is dated to the year 2000
        canvas.setDateFormatter(lambda *_: f"D:{made:%Y%m%d%H%M%S}{made:%z}")
        text = Paragraph(DISCLAIMER, _DISCLAIMER)
        _, height = text.wrap(WIDTH, FOOTER)
        text.drawOn(canvas, MARGIN, FOOTER - 5 * mm - height)
        canvas.setFont(LATIN, _SMALL.fontSize)
        canvas.setFillColor(QUIET)
        canvas.drawRightString(A4[0] - MARGIN, 8 * mm, f"page {canvas.getPageNumber()} of {pages}")

    file = io.BytesIO()
    frame = Frame(MARGIN, FOOTER, WIDTH, HEIGHT, leftPadding=0, rightPadding=0, topPadding=0, bottomPadding=0)
    page = PageTemplate(frames=[frame], onPage=begin_page)
    document = BaseDocTemplate(
        file, pagesize=A4, pageTemplates=[page], title=TITLE, author="Medical VQA", lang="en", invariant=1
    )
    story = [_paragraph(TITLE, _TITLE), _paragraph(_time_text(made), _SMALL), _paragraph("Models", _HEADING)]
    story += [_paragraph(_model_text(model), _TEXT) for model in models]
    for question in questions:
        story.append(KeepTogether(_question_blocks(question, pictures[id(question.picture)])))
    document.build(story)
    return file.getvalue(), document.page


def _model_text(model: ReportedModel) -> str:
    commit = f"commit {model.commit}" if model.commit else ""
    return ", ".join(part for part in (model.name, commit, model.card) if part)


def _question_blocks(question: ReportedQuestion, jpeg: bytes) -> list[Any]:
    """The blocks of a question. The answers stand beside the picture where there is room for them."""
    picture = PdfImage(io.BytesIO(jpeg))
    is_wide = picture.imageWidth > 2 * picture.imageHeight
    scale = min(WIDTH / (1 if is_wide else 2) / picture.imageWidth, PICTURE_HEIGHT / picture.imageHeight)
    picture.drawWidth, picture.drawHeight = picture.imageWidth * scale, picture.imageHeight * scale
    picture.hAlign = "LEFT"
    answers = []
    for answer in question.answers:
        answers += [_paragraph(answer.model, _MODEL), _paragraph(answer.answer, _ANSWER)]
        if answer.confidence is not None:
            answers.append(_paragraph(_confidence_text(answer.confidence), _TEXT))
        answers += [_paragraph(line, _TEXT) for line in answer.lines]
        if answer.others:
            answers.append(_paragraph(_others_text(answer.others), _SMALL))
    if question.verdict:
        answers.append(_paragraph(question.verdict, _STRONG))
    column = picture.drawWidth + 5 * mm
    beside = Table([[picture, answers]], (column, WIDTH - column), style=_BESIDE)
    fits = not is_wide and beside.wrap(WIDTH, HEIGHT)[1] < HEIGHT
    return [
        HRFlowable(width="100%", color=QUIET, spaceBefore=4 * mm, spaceAfter=0),
        _paragraph(question.question, _HEADING),
        _paragraph(f"{question.image_name} · {question.details}", _SMALL),
        *([beside] if fits else [picture, *answers]),
    ]


def _paragraph(text: str, style: ParagraphStyle) -> Paragraph:
    """A paragraph of plain text, in the Chinese font where the one of the style has no such character."""
    known = pdfmetrics.getFont(style.fontName).face.charToGlyph
    characters = [char if ord(char) in known or _is_chinese(char) else UNKNOWN for char in " ".join(text.split())]
    markup = ""
    for is_latin, run in groupby(characters, lambda char: ord(char) in known):
        words = escape("".join(run))
        markup += words if is_latin else f'<font name="{CHINESE}">{words}</font>'
    return Paragraph(markup, style)


def _is_chinese(char: str) -> bool:
    """Whether the Chinese font has it."""
    return char.isprintable() and bool(char.encode("gbk", "ignore"))
