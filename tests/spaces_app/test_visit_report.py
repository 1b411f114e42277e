"""spaces_app.visit_report: what the HTML file and the PDF hold, and that nothing in them is markup."""

import base64
import io
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser

import pytest
from PIL import Image
from pypdf import PdfReader

from spaces_app.content import DISCLAIMER
from spaces_app.visit_report import (
    FOOTER,
    TITLE,
    UNKNOWN,
    ReportedAnswer,
    ReportedModel,
    ReportedQuestion,
    as_html,
    as_pdf,
)

MADE = datetime(2026, 5, 4, 14, 5, tzinfo=timezone(timedelta(hours=2)))
MODELS = (ReportedModel("user/vqa", "0123abcd", "https://huggingface.co/user/vqa"), ReportedModel("demo"))
PICTURE = Image.new("RGB", (300, 200), "#506070")
SURE = ReportedAnswer("user/vqa", "no", 0.873, ("Seen: Lung in 2 places (90%).",), (("yes", 0.102), ("liver", 0.021)))
FAILED = ReportedAnswer("demo", "The image can't be read.")
VERDICT = "The reader says: wrong; right is pneumonia."
QUESTION = ReportedQuestion(
    "chest.dcm", "DICOM, slice 12 of 40", PICTURE, "Is the lung healthy?", (SURE, FAILED), VERDICT
)
SAID = (
    "Made on 2026-05-04 at 14:05 UTC+02:00",
    "user/vqa, commit 0123abcd",
    "chest.dcm",
    "DICOM, slice 12 of 40",
    "Is the lung healthy?",
    "no",
    "Confidence 87%",
    "Seen: Lung in 2 places (90%).",
    "Other answers: yes (10.2%), liver (2.1%)",
    "The image can't be read.",
    VERDICT,
    DISCLAIMER,
)
MARKUP = "</p></h3><script>alert(1)</script><img src=x onerror=alert(2)> <b>bold</b> &amp; \"'"


class Page(HTMLParser):
    """The elements of an HTML file, each by its name and attributes, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def embedded(image: dict[str, str | None]) -> Image.Image:
    kind, _, data = image["src"].partition(";base64,")
    assert kind == "data:image/jpeg"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def pages_of(pdf: bytes) -> list[str]:
    """The text of each page, without its line breaks."""
    return [" ".join(page.extract_text().split()) for page in PdfReader(io.BytesIO(pdf)).pages]


def pictures_on(page) -> list[tuple[float, float, float, float]]:
    """Left, bottom, width and height of each picture on a page, in points."""
    places = []

    def note(operator, _, matrix, __):
        if operator == b"Do":
            places.append((matrix[4], matrix[5], matrix[0], matrix[3]))

    page.extract_text(visitor_operand_before=note)
    return places


# HTML ----------------------------------------------------------------------------------------------------------------


def test_html_holds_all_that_was_said():
    page = Page(as_html(MODELS, [QUESTION], MADE))
    missing = [text for text in SAID if not any(text in one for one in page.texts)]
    assert not missing
    assert page.texts.count("no") == 1
    assert [one for one in page.texts if one.startswith("Confidence")] == ["Confidence 87%"]  # an error has none
    assert page.texts.count(DISCLAIMER) == 2, "at the top, and at the foot of printed pages"
    assert page.all("a") == [{"href": "https://huggingface.co/user/vqa", "rel": "noreferrer"}]


def test_html_runs_nothing_and_loads_nothing():
    html = as_html(MODELS, [QUESTION], MADE)
    page = Page(html)
    assert page.all("html") == [{"lang": "en"}]
    policy = {"default-src 'none'; img-src data:; style-src 'unsafe-inline'"}
    assert {one["content"] for one in page.all("meta") if "http-equiv" in one} == policy
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object", "form", "base"})
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    assert all(attributes["src"].startswith("data:image/jpeg;base64,") for attributes in page.all("img"))
    assert "url(" not in html
    assert "@import" not in html


def test_html_takes_no_text_for_markup():
    answer = ReportedAnswer(MARKUP, MARKUP, 0.5, (MARKUP,), ((MARKUP, 0.1),))
    marked = Page(
        as_html(
            [ReportedModel(MARKUP, MARKUP)],
            [ReportedQuestion(MARKUP, MARKUP, PICTURE, MARKUP, (answer,), MARKUP)],
            MADE,
        )
    )
    answer = ReportedAnswer("m", "a", 0.5, ("l",), (("o", 0.1),))
    plain = Page(as_html([ReportedModel("m", "c")], [ReportedQuestion("i", "d", PICTURE, "q", (answer,), "v")], MADE))
    assert [tag for tag, _ in marked.elements] == [tag for tag, _ in plain.elements]
    assert sum(text.count(MARKUP) for text in marked.texts) == 10
    assert marked.all("img")[0]["alt"] == f"The image {MARKUP}, as it was asked about"
    assert marked.all("img")[0].keys() == {"src", "alt"}


def test_headings_of_the_html_are_in_order():
    page = Page(as_html(MODELS, [QUESTION, replace(QUESTION, picture=PICTURE.copy())], MADE))
    levels = [int(tag[1]) for tag, _ in page.elements if tag in {f"h{level}" for level in range(1, 7)}]
    assert levels == [1, 2, 2, 3, 4, 4, 2, 3, 4, 4]


def test_html_embeds_a_picture_once_for_the_questions_in_a_row_about_it():
    other = replace(QUESTION, picture=Image.new("L", (2100, 100), 200), image_name="wide.png", question="Which part?")
    page = Page(as_html(MODELS, [QUESTION, replace(QUESTION, question="Which organ?"), other], MADE))
    assert {"Is the lung healthy?", "Which organ?", "Which part?"} < set(page.texts)
    images = page.all("img")
    assert [embedded(image).size for image in images] == [(300, 200), (800, 38)]
    alts = ["The image chest.dcm, as it was asked about", "The image wide.png, as it was asked about"]
    assert [image["alt"] for image in images] == alts
    windowed = replace(QUESTION, details="DICOM, slice 12 of 40, window 40/400")
    assert len(Page(as_html(MODELS, [QUESTION, windowed], MADE)).all("img")) == 2


def test_an_embedded_picture_has_the_colours_and_not_the_comment_of_its_file():
    picture = PICTURE.copy()
    picture.info["comment"] = b"Jane Doe"
    picture.paste("#ffbb55", (10, 10, 12, 190))  # an outline
    questions = [replace(QUESTION, picture=picture)]
    image = embedded(Page(as_html(MODELS, questions, MADE)).all("img")[0])
    assert "comment" not in image.info
    assert image.getpixel((10, 100)) == pytest.approx((255, 187, 85), abs=12)
    assert image.getpixel((200, 100)) == pytest.approx((0x50, 0x60, 0x70), abs=4)
    reader = PdfReader(io.BytesIO(as_pdf(MODELS, questions, MADE)))
    assert b"Jane Doe" not in reader.pages[0].images[0].data


def test_html_can_be_written_to_a_file_whatever_a_name_holds():
    html = as_html(MODELS, [replace(QUESTION, image_name="a\ud800.png", question="肺炎")], MADE)
    texts = Page(html.encode().decode()).texts
    assert "a?.png" in texts
    assert "肺炎" in texts


def test_html_fits_a_phone_and_prints_the_disclaimer_on_each_page(browser):
    long = replace(QUESTION, image_name="n" * 300, question="q" * 800, answers=(replace(SURE, answer="a" * 800),))
    wide = replace(QUESTION, picture=Image.new("RGB", (2100, 100)))
    tall = replace(QUESTION, picture=Image.new("RGB", (100, 2100)))
    page = browser.new_page(viewport={"width": 360, "height": 640})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.set_content(as_html(MODELS, [long, wide, tall, QUESTION], MADE))
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("[...document.images].every(image => image.naturalWidth && image.height <= 512)")
    assert not [url for url in requests if not url.startswith("data:")]
    printed = pages_of(page.pdf(format="A4"))
    page.close()
    assert len(printed) > 2
    assert all(text.count(DISCLAIMER) == 1 for text in printed[1:])
    assert printed[0].count(DISCLAIMER) == 2


# PDF -----------------------------------------------------------------------------------------------------------------


def test_pdf_holds_all_that_was_said():
    (text,) = pages_of(as_pdf(MODELS, [QUESTION], MADE))
    assert not [said for said in (*SAID, TITLE, "page 1 of 1", MODELS[0].card, " no Confidence") if said not in text]
    assert text.count("Confidence") == 1  # an error has none


def test_each_page_of_the_pdf_has_the_disclaimer_and_its_number():
    pages = pages_of(as_pdf(MODELS, [replace(QUESTION, question=f"Question {number}?") for number in range(7)], MADE))
    assert [text.count(DISCLAIMER) for text in pages] == [1, 1, 1]
    assert [f"page {number} of 3" in text for number, text in enumerate(pages, 1)] == [True] * 3
    questions = [[number for number in range(7) if f"Question {number}?" in text] for text in pages]
    assert questions == [[0, 1], [2, 3, 4], [5, 6]]


def test_each_question_of_the_pdf_has_its_picture_and_the_file_has_each_once():
    other = replace(QUESTION, picture=Image.new("RGB", (900, 450), "red"))
    reader = PdfReader(io.BytesIO(as_pdf(MODELS, [QUESTION, QUESTION, other], MADE)))
    assert [len(pictures_on(page)) for page in reader.pages] == [2, 1]
    images = [image for page in reader.pages for image in page.images]
    assert [image.image.size for image in images] == [(300, 200), (800, 400)]
    assert images[1].image.convert("RGB").getpixel((400, 200)) == pytest.approx((255, 0, 0), abs=4)


@pytest.mark.parametrize("size", [(2100, 100), (100, 2100), (390, 200), (3000, 3000), (1, 1), (5000, 1), (1, 5000)])
def test_a_picture_of_any_shape_fits_the_page(size):
    reader = PdfReader(io.BytesIO(as_pdf(MODELS, [replace(QUESTION, picture=Image.new("RGB", size))], MADE)))
    ((left, bottom, width, height),) = [place for page in reader.pages for place in pictures_on(page)]
    assert left >= 50
    assert left + width <= 595 - 50
    assert bottom >= FOOTER
    assert 0 < height <= 185  # 65 mm
    assert width <= (494 if size[0] > 2 * size[1] else 247)  # the answers stand beside it
    if 100 < max(size) <= 3000:
        assert width / height == pytest.approx(size[0] / size[1], rel=0.02)


@pytest.mark.parametrize("letter", ["W", "肺"])
def test_long_texts_without_a_space_go_over_lines_and_pages(letter):
    long = letter * 800
    answer = ReportedAnswer(long, long, 0.5, (long,), ((long, 0.1),))
    question = ReportedQuestion(long, long, PICTURE, long, (answer, answer), long)
    pages = PdfReader(io.BytesIO(as_pdf([ReportedModel(long)], [question, QUESTION], MADE))).pages
    lines = [line for page in pages for line in page.extract_text().splitlines()]
    assert sum(line.count(letter) for line in lines) == 13 * 800
    assert 40 < max(line.count(letter) for line in lines) <= 58  # of 8.5 points fit the 493 of a line
    assert [len(pictures_on(page)) for page in pages].count(1) == 2
    assert "Is the lung healthy?" in pages[-1].extract_text()


def test_pdf_takes_no_text_for_markup():
    marked = f'{MARKUP} <para> <font size="40"> <a href="https://example.org">x</a>'
    answer = ReportedAnswer(marked, marked, 0.5, (marked,), ((marked, 0.1),))
    question = ReportedQuestion(marked, marked, PICTURE, marked, (answer,), marked)
    pdf = as_pdf([ReportedModel(marked, marked, marked)], [question], MADE)
    shown = "".join(pages_of(pdf)).replace(" ", "")  # a line may end in the middle of a long word
    assert shown.count(marked.replace(" ", "")) == 11
    assert not [page for page in PdfReader(io.BytesIO(pdf)).pages if "/Annots" in page]


def test_pdf_shows_chinese_and_other_scripts_and_tells_what_its_fonts_lack():
    asked, answered = "图像中有哪些疾病？", "左肺，肺炎"  # noqa: RUF001
    lines = ("Seen: #2 肝脏 (50%).", "Здоровы ли лёгкие?", "Υγιής πνεύμονας")
    answer = replace(SURE, answer=answered, lines=lines)
    pdf = as_pdf(MODELS, [replace(QUESTION, question=asked, image_name="a\ud800क\x00.png", answers=(answer,))], MADE)
    (text,) = pages_of(pdf)
    assert not [said for said in (asked, answered, *lines, f"a{UNKNOWN * 3}.png") if said not in text]


def test_pdf_tells_its_title_and_time_and_is_the_same_for_the_same_visit():
    pdf = as_pdf(MODELS, [QUESTION], MADE)
    metadata = PdfReader(io.BytesIO(pdf)).metadata
    assert metadata.title == TITLE
    assert metadata.creation_date == MADE
    assert as_pdf(MODELS, [QUESTION], MADE) == pdf
    assert as_pdf(MODELS, [QUESTION], MADE + timedelta(minutes=1)) != pdf


@pytest.mark.parametrize("report", [as_html, as_pdf])
def test_a_time_without_a_zone_is_refused(report):
    with pytest.raises(ValueError, match="needs a time zone"):
        report(MODELS, [QUESTION], MADE.replace(tzinfo=None))
