"""The page of spaces_app.app that answers many questions at once, in a real browser."""

import csv
import io
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from modeling.predictor import Predictor
from tests.support.app_page import QUESTION, upload_table

pytestmark = pytest.mark.xdist_group("apps")


def rows_of(page: Page) -> list[dict]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the answers (CSV)").click()
    return list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))


def test_a_table_of_questions_is_answered(open_page, runs, image):
    page = open_page(runs("vilt"))
    page.get_by_role("tab", name="Many at once").click()
    table = f'question\n{QUESTION}\n""\nIs this a CT?\n'.encode()
    upload_table(page, image, {"name": "q.csv", "mimeType": "text/csv", "buffer": table})
    page.get_by_role("button", name="Answer all").click()
    expect(page.get_by_text("3 questions answered, 1 with an error.")).to_be_visible()
    rows = rows_of(page)
    assert [row["question"] for row in rows] == [QUESTION, "", "Is this a CT?"]
    assert rows[0]["prediction"] == Predictor.from_pretrained(runs("vilt")).answer(str(image), QUESTION).answer
    assert rows[1]["error"].startswith("The question is empty")


def test_an_archive_of_images_is_answered(open_page, runs, phantoms):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, file in enumerate(sorted((phantoms / "imgs").glob("*/source.jpg"))[:2]):
            archive.write(file, f"a/{number}.jpg")
        archive.writestr("../climb.png", b"no image")
        archive.writestr("__MACOSX/._0.jpg", b"x")
    page = open_page(runs("vilt"))
    page.get_by_role("tab", name="Many at once").click()
    page.get_by_text("The same questions about many images").click()
    page.get_by_label("Zip file of images").locator("input[type=file]").set_input_files(
        {"name": "i.zip", "mimeType": "application/zip", "buffer": packed.getvalue()}
    )
    page.get_by_role("button", name="Answer all").click()
    expect(page.get_by_text("6 questions answered, 2 with an error.")).to_be_visible()
    assert {row["image"] for row in rows_of(page)} == {"a/0.jpg", "a/1.jpg", "../climb.png"}
