"""metrics.cases: which questions the report shows, and the page of wrong answers in a real browser."""

import re

import numpy as np
import pytest
from PIL import Image

from metrics.cases import brightness, choose_cases, with_heat_map, write_error_page
from metrics.grounding import Pointing
from metrics.plots import plot_pointing
from metrics.vqa import score_each
from tests.support.layout import boxes

NASTY = "</script><script>document.title='broken'</script><b>bold</b>"


def row_of(image, question="Is the liver healthy?", answer="No", **others):
    row = {
        "image": str(image),
        "image_id": image.stem,
        "question": question,
        "answer": answer,
        "language": "en",
        "answer_type": "CLOSED",
        "content_type": "Organ",
        "modality": "CT",
        "location": "Abdomen",
        "boxes": [{"label": "Liver", "bbox": [10.0, 20.0, 30.0, 20.0]}],
    }
    return row | others


@pytest.fixture
def images(tmp_path):
    files = [tmp_path / f"{name}.png" for name in "ab"]
    for file in files:
        Image.effect_noise((80, 60), 60).convert("RGB").save(file)
    return files


def test_cases_are_questions_that_name_a_box_and_wrong_answers(images):
    a, b = images
    rows = [
        row_of(a),  # right, named
        row_of(a, question="Is this a CT?", answer="Yes"),  # right
        row_of(b, question="Is this a CT?", answer="Yes"),  # wrong
        row_of(b, boxes=None),  # wrong, without boxes
    ]
    cases = choose_cases(score_each(rows, ["no", "yes", "No", "Yes"], [0.5, 0.6, 0.7, 0.8]), 9)
    assert [(case.row, case.prediction, case.correct, len(case.boxes)) for case in cases] == [
        (rows[0], "no", True, 1),
        (rows[2], "No", False, 0),
        (rows[3], "Yes", False, 0),
    ]


def test_of_many_the_most_confident_errors_and_always_the_same_sample_are_chosen(images):
    rows = [row_of(images[0], question_id=i) for i in range(20)]
    right = choose_cases(score_each(rows, ["No"] * 20, np.linspace(0, 1, 20).tolist()), limit=5)
    assert [case.row for case in right] == [
        case.row for case in choose_cases(score_each(rows, ["No"] * 20, [0.5] * 20), limit=5)
    ]
    assert len(right) == 5
    mixed = choose_cases(score_each(rows, ["Yes"] * 10 + ["No"] * 10, [0.5] * 20), limit=5)
    assert sum(case.for_grounding for case in mixed) == 5  # a sample of all, of which no more are wrong than of all
    assert sum(not case.correct for case in mixed) > sum(case.for_grounding and not case.correct for case in mixed)
    unnamed = [row | {"boxes": []} for row in rows]
    wrong = choose_cases(score_each(unnamed, ["Yes"] * 20, np.linspace(0, 1, 20).tolist()), limit=5)
    assert [case.row["question_id"] for case in wrong] == [15, 16, 17, 18, 19]


def test_page_of_errors_holds_the_surest_alone(images, tmp_path):
    """Of 20 wrong answers that name a box, five are drawn for grounding: those are no reason to be on the page."""
    rows = [row_of(images[0], question_id=i, question=f"Is the liver healthy? {i}") for i in range(20)]
    cases = choose_cases(score_each(rows, ["Yes"] * 20, np.linspace(0, 1, 20).tolist()), limit=5)
    assert len(cases) > 5
    write_error_page({"test": cases}, 20, tmp_path / "errors.html")
    shown = re.findall(r'"question": "Is the liver healthy\? (\d+)"', (tmp_path / "errors.html").read_text())
    assert shown == ["15", "16", "17", "18", "19"]


def test_page_of_errors_filters_sorts_and_shows_heat_maps(images, tmp_path, browser):
    a, b = images
    rows = [
        row_of(a, question=NASTY, answer="<i>Liver</i>"),
        row_of(b, modality="MRI", question="Where is the tumor?", boxes=None, answer="Lung", content_type=None),
        row_of(b, answer="Yes"),
        row_of(a, answer="Yes"),
    ]
    cases = choose_cases(score_each(rows, ["Spleen", "Heart", "No", "Yes"], [0.2, 0.9, 0.5, 0.9]), 9)
    heat = np.zeros((3, 4), np.float32)
    heat[1, 1] = 1
    cases = [with_heat_map(case, heat) for case in cases]
    write_error_page({"validation": cases[:2], "test": cases[2:]}, 7, tmp_path / "errors.html")

    page = browser.new_page(viewport={"width": 1000, "height": 800})
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    page.goto((tmp_path / "errors.html").as_uri())
    cards = page.locator("li")
    assert page.title() == "Wrong answers"
    told = (
        "7 answers do not match the gold answer exactly; these are the ones the model was surest of: "
        "2 of validation, 1 of test."
    )
    assert page.locator("#about").inner_text().startswith(told)
    assert [text.split("\n")[0] for text in cards.all_inner_texts()] == [
        "Where is the tumor?",
        "Is the liver healthy?",
        NASTY,
    ]
    assert "Heart" in cards.first.inner_text()
    assert "90.0 %" in cards.first.inner_text()
    assert page.locator("li b, li i").count() == 0
    assert page.locator("figure img:not(.heat)").first.get_attribute("alt") == "Image b"
    assert page.locator("img").first.evaluate("image => image.naturalWidth") == 80

    page.get_by_label("Modality").select_option("CT")
    assert cards.count() == 2
    assert page.locator("output").inner_text() == "2 of 3 shown"
    page.get_by_label("Split").select_option("test")
    assert cards.count() == 1
    page.get_by_label("Split").select_option("all")
    page.get_by_label("Modality").select_option("all")
    page.get_by_label("Order").select_option("least sure first")
    assert NASTY in cards.first.inner_text()
    page.get_by_label("Words").fill("heart TUMOR")
    assert cards.count() == 1
    page.get_by_label("Words").fill("")

    glow = page.locator("img.heat").first
    assert glow.is_visible()
    page.get_by_label("Heat map").uncheck()
    assert not glow.is_visible()
    assert not page.locator("figure span").first.is_visible()
    page.get_by_label("Boxes of what is named").check()
    box, picture = boxes(page, *(page.locator(f"li:has(span) {part}").first for part in ("span", "img")))
    assert (box["x"] - picture["x"]) / picture["width"] == pytest.approx(10 / 80, abs=0.02)
    assert box["height"] / picture["height"] == pytest.approx(20 / 60, abs=0.03)
    assert problems == []
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_page_without_heat_maps_or_errors(images, tmp_path, browser):
    page = browser.new_page()
    cases = choose_cases(score_each([row_of(images[0])], ["Yes"], [0.5]), 9)
    write_error_page({"test": cases}, 1, tmp_path / "errors.html")
    page.goto((tmp_path / "errors.html").as_uri())
    assert page.locator("li").count() == 1
    assert page.locator("img.heat").count() == 0
    write_error_page({"test": cases}, 9, tmp_path / "errors.html")
    page.goto((tmp_path / "errors.html").as_uri())
    assert "9 answers do not match the gold answer exactly; these are the 1 the model was surest of" in page.content()
    write_error_page({"test": []}, 0, tmp_path / "errors.html")
    page.goto((tmp_path / "errors.html").as_uri())
    assert page.locator("li").count() == 0
    assert "0 answers do not match" in page.locator("#about").inner_text()
    page.close()


def test_page_needs_nothing_else(images, tmp_path):
    write_error_page(
        {"test": choose_cases(score_each([row_of(images[0])], ["Yes"], [0.5]), 9)}, 1, tmp_path / "errors.html"
    )
    text = (tmp_path / "errors.html").read_text()
    assert not re.search(r"(src|href)=[\"']?http", text)
    assert str(tmp_path) not in text


def test_picture_of_the_best_and_worst_maps(images, tmp_path):
    a, b = images
    good, bad = np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)
    good[1, 1], bad[2, 3] = 1, 1
    [case] = choose_cases(
        score_each([row_of(a, question="Is the $liver$ " + "very " * 40 + "healthy?")], ["No"], [0.5]), 9
    )
    [other] = choose_cases(score_each([row_of(b)], ["Yes"], [0.5]), 9)
    cases = [with_heat_map(case, good), with_heat_map(other, bad), with_heat_map(other, bad)]
    assert [one.pointing.hit for one in cases] == [1, 0, 0]
    plot_pointing(cases, tmp_path / "pointing.jpg")
    with Image.open(tmp_path / "pointing.jpg") as picture:
        assert picture.width > 800


def test_picture_shows_the_very_best_and_worst_maps_and_no_image_twice_in_a_row(images, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "metrics.plots._draw_case", lambda case, _, title: shown.append((title, case.prediction, case.pointing.mass))
    )
    cases = []
    for image, name, mass in ((0, "a", 0.9), (1, "b", 0.5), (0, "again a", 0.1)):
        [case] = choose_cases(score_each([row_of(images[image])], [name], [0.5]), 9)
        cases.append(case._replace(pointing=Pointing(hit=1, mass=mass, area=0.2, chance=0.2, center=0)))
    plot_pointing(cases[::-1], tmp_path / "pointing.jpg")
    assert shown == [("best", "a", 0.9), ("best", "b", 0.5), ("worst", "again a", 0.1), ("worst", "b", 0.5)]


def test_brightness_spans_the_heat_of_a_map():
    np.testing.assert_allclose(brightness(np.array([[2.0, 4], [3, 2.5]])), [[0, 1], [0.5, 0.25]])
    np.testing.assert_allclose(brightness(np.full((2, 2), 0.25)), 0)
