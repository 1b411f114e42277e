"""What a visitor does on the page of the Streamlit app."""

import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.support.layout import boxes

QUESTION = "What modality is used to take this image?"


def upload(page: Page, *files: Path | dict) -> None:
    """Until they are shown in place of the example."""
    page.locator("input[type=file][multiple]").first.set_input_files(list(files))  # not that of a table, which is one
    expect(page.get_by_text("Choose an image, or look at an example.")).to_have_count(0)
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def upload_table(page: Page, image: Path | dict, table: dict) -> None:
    """One after the other: a file that comes while the page is drawn anew may be lost."""
    for label, file in (("The image", image), ("CSV file with a column named question", table)):
        uploader = page.get_by_label(label)
        uploader.locator("input[type=file]").set_input_files(file)
        uploader.get_by_text(re.compile(r"^[\d.]+ ?K?B$")).wait_for()
        expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def ask(page: Page, question: str = QUESTION) -> None:
    box = page.get_by_placeholder("Ask about the image")
    box.fill(question)
    box.press("Enter")


def draw_box(page: Page, view: Locator, edges: tuple[float, float, float, float]) -> None:
    """Draws a region; its left, top, right and bottom are shares of the zoomed view."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")  # nor drawn anew
    page.get_by_role("button", name="Box Select").click()
    [place] = boxes(page, view)
    assert place is not None
    left, top, right, bottom = edges
    page.mouse.move(place["x"] + left * place["width"], place["y"] + top * place["height"])
    page.mouse.down()
    page.mouse.move(place["x"] + right * place["width"], place["y"] + bottom * place["height"], steps=4)
    page.mouse.up()


def confidence(page: Page):
    return page.get_by_text(re.compile(r"^Confidence \d+\s?%$"))
