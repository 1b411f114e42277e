"""processing.image_paths: the file that a table means, and never one outside of the data folder."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.image_paths import ImageFolder
from processing.problems import Problem
from tests.processing.conftest import rows_of

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Schädel é.png") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path):
    """A folder `data` with images in folders, one outside, and links to it."""
    root = tmp_path / "data"
    (root / "images" / "Knee Left").mkdir(parents=True)
    names = [
        "images/00.png",
        "images/Knee Left/1.JPG",
        f"images/{COMPOSED}",
        "images/two.png",
        "images/TWO.png",
        "top.png",
    ]
    for shade, name in enumerate(names):
        Image.new("RGB", (24, 24), (40 * shade, 0, 0)).save(root / name)
    Image.new("RGB", (24, 24)).save(tmp_path / "outside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "up").symlink_to(tmp_path)
    (root / "inner.png").symlink_to(root / "top.png")
    return root


FOUND = {
    "images/00.png": "images/00.png",
    "images\\00.png": "images/00.png",
    ".\\images\\00.png": "images/00.png",
    "images\\Knee Left\\1.JPG": "images/Knee Left/1.JPG",
    "images\\knee left/1.jpg": "images/Knee Left/1.JPG",
    "images/Knee Left/1.jpg": "images/Knee Left/1.JPG",
    "Images/KNEE LEFT/1.Jpg": "images/Knee Left/1.JPG",
    f"images/{COMPOSED}": f"images/{COMPOSED}",
    f"images/{DECOMPOSED}": f"images/{COMPOSED}",
    f"IMAGES\\{DECOMPOSED.upper()}": f"images/{COMPOSED}",
    " images/00.png": "images/00.png",
    "images/00.png \r\n": "images/00.png",
    "images / 00.png": "images/00.png",
    "./images/00.png": "images/00.png",
    "images//00.png": "images/00.png",
    "images/../images/00.png": "images/00.png",
    "../data/images/00.png": "images/00.png",
    "inner.png": "inner.png",
    "INNER.PNG": "inner.png",
    "images/two.png": "images/two.png",
    "images/TWO.png": "images/TWO.png",
    '"images/00.png"': "images/00.png",
    " 'images\\00.png' ": "images/00.png",
    "\ufeffimages/00.png": "images/00.png",
    "images/Knee%20Left/1.JPG": "images/Knee Left/1.JPG",
    "Images\\knee%20LEFT\\1.jpg": "images/Knee Left/1.JPG",
    "\u201cimages/00.png\u201d": "images/00.png",
    "file:images/00.png": "images/00.png",
    "images\two.png": "images/two.png",  # as JSON reads images\two.png with one backslash
}


@pytest.mark.parametrize("name", FOUND)
def test_a_name_that_can_mean_one_file_only_means_it(folder, name):
    assert ImageFolder(folder).find(name) == FOUND[name]


def test_a_name_that_says_less_than_a_file_is_not_outside(folder):
    for name in (".", " ./", "images/.."):
        assert ImageFolder(folder).find(name).kind == "missing image"
    assert ImageFolder(folder).find("%2e%2e/outside.png").kind == "image path leaves the data folder"
    (folder / "50%20.png").write_bytes((folder / "top.png").read_bytes())
    (folder / "50 .png").write_bytes((folder / "top.png").read_bytes())
    assert ImageFolder(folder).find("50%20.png") == "50%20.png"


def test_a_whole_path_inside_is_named_from_the_folder(folder, tmp_path):
    assert ImageFolder(folder).find(str(folder / "images" / "00.png")) == "images/00.png"
    (tmp_path / "other").symlink_to(folder)
    linked = ImageFolder(tmp_path / "other")
    assert linked.find(str(tmp_path / "other" / "images" / "00.png")) == "images/00.png"
    assert linked.find(str(folder / "inner.png")) == "inner.png"
    for url in (f"file://{folder}/images/Knee%20Left/1.JPG", f"FILE://localhost{folder}/images/Knee%20Left/1.JPG"):
        assert linked.find(url) == "images/Knee Left/1.JPG"
    assert linked.find(f"file://{tmp_path}/outside.png").kind == "image path leaves the data folder"
    assert ImageFolder(folder).find(str(tmp_path / "other" / "inner.png")) == "top.png"


OUTSIDE = [
    "../outside.png",
    "..\\outside.png",
    "link.png",
    "LINK.PNG",
    "up/outside.png",
    "up\\outside.png",
    " link.png ",
]
OUTSIDE += ["images/../../outside.png", "/etc/hostname", "up/data/../outside.png", ".."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_spelling_leads_out_of_the_folder(folder, name):
    found = ImageFolder(folder).find(name)
    assert isinstance(found, Problem)
    assert found.kind == "image path leaves the data folder"


@pytest.mark.parametrize("name", ["UP/outside.png", "up/OUTSIDE.PNG", "UP/OUTSIDE.PNG", "up/data/link.png "])
def test_a_name_in_other_letters_leads_through_no_link(folder, name):
    assert isinstance(ImageFolder(folder).find(name), Problem)


MISSING = {
    "images/Two.png": "images/Two.png; the folder has images/TWO.png and images/two.png",
    "images/00.jpg": "images/00.jpg; the folder has images/00.png",
    "images/00": "images/00; the folder has images/00.png",
    "images/schadel e.png": f"images/schadel e.png; the folder has images/{COMPOSED}",
    "00.png": "00.png; the folder has images/00.png",
    "data/images/00.png": "data/images/00.png; the folder has images/00.png",
    "C:\\Users\\me\\data\\images\\00.png": ".../00.png; the folder has images/00.png",
    "images/nothing like it.dcm": "images/nothing like it.dcm",
    "images/00.png\0": "images/00.png\\x00; the folder has images/00.png",
    "~/x.png": ".../x.png",
    "": "no path",
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_image_has_its_near_name_beside_it(folder, name):
    found = ImageFolder(folder).find(name)
    assert found == ("missing image", MISSING[name])


def test_a_path_from_the_root_has_its_near_name_too(folder):
    assert ImageFolder(folder).find("/images/00.png").detail == ".../00.png; the folder has images/00.png"


BASE64 = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
DATA = [
    "data:image/png;base64," + BASE64,
    BASE64,
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBg",
    "iVBOR" + "A" * 3_000,
    "Q" * 300,
]
DATA += [
    f" {BASE64}\n",
    "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAA=",
    "b'\\x89PNG\\r\\n\\x1a\\n'",
    BASE64.replace("U", "U\n"),
]


@pytest.mark.parametrize("data", DATA, ids=range(len(DATA)))
def test_an_image_in_a_cell_is_told_from_a_path_and_not_quoted(table, tmp_path, caplog, data):
    file, skipped = table({"image": data}), tmp_path / "skipped.jsonl"
    assert len(rows_of(load_vqa_dataset(str(file), skipped_rows_file=skipped))) == 11
    mend = "image data (base64) instead of a path; write the images to files and give their paths"
    assert f"1 x {mend}: rows.json row 1 ({len(data):,} characters)" in caplog.text
    assert data.strip()[:20] not in caplog.text
    [row] = map(json.loads, skipped.read_text().splitlines())
    assert row["image_id"] is None
    assert len(row["image"]) <= 1_000


@pytest.mark.parametrize("value", [5, 2.5, True, ["0.png", "1.png"], {"bytes": BASE64, "path": "0.png"}], ids=str)
def test_what_is_no_text_is_no_path(table, caplog, value):
    assert len(rows_of(load_vqa_dataset(str(table({"image": value}))))) == 11
    kind = "image is not a path; write the images to files and give their paths"
    assert f"1 x {kind}: rows.json row 1 ({type(value).__name__})" in caplog.text


@pytest.mark.parametrize("link", ["https://a.org/b/0.png?token=secret", "s3://a.org/0.png", " HTTP://a.org/0.png"])
def test_a_link_is_no_path_and_its_secrets_are_not_told(table, caplog, link):
    assert len(rows_of(load_vqa_dataset(str(table({"image": link}))))) == 11
    assert (
        "1 x a URL instead of an image path; save the images as files and give their paths: rows.json row 1"
        in caplog.text
    )
    assert "//a.org/..." in caplog.text
    assert "0.png" not in caplog.text


def test_image_ids_are_never_whole_paths(table, tmp_path):
    ids = {
        0: (None, "0.png"),
        1: (str(tmp_path / "1.png"), "1.png"),
        2: ("/home/doe/2.png", "2.png"),
        3: ("C:\\Users\\doe\\3.png", "3.png"),
        4: ("\\\\server\\doe\\4.png", "4.png"),
        5: ("~/doe/5.png", "5.png"),
        6: ("./scans/6", "scans/6"),
        7: ("study 7", "study 7"),
        8: ("p:8", "p:8"),
        9: (9.0, "9"),
        10: ("file:///home/doe/10.png", "10.png"),
    }
    changes = [{"image_id": given} for given, _ in ids.values()]
    for number, change in enumerate(changes):
        if number % 2:
            change["image"] = f"./{number}.png" if number % 3 else str(tmp_path / f"{number}.png")
    found = {Path(row["image"]).stem: row["image_id"] for row in rows_of(load_vqa_dataset(str(table(*changes))))}
    assert found == {str(number): expected for number, (_, expected) in ids.items()} | {"11": "11.png"}


def test_images_are_counted_once_however_they_are_named(table, tmp_path):
    names = ["0.png", "./0.png", str(tmp_path / "0.png"), "0.PNG", ".\\0.png", " 0.png"]
    changes = [{"image": name, "question": f"{i}?"} for i, name in enumerate(names)]
    rows = [row for row in rows_of(load_vqa_dataset(str(table(*changes)))) if row["image_id"] == "0.png"]
    assert len(rows) == 6
    assert {row["image"] for row in rows} == {os.path.realpath(tmp_path / "0.png")}


def test_details_of_skipped_rows_hold_no_whole_path(table, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    (tmp_path.parent / "secret.png").write_bytes(b"nothing")
    names = ["/home/doe/x.png", "C:\\doe\\x.png", str(tmp_path / "broken.png"), str(tmp_path.parent / "secret.png")]
    file, skipped = table(*({"image": name} for name in names)), tmp_path / "skipped.jsonl"
    load_vqa_dataset(str(file), skipped_rows_file=skipped)
    rows = [json.loads(line) for line in skipped.read_text().splitlines()]
    assert [row["image_id"] for row in rows] == [".../x.png", ".../x.png", "broken.png", ".../secret.png"]
    assert not [row["detail"] for row in rows if str(tmp_path) in row["detail"] or "doe" in row["detail"]]


LONG = "x" * 300


@pytest.mark.parametrize(
    "change",
    [
        *({field: ["y" * 300]} for field in ("question", "modality", "question_id", "image_id", "location")),
        {"answer": [["y" * 300]]},
        {"image": f"{'scan ' * 60}.png"},
        {"image": f"../{LONG}.png"},
        {"image": f"/{LONG}.png"},
        {"image": LONG},
        {"image": f"{LONG}\0"},
        {"split": LONG},
        {"answer_type": "y" * 300 + "\ud800"},
        {"question": "\0" * 300 + "\ud800"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_message_quotes_more_than_80_characters(table, tmp_path, caplog, change):
    file, skipped = table(change), tmp_path / "skipped.jsonl"
    with pytest.raises(UserError) as error:
        load_vqa_dataset(str(file), on_bad_rows="error", leaks="drop")
    [line] = [line for line in str(error.value).splitlines() if " x " in line]
    assert max(line.count("x"), line.count("y"), line.count("scan") * 5, line.count("\\x00") * 4) <= 85
    assert "\0" not in line
    if "split" not in change:
        load_vqa_dataset(str(file), skipped_rows_file=skipped)
        assert len(json.loads(skipped.read_text())["detail"]) < 250
