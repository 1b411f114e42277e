"""processing.splits: no image in two splits."""

import shutil

import pytest

from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.processing.conftest import rows_of


def test_slake_with_both_languages_is_refused_for_its_130_shared_images(slake):
    with pytest.raises(UserError, match=r"share images \(130 in train and validation; .*--drop_leaking_rows"):
        load_vqa_dataset(str(slake), language="all")


def test_slake_with_both_languages_is_accepted_without_the_leaking_rows(slake):
    dataset = load_vqa_dataset(str(slake), language="all", drop_leaking_rows=True)
    assert not set(dataset["train"]["image"]) & set(dataset["validation"]["image"])
    assert len(dataset["validation"]) == 1969
    assert set(dataset["train"]["language"]) == {"en", "zh"}


def test_vqa_rad_is_split_by_image_with_numbers_as_text(vqa_rad):
    dataset = load_vqa_dataset(str(vqa_rad))
    images = [set(split["image"]) for split in dataset.values()]
    assert list(map(len, images)) == [252, 31, 31]  # rows name 314 of the 315 images
    assert not images[0] & images[1]
    assert not images[0] & images[2]
    assert not images[1] & images[2]
    assert sum(map(len, dataset.values())) == 3064
    assert set(dataset["train"]["answer_type"]) == {"OPEN", "CLOSED"}
    assert all(isinstance(row["answer"], str) for row in rows_of(dataset))


def test_split_by_image_is_the_same_for_the_same_seed_and_keeps_images_whole(table):
    file = table(*({"image": f"{i // 2}.png"} for i in range(40)), count=40)
    first, again, other = (load_vqa_dataset(str(file), split_seed=seed) for seed in (1, 1, 2))
    assert [row["question_id"] for row in rows_of(first)] == [row["question_id"] for row in rows_of(again)]
    assert [row["question_id"] for row in rows_of(first)] != [row["question_id"] for row in rows_of(other)]
    assert not set(first["train"]["image"]) & set(first["validation"]["image"])
    assert {split: len(rows) for split, rows in first.items()} == {"train": 32, "validation": 4, "test": 4}


def test_copies_of_an_image_under_two_names_are_a_leak(table, tmp_path):
    file = table(*({"split": "train"} for _ in range(11)), {"split": "test"})
    shutil.copy(tmp_path / "0.png", tmp_path / "11.png")
    with pytest.raises(UserError, match=r"1 in train and test; 1 rows, the first is rows.json row 1"):
        load_vqa_dataset(str(file))


def test_rows_without_split_beside_rows_with_one_are_refused(table):
    with pytest.raises(UserError, match="11 rows have no split while others do"):
        load_vqa_dataset(str(table({"split": "train"})))


def test_too_few_images_to_split(table):
    with pytest.raises(UserError, match="2 images are too few to split by image"):
        load_vqa_dataset(str(table(count=2)))
