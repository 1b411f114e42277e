"""modeling.asking.tables: a table of questions in, its answers out, row for row."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from modeling.asking.predictor import Answer
from modeling.asking.tables import answer_table
from processing.errors import UserError
from processing.images import open_image


class Echo:
    """Answers a question by itself and its choices, after it has opened the image."""

    def try_batch(self, paths, questions, top_k, choices):
        assert top_k == 1
        asked = [" / ".join([text, *(own or [])]) for text, own in zip(questions, choices, strict=True)]
        return [self._answer(path, question) for path, question in zip(paths, asked, strict=True)]

    def _answer(self, path, question):
        try:
            return Answer(question, open_image(path).getpixel((0, 0))[0] / 255)
        except UserError as error:
            return error


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scans").mkdir()
    for i in range(3):
        Image.new("RGB", (24, 24), (51 * i, 0, 0)).save(tmp_path / "scans" / f"{i}.png")
    (tmp_path / "scans" / "broken.png").write_bytes(b"nothing")
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    return tmp_path


def answers(folder, text, name="in.csv", column_names=()):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    failed = answer_table(Echo(), folder / name, folder / "out.csv", column_names)
    with open(folder / "out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert failed == sum(bool(row["error"]) for row in rows)
    return rows


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("image;question\nscans/1.png;a, b?\nscans/2.png;c?\n", "in.csv"),
        ("sep=;\r\nimage;question\r\nscans/1.png;a, b?\r\nscans/2.png;c?\r\n", "in.csv"),
        ("Image\tQuestion\nscans/1.png\ta, b?\nscans/2.png\tc?\n", "in.tsv"),
        ("image\tquestion\nscans/1.png\ta, b?\nscans/2.png\tc?\n".encode("utf-16"), "in.csv"),
        ('image,question\nscans\\1.png,"a, b?"\nSCANS/2.PNG ,c?\n', "in.csv"),
    ],
)
def test_every_form_of_table_is_answered(folder, text, name):
    rows = answers(folder, text, name)
    assert [(row["prediction"], row["confidence"], row["error"]) for row in rows] == [
        ("a, b?", "0.2", ""),
        ("c?", "0.4", ""),
    ]


def test_columns_of_other_names_are_found_as_in_training(folder):
    rows = answers(folder, "img,frage,label,target\nscans/1.png,a?,x,y\n", column_names=["question=frage"])
    assert [list(row.values())[:5] for row in rows] == [["scans/1.png", "a?", "x", "y", "a?"]]
    with pytest.raises(UserError, match="^--column_names frage: expected field=column"):
        answers(folder, "img,frage\nscans/1.png,a?\n", column_names=["frage"])


ERRORS = {
    "scans/7.png": "The image does not exist, or its path is empty (scans/7.png); correct the path.",
    "1.png": "The image does not exist, or its path is empty (1.png; the folder has scans/1.png); correct the path.",
    "": "The image does not exist, or its path is empty (no path); correct the path.",
    "../x.png": "The image path leaves the folder of the table (../x.png); move the image into the folder.",
    "/home/doe/x.png": "The image path leaves the folder of the table (.../x.png); move the image into the folder.",
    "link.png": "The image path leaves the folder of the table (link.png); move the image into the folder.",
    "scans/broken.png": "Cannot open scans/broken.png: its content is not a known image; convert it to PNG, JPEG, "
    "WebP, TIFF, BMP, GIF or DICOM.",
    "data:image/png;base64,iVBORw0KGgo": "There is image data (base64) instead of a path; write the images to files "
    "and give their paths (33 characters).",
    "https://a.org/x.png?token=1": "There is a URL instead of an image path; save the images as files and give their "
    "paths (https://a.org/...).",
}


def test_a_row_without_an_image_says_why_and_costs_no_other(folder):
    rows = answers(folder, "image,question\n" + "".join(f'"{name}",q\n' for name in [*ERRORS, "scans/1.png"]))
    assert {row["image"]: row["error"] for row in rows[:-1]} == ERRORS
    assert rows[-1]["error"] == ""
    assert str(folder) not in (folder / "out.csv").read_text()


def test_the_answers_run_nothing_in_a_spreadsheet(folder):
    rows = answers(folder, 'image,question,=note\nscans/1.png,"=HYPERLINK(""x"")",+1\nscans/1.png,-5 mm?,-3\n')
    assert [list(row.values())[:4] for row in rows] == [
        ["scans/1.png", '\'=HYPERLINK("x")', "+1", '\'=HYPERLINK("x")'],
        ["scans/1.png", "'-5 mm?", "-3", "'-5 mm?"],
    ]
    assert list(rows[0])[2] == "'=note"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,question,question\na,b,c\n", "2 columns are named 'question'"),
        ("image,question,error\na,b,c\n", "it has a column error already, which the answers need; rename it"),
        ("image,frage\na,b\n", "no column 'question' .found: 'frage', 'image'.; name yours by --column_names"),
        (
            "image;question\né;b\n".encode("cp1252"),
            "not UTF-8 text .byte 15.; save it as UTF-8, in Excel as CSV UTF-8",
        ),
    ],
)
def test_a_table_that_can_t_be_used_is_one_sentence_and_leaves_no_file(folder, text, message):
    with pytest.raises(UserError, match=message):
        answers(folder, text)
    assert not (folder / "out.csv").exists()


def test_the_way_of_a_folder_with_a_link_in_it_is_the_table_s_own(folder, tmp_path):
    (tmp_path / "other").symlink_to(folder)
    rows = answers(Path(tmp_path / "other"), f"image,question\n{tmp_path / 'other' / 'scans' / '1.png'},q\n")
    assert rows[0]["prediction"] == "q"


def test_options_of_a_row_are_its_choices(folder):
    rows = answers(folder, "image,question,Choice A,Choice B\nscans/1.png,a?,A: lung,B: liver\nscans/2.png,b?,lung,\n")
    assert [row["prediction"] for row in rows] == ["a? / lung / liver", "b?"]  # one option is no choice
