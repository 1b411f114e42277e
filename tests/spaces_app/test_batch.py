"""spaces_app.batch and what both apps suggest: bounded, and one sentence for what can't be used."""

import io
import struct
import zipfile
from types import SimpleNamespace

import pytest

from modeling.parts.evidence import Detection, Evidence
from modeling.predictor import Answer
from processing.errors import UserError
from spaces_app import batch
from spaces_app.batch import answer_all, as_csv, ask_of_each, read_archive, read_questions
from spaces_app.content import EXAMPLES, GENERAL, PROBES, example_images, suggestions


def packed(files: dict[str, bytes]) -> bytes:
    """A zip file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def test_images_of_an_archive_come_by_name_without_what_systems_add():
    data = packed({"b/2.png": b"2", "a/": b"", "a.png": b"1", "__MACOSX/._a.png": b"x", ".DS_Store": b"x"})
    assert list(read_archive(data).items()) == [("a.png", b"1"), ("b/2.png", b"2")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no archive", "damaged or encrypted"),
        (packed({"a.png": b"1" * 1000})[:60], "damaged or encrypted"),
        (packed({".hidden": b"1"}), "has no image"),
    ],
    ids=["no archive", "cut off", "hidden file alone"],  # the bytes hold the time: no name that all test workers share
)
def test_archive_that_can_t_be_used(data, message):
    with pytest.raises(UserError, match=message):
        read_archive(data)


def test_encrypted_archive_is_refused():
    data = bytearray(packed({"a.png": b"1"}))
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        struct.pack_into("<H", data, data.index(header) + flags, 1)
    with pytest.raises(UserError, match="damaged or encrypted"):
        read_archive(bytes(data))


def test_archive_is_bounded_in_files_and_in_what_it_unpacks_to(monkeypatch):
    monkeypatch.setattr(batch, "MAX_IMAGES", 2)
    with pytest.raises(UserError, match="has 3 files; send at most 2"):
        read_archive(packed({f"{n}.png": b"1" for n in range(3)}))
    monkeypatch.setattr(batch, "MAX_ARCHIVE_BYTES", 1_500)
    with pytest.raises(UserError, match=r"1\.png: the images are too large once unpacked"):
        read_archive(packed({"0.png": bytes(1_000), "1.png": bytes(1_000)}))


def test_archive_that_lies_about_a_size_is_bounded_too(monkeypatch):
    monkeypatch.setattr(batch, "MAX_IMAGE_BYTES", 1_000)
    data = bytearray(packed({"a.png": bytes(100_000)}))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 10)  # its size in the directory
    with pytest.raises(UserError):
        read_archive(bytes(data))


def test_questions_are_the_column_of_that_name():
    assert read_questions('\ufeffid,question\n1,"Is it, though?"\n2,\n'.encode(), "q.csv") == ["Is it, though?", ""]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"q\nx\n", "no column question"),
        (b"question\n", "no column question, or no row"),
        (b"\xff", "q.csv: not UTF-8 text .byte 0"),
        (b'question\n"open\n', "q.csv line 2: a quote opens in this row"),
        (b"question\n" + b"x\n" * 1_001, "1,001 rows; send at most 1,000"),
    ],
)
def test_table_that_can_t_be_used(data, message):
    with pytest.raises(UserError, match=message):
        read_questions(data, "q.csv")


def test_questions_about_all_images_of_an_archive_are_bounded_together():
    images = {"b.png": b"2", "a.png": b"1"}
    assert ask_of_each(images, ["x", "y"]) == [
        ("b.png", b"2", "x"),
        ("b.png", b"2", "y"),
        ("a.png", b"1", "x"),
        ("a.png", b"1", "y"),
    ]
    assert len(ask_of_each(images, ["x"] * 500)) == 1_000
    message = "^501 questions about 2 images are 1,002; send at most 1,000 at once.$"
    with pytest.raises(UserError, match=message):
        ask_of_each(images, ["x"] * 501)


def test_answers_as_a_table_leave_out_the_confidence_of_an_error():
    error = UserError("Empty, mend it.")
    predictor = SimpleNamespace(try_batch=lambda images, questions, top_k: [error])
    rows = answer_all(predictor, ask_of_each({"a": b"1"}, ["q"]), progress=lambda share: None)
    head = "image,question,prediction,confidence,evidence,unlike_training,error"
    assert as_csv(rows) == f'{head}\r\na,q,,,,,"Empty, mend it."\r\n'


def test_answers_of_a_table_have_the_boxes_of_their_evidence_and_say_what_is_unlike_the_training():
    found = Evidence(((0.0, 0.9),), (Detection("Liver", 0.9, (0.5, 0.0, 0.5, 1.0)),))
    answers = [
        Answer("Yes", 0.8, evidence=found),
        Answer("No", 0.7, evidence=Evidence((), ())),
        Answer("CT", 0.6, unlike_training=True),
    ]
    predictor = SimpleNamespace(try_batch=lambda images, questions, top_k: answers)
    rows = answer_all(predictor, ask_of_each({"a": b"1"}, ["x", "y", "z"]), progress=lambda share: None)
    box = '[{"label": "Liver", "probability": 0.9, "box": [0.5, 0.0, 0.5, 1.0]}]'
    assert [row["evidence"] for row in rows] == [box, "[]", ""]
    assert [row["unlike_training"] for row in rows] == ["", "", "yes"]


def test_suggested_questions_fit_the_part_of_the_body():
    assert "Is the brain healthy?" in suggestions("Head")
    assert "Is the lung healthy?" in suggestions("Chest")
    assert suggestions("a shoe") == (PROBES[1], *GENERAL[2:])
    assert all(len(suggestions(part)) == len(set(suggestions(part))) for part in ("Head", "Chest", "Abdomen", ""))


def test_example_images_are_there():
    assert [name for name, file in example_images() if file.is_file()] == list(EXAMPLES)
