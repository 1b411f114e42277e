"""processing.question_ids: no question is lost for its id, and no two of a split share one."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from processing.data import load_vqa_dataset
from tests.processing.conftest import rows_of


def ids_of(file, **options):
    rows = rows_of(load_vqa_dataset(str(file), **options))
    return [row["question_id"] for row in sorted(rows, key=lambda row: (int(row["image_id"][:-4]), row["question"]))]


@pytest.mark.parametrize("value", [None, "", " ", math.nan], ids=repr)
def test_an_empty_id_is_none_and_drops_no_row(table, caplog, value):
    assert ids_of(table(*[{"question_id": value}] * 12)) == [None] * 12
    assert not caplog.records


def test_rows_without_an_id_stand_beside_rows_with_one(table):
    assert ids_of(table({"question_id": None}, {"question_id": ""})) == [None, None, *map(str, range(2, 12))]


def test_an_id_for_each_image_keeps_all_questions(table, caplog):
    changes = [{"image": f"{i // 3}.png", "question_id": 100 + i // 3} for i in range(12)]
    assert ids_of(table(*changes)) == [f"{100 + i}{end}" for i in range(4) for end in ("", "-2", "-3")]
    assert len(caplog.records) == 1
    text = "The question_id of 8 of 12 rows is that of another question of their split"
    assert text in caplog.text
    assert "rows.json row 2 has 100-2 instead of 100." in caplog.text


def test_a_new_id_is_never_one_that_is_taken(table):
    found = ids_of(table(*({"question_id": name} for name in ("7", "7-2", "7", 7, "7-3"))))
    assert found[:5] == ["7", "7-2", "7-4", "7-5", "7-3"]
    assert len({*found}) == 12


def test_a_row_is_a_duplicate_if_all_of_it_is_the_same(table, tmp_path, caplog):
    file = table()
    rows = json.loads(file.read_text())
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    rows += [
        rows[0] | {"question": " what  is 0?", "answer": "The lung."},  # the same row in other letters
        rows[0] | {"image": "copy.png"},  # and its image under another name
        rows[0] | {"image": "1.png"},
        rows[0] | {"question": "Another?"},
        rows[0] | {"answer": "heart"},
        rows[0] | {"question_id": None},
    ]
    file.write_text(json.dumps(rows))
    skipped = tmp_path / "skipped.jsonl"
    assert len(rows_of(load_vqa_dataset(str(file), skipped_rows_file=skipped))) == 12 + 4
    found = [json.loads(line) for line in skipped.read_text().splitlines()]
    assert [(row["where"], row["problem"]) for row in found] == [
        (f"rows.json row {number}", "duplicate id, image, question and answer") for number in (13, 14)
    ]


def test_the_same_id_in_another_split_is_another_question(table):
    changes = [{"split": "train" if i < 6 else "test", "question_id": i % 6} for i in range(12)]
    dataset = load_vqa_dataset(str(table(*changes)))
    assert sorted([*dataset["train"]["question_id"], *dataset["validation"]["question_id"]]) == list(range(6))
    assert sorted(dataset["test"]["question_id"]) == list(range(6))


@pytest.mark.parametrize("by", ["image", "neighbours"])
def test_splits_that_are_made_anew_hold_no_id_twice(table, by, tmp_path):
    splits = ("train", "validation", "test")
    changes = [{"split": splits[i % 3], "question_id": i // 3} for i in range(30)]
    changes.append(changes[0] | {"image": "0.png", "question": "What is 0?", "split": "test"})  # a row of two splits
    for body in range(31):
        Image.fromarray(np.random.default_rng(body).integers(0, 256, (16, 16), dtype=np.uint8)).save(
            tmp_path / f"body{body}.png"
        )
    changes = [change | {"image": f"body{i if i < 30 else 0}.png"} for i, change in enumerate(changes)]
    dataset = load_vqa_dataset(str(table(*changes, count=31)), split_by=by)
    assert [len(part) for part in dataset.values()] == [24, 3, 3]  # the same row counts once
    ids = [row["question_id"] for row in rows_of(dataset)]
    assert sorted(ids) == sorted(f"{i}{end}" for i in range(10) for end in ("", "-2", "-3"))


def test_one_id_in_two_languages_is_two_questions(table):
    file = table({"language": "en"}, {"language": "zh", "question_id": 0, "image": "0.png", "question": "What is 0?"})
    found = rows_of(load_vqa_dataset(str(file), language="all"))
    assert len(found) == 12
    assert {row["question_id"] for row in found if row["image_id"] == "0.png"} == {"0", "0-2"}


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, 10**30, -(2**63) - 1], ids=str)
def test_whole_numbers_of_any_size_are_ids(table, number):
    assert ids_of(table({"question_id": number})) == [str(number), *map(str, range(1, 12))]


def test_a_number_of_thousands_of_digits_is_an_id(table):
    file = table({"question_id": "HERE"})
    file.write_text(file.read_text().replace('"HERE"', "9" * 5_000))
    assert ids_of(file)[0] == "9" * 5_000


def test_ids_that_are_whole_numbers_stay_numbers(table):
    assert ids_of(table({"question_id": 2**63 - 1})) == [2**63 - 1, *range(1, 12)]


def test_an_id_is_the_same_as_number_text_and_float(table):
    assert ids_of(table({"question_id": 1.0}, {"question_id": "1"}, {"question_id": 1}))[:3] == ["1", "1-2", "1-3"]
