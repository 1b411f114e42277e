"""spaces_app.corrections: what is exported of a reader's verdicts, and that the project trains on it."""

import io
import json
import zipfile

import pytest
from PIL import Image

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.regions import Region
from spaces_app.corrections import CorrectedRow, Verdict, as_zip

RIGHT = Verdict(True, "Yes")
LIVER = Verdict(False, "Liver", Region(0.1, 0.25, 0.6, 0.75))


def picture(shade: int = 0) -> Image.Image:
    return Image.new("RGB", (40, 20), (shade, 90, 20))


def row(name: str = "a.png", shade: int = 0, question: str = "What is it?", verdict: Verdict = LIVER) -> CorrectedRow:
    return CorrectedRow(name, picture(shade), question, verdict, "user/model", "Lung")


def files_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def names_in(data: bytes) -> list[str]:
    return [entry["image"] for entry in json.loads(files_of(data)["rows.json"])]


def test_an_export_with_images_has_rows_pictures_and_boxes():
    files = files_of(as_zip([row("ct.dcm#12"), row(shade=9, question="Is it healthy?", verdict=RIGHT)], True))
    assert list(files) == [
        "README.txt",
        "rows.json",
        "images/1/source.png",
        "images/1/detection.json",
        "images/2/source.png",
    ]
    assert json.loads(files["rows.json"]) == [
        {
            "image": "images/1/source.png",
            "question": "What is it?",
            "answer": "Liver",
            "answer_type": "OPEN",
            "group": "ct.dcm",
            "predicted": "Lung",
            "model": "user/model",
            "verdict": "wrong",
        },
        {
            "image": "images/2/source.png",
            "question": "Is it healthy?",
            "answer": "Yes",
            "answer_type": "CLOSED",
            "group": "a.png",
            "predicted": "Lung",
            "model": "user/model",
            "verdict": "right",
        },
    ]
    assert json.loads(files["images/1/detection.json"]) == [{"Liver": [4, 5, 20, 10]}]
    assert Image.open(io.BytesIO(files["images/2/source.png"])).tobytes() == picture(9).tobytes()
    assert b"--dataset rows.json" in files["README.txt"]
    assert b"may show a patient" in files["README.txt"]


def test_an_export_without_images_names_the_visitors_files():
    files = files_of(as_zip([row("ct.dcm#12"), row(verdict=RIGHT)], False))
    assert list(files) == ["README.txt", "rows.json"]
    entries = json.loads(files["rows.json"])
    assert [(entry["image"], entry["group"]) for entry in entries] == [("ct.dcm#12", "ct.dcm"), ("a.png", "a.png")]
    assert b"The images are not in here" in files["README.txt"]


def test_the_same_rows_give_the_same_bytes():
    assert as_zip([row(), row(shade=9)], True) == as_zip([row(), row(shade=9)], True)
    with zipfile.ZipFile(io.BytesIO(as_zip([row()], True))) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_equal_pictures_are_stored_once_with_the_boxes_of_all_their_rows():
    spleen = Verdict(False, "No", Region(0, 0, 0.5, 1), label="Spleen")
    data = as_zip([row(), row(verdict=spleen), row(shade=9), row("b.png"), row(verdict=RIGHT)], True)
    number = {0: "images/1/source.png", 9: "images/2/source.png"}
    assert names_in(data) == [number[shade] for shade in (0, 0, 9, 0, 0)]
    assert sorted(name for name in files_of(data) if name.endswith(".png")) == list(number.values())
    boxes = json.loads(files_of(data)["images/1/detection.json"])
    assert boxes == [{"Liver": [4, 5, 20, 10]}, {"Spleen": [0, 0, 20, 20]}]


def test_a_picture_has_nothing_of_its_files_own_texts():
    shown = picture()
    shown.info |= {"icc_profile": b"Secret", "exif": b"Exif\0\0Secret", "transparency": (0, 90, 20)}
    file = files_of(as_zip([CorrectedRow("a.png", shown, "q", RIGHT, "m", "Yes")], True))["images/1/source.png"]
    assert b"Secret" not in file
    assert Image.open(io.BytesIO(file)).info == {}
    assert shown.info["icc_profile"] == b"Secret"  # the page's own is left alone


ODD_NAMES = ("../../a.png", "/etc/passwd", "C:\\scans\\a.png", "a\0b\n.png", "ü <b>.png", "\udc80.png")


@pytest.mark.parametrize("with_images", [True, False])
def test_odd_names_name_no_file_of_the_archive(with_images):
    data = as_zip([row(name, shade=number) for number, name in enumerate(ODD_NAMES)], with_images)
    own = {f"images/{n}/{name}" for n in range(1, 7) for name in ("source.png", "detection.json")}
    assert set(files_of(data)) == {"README.txt", "rows.json"} | (own if with_images else set())
    assert [entry["group"] for entry in json.loads(files_of(data)["rows.json"])] == list(ODD_NAMES)
    if not with_images:
        assert names_in(data) == list(ODD_NAMES)


def test_answers_are_closed_where_they_are_yes_or_no():
    answers = ["yes", "No.", "Yes, in the liver", "nodule", ""]
    rows = [row(verdict=Verdict(False, answer)) for answer in answers]
    entries = json.loads(files_of(as_zip(rows, False))["rows.json"])
    assert [entry["answer_type"] for entry in entries] == ["CLOSED", "CLOSED", "OPEN", "OPEN", "OPEN"]


def test_a_tiny_box_has_a_pixel():
    tiny = Verdict(False, "Nodule", Region(0.5, 0.5, 0.501, 0.501))
    assert json.loads(files_of(as_zip([row(verdict=tiny)], True))["images/1/detection.json"]) == [
        {"Nodule": [20, 10, 1, 1]}
    ]


@pytest.mark.parametrize("edges", [(0.5, 0, 0.5, 1), (0, 0.6, 1, 0.5), (-0.1, 0, 1, 1), (0, 0, 1, 1.1)])
def test_a_box_that_is_not_inside_the_image_is_refused(edges):
    with pytest.raises(UserError, match="^The box is not inside the image; draw it again.$"):
        Verdict(False, "Liver", Region(*edges))


@pytest.mark.parametrize("answer", ["Yes", "no.", " "])
def test_a_box_needs_a_name_where_the_answer_is_none(answer):
    with pytest.raises(UserError, match="^The box has no name; write what it shows, such as Liver.$"):
        Verdict(False, answer, Region(0, 0, 1, 1))
    assert Verdict(False, answer, Region(0, 0, 1, 1), "Liver").box_label == "Liver"
    assert Verdict(False, answer).box is None


def test_exported_rows_are_loaded_with_their_right_answers_and_boxes(tmp_path, caplog):
    rows = [row("ct.dcm#1"), row("ct.dcm#2", 50), row("b.png", 100, "Is it healthy?", RIGHT), row("c.png", 150)]
    zipfile.ZipFile(io.BytesIO(as_zip(rows, True))).extractall(tmp_path)
    dataset = load_vqa_dataset(str(tmp_path / "rows.json"), on_bad_rows="error")
    found = {row["image_id"]: row for split in dataset.values() for row in split}
    assert {name: (row["question"], row["answer"], row["answer_type"]) for name, row in found.items()} == {
        "images/1/source.png": ("What is it?", "Liver", "OPEN"),
        "images/2/source.png": ("What is it?", "Liver", "OPEN"),
        "images/3/source.png": ("Is it healthy?", "Yes", "CLOSED"),
        "images/4/source.png": ("What is it?", "Liver", "OPEN"),
    }
    liver = [{"label": "Liver", "bbox": [4, 5, 20, 10]}]
    assert [found[f"images/{number}/source.png"]["boxes"] for number in (1, 2, 3, 4)] == [liver, liver, None, liver]
    assert sum("ct.dcm" in split["group"] for split in dataset.values()) == 1
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_rows_without_images_are_loaded_beside_the_visitors_files(tmp_path):
    for number in range(3):
        picture(number * 50).save(tmp_path / f"scan {number}.png")
    rows = [row(f"scan {number}.png", number * 50) for number in range(3)]
    zipfile.ZipFile(io.BytesIO(as_zip(rows, False))).extractall(tmp_path)
    dataset = load_vqa_dataset(str(tmp_path / "rows.json"), on_bad_rows="error")
    assert {row["image_id"] for split in dataset.values() for row in split} == {f"scan {n}.png" for n in range(3)}
