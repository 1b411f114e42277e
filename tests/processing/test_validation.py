"""processing.validation: every kind of bad row is found, named and skipped."""

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.images import open_image
from tests.processing.conftest import rows_of

BAD_ROWS = {
    "missing image": {"image": "nowhere.png"},
    "undecodable image": {"image": "broken.png"},
    "image path leaves the data folder": {"image": "../outside.png"},
    "empty question": {"question": "  "},
    "answer is not a string": {"answer": {"lung": 1}},
    "unknown split": {"split": "holdout"},
    "duplicate id": {"question_id": 11},
    "empty answer": {"answer": ""},
}


def prepare_bad_images(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    Image.new("RGB", (8, 8)).save(folder.parent / "outside.png")


@pytest.mark.parametrize("problem", BAD_ROWS)
def test_each_kind_of_bad_row_is_skipped_named_and_listed(table, tmp_path, caplog, problem):
    position = 11 if problem == "duplicate id" else 0
    changes = [{} for _ in range(12)]
    changes[position] = BAD_ROWS[problem]
    if problem == "duplicate id":
        same = {"image": "0.png", "question": "What is 0?"}
        changes[10], changes[11] = BAD_ROWS[problem] | same, BAD_ROWS[problem] | same
    if problem == "unknown split":
        changes = [{"split": "train"} for _ in range(12)]
        changes[0], changes[1] = BAD_ROWS[problem], {"split": "validation"}
    file = table(*changes)
    prepare_bad_images(tmp_path)
    skipped = tmp_path / "out" / "skipped_rows.jsonl"
    dataset = load_vqa_dataset(str(file), skipped_rows_file=skipped)
    assert len(rows_of(dataset)) == 11
    assert f"1 of 12 rows can't be used:\n  1 x {problem}" in caplog.text
    assert f"rows.json row {position + 1}" in caplog.text
    [row] = [json.loads(line) for line in skipped.read_text().splitlines()]
    assert row["problem"].startswith(problem)
    with pytest.raises(UserError, match=rf"(?s)1 x {problem}.*--on_bad_rows skip"):
        load_vqa_dataset(str(file), on_bad_rows="error")


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), ValueError("a" * 500), OSError("disk")])
def test_whatever_an_image_raises_is_a_problem_of_its_rows(table, tmp_path, caplog, monkeypatch, error):
    def fail(path):
        if path.name == "3.png":
            raise error
        return open_image(path)

    monkeypatch.setattr("processing.image_checks.open_image", fail)
    file = table(*[{} for _ in range(4)], {"image": "3.png"})
    assert len(rows_of(load_vqa_dataset(str(file)))) == 10
    assert "2 of 12 rows can't be used:\n  2 x undecodable image: rows.json row 4 (3.png: " in caplog.text
    assert max(map(len, caplog.text.splitlines())) < 400


def test_long_thin_images_are_good_rows(table, tmp_path):
    file = table()
    for number, size in enumerate([(2100, 100), (1, 3000), (10_000, 30)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    assert len(rows_of(load_vqa_dataset(str(file), on_bad_rows="error", leaks="drop"))) == 12


def test_all_problems_come_in_one_pass_counted_with_three_rows_named(table, tmp_path, caplog):
    missing = [{"image": f"none{i}.png"} for i in range(5)]
    load_vqa_dataset(str(table(*missing, {"question": ""}, {"answer": None})))
    assert "7 of 12 rows can't be used" in caplog.text
    assert "5 x missing image: rows.json row 1 (none0.png); rows.json row 2 (none1.png); rows.json row" in caplog.text
    assert "; ..." in caplog.text
    assert "1 x empty question: rows.json row 6" in caplog.text
    assert "1 x empty answer (SQuAD v2's no answer; kept by --allow_no_answer): rows.json row 7 ('')" in caplog.text


@pytest.mark.parametrize("answer", [(3, "3"), (2.0, "2"), (0.5, "0.5")], ids=str)
def test_numbers_become_text(table, answer):
    given, expected = answer
    dataset = load_vqa_dataset(str(table({"answer": given})))
    assert expected in {row["answer"] for row in rows_of(dataset)}


def test_true_is_no_answer_text(table, caplog):
    assert len(rows_of(load_vqa_dataset(str(table({"answer": True}))))) == 11
    assert "answer is not a string: rows.json row 1 (True; write a word such as yes or no)" in caplog.text


def test_no_rows_left_is_an_error_that_names_the_reason(table):
    with pytest.raises(UserError, match=r"no rows left\. 12 of 12 rows can't be used:\n  12 x empty question"):
        load_vqa_dataset(str(table(*[{"question": ""}] * 12)))


def test_symbolic_link_out_of_the_folder_is_refused(table, tmp_path, caplog):
    Image.new("RGB", (8, 8)).save(tmp_path.parent / "secret.png")
    file = table({"image": "link.png"})
    (tmp_path / "link.png").symlink_to(tmp_path.parent / "secret.png")
    assert len(rows_of(load_vqa_dataset(str(file)))) == 11
    assert "image path leaves the data folder" in caplog.text


@pytest.mark.parametrize("name", ["/etc/hostname", "a\0b.png", ".", "x" * 5000])
def test_odd_image_names_are_bad_rows_and_nothing_worse(table, caplog, name):
    assert len(rows_of(load_vqa_dataset(str(table({"image": name}))))) == 11
    assert "1 of 12 rows can't be used" in caplog.text


def test_second_load_opens_no_image_again(table, monkeypatch):
    file = table()
    first = load_vqa_dataset(str(file))
    monkeypatch.setattr("processing.image_checks.open_image", lambda _: pytest.fail("an image was opened again"))
    assert rows_of(load_vqa_dataset(str(file))) == rows_of(first)


def test_image_that_changed_is_checked_again(table, tmp_path):
    file = table()
    load_vqa_dataset(str(file))
    (tmp_path / "0.png").write_bytes(b"now broken")
    assert len(rows_of(load_vqa_dataset(str(file)))) == 11


def test_clean_data_leaves_no_warning_and_no_file(table, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        load_vqa_dataset(str(table()), skipped_rows_file=tmp_path / "skipped.jsonl")
    assert not caplog.records
    assert not (tmp_path / "skipped.jsonl").exists()


TOKEN = "hf_" + "TokenInData" * 4
SECRETS = ("TokenInData", "doe", "hunter2", "signature")


@pytest.mark.parametrize(
    ("change", "field", "kept"),
    [
        ({"image": f"https://doe:{TOKEN}@hub.org/x.png?token={TOKEN}"}, "image", "https://hub.org/x.png?..."),
        ({"image": "s3://doe:hunter2@a.org/x.png#signature"}, "image", "s3://a.org/x.png?..."),
        ({"image": "/home/doe/private/x.png"}, "image", ".../x.png"),
        ({"image": "C:\\Users\\doe\\x.png"}, "image", ".../x.png"),
        ({"image": ["/home/doe/x.png", "~/doe/y.png"]}, "image", "['.../x.png', '.../y.png']"),
        ({"image": "0.png", "question": "", "location": f"by {TOKEN}"}, "location", "by hf_***"),
        ({"image": "0.png", "question": ["~/doe/x.png"]}, "question", [".../x.png"]),
        ({"image": "0.png", "question": "", "answer": "ftp://doe:hunter2@a.org"}, "answer", "ftp://a.org"),
        ({"image": "0.png", "split": f"https://a.org/?signature={TOKEN}"}, "split", "https://a.org/?..."),
    ],
    ids=range(9),
)
def test_skipped_rows_are_listed_without_credentials_and_whole_paths(table, tmp_path, caplog, change, field, kept):
    splits = [{"split": "validation" if i == 1 else "train"} for i in range(12)]
    file, skipped = table(splits[0] | change, *splits[1:]), tmp_path / "out" / "skipped.jsonl"
    load_vqa_dataset(str(file), skipped_rows_file=skipped)
    row = json.loads(skipped.read_text())
    assert row[field] == kept
    assert not [secret for secret in SECRETS if secret in skipped.read_text() + caplog.text]


def test_absolute_path_of_an_image_in_the_folder_is_shortened_where_its_row_is_skipped(table, tmp_path):
    file, skipped = table({"image": str(tmp_path / "0.png"), "question": ""}), tmp_path / "out" / "skipped.jsonl"
    load_vqa_dataset(str(file), skipped_rows_file=skipped)
    row = json.loads(skipped.read_text())
    assert (row["image"], row["image_id"], row["problem"]) == (".../0.png", "0.png", "empty question")
    assert str(tmp_path) not in skipped.read_text()
