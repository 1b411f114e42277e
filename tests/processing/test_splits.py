"""processing.splits: no image in two splits."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.images import open_image
from processing.neighbours import has_neighbour, thumbnail
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


def test_the_same_pixels_in_another_compression_are_the_same_image(table, tmp_path):
    file = table(*({"split": "train"} for _ in range(11)), {"split": "test", "image": "11.tif"})
    Image.open(tmp_path / "0.png").save(tmp_path / "11.tif")
    with pytest.raises(UserError, match=r"1 in train and test; 1 rows, the first is rows.json row 1"):
        load_vqa_dataset(str(file))


def slices(count, seed):
    """Pictures that are near neighbours of each other."""
    generator = np.random.default_rng(seed)
    body = np.asarray(
        Image.fromarray(generator.integers(0, 256, (6, 6), dtype=np.uint8)).resize((48, 48), Image.Resampling.BICUBIC)
    )
    return [Image.fromarray(np.clip(body + generator.normal(0, 6, body.shape), 0, 255).astype(np.uint8))
            for _ in range(count)]  # fmt: skip


def test_tuning_rows_are_whole_groups_of_a_tenth_of_the_training_images(table, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pictures = [picture for body in range(20) for picture in slices(2, body)]
    names = [f"body{number // 2}_{number}.png" for number in range(40)]
    for picture, name in zip(pictures, names, strict=True):
        picture.save(tmp_path / name)
    rows = [{"image": name, "split": "train"} for name in names]
    file = table(*rows, {"split": "validation"}, {"split": "test"}, count=42)
    tuning, again, other = (load_vqa_dataset(str(file), tuning_split=True, split_seed=seed) for seed in (0, 0, 1))
    assert {split: len(part) for split, part in tuning.items()} == {"train": 36, "validation": 4}
    bodies = [{name.split("_")[0] for name in part["image_id"]} for part in tuning.values()]
    assert len(bodies[1]) == 2
    assert not bodies[0] & bodies[1]
    assert tuning["validation"]["image_id"] == again["validation"]["image_id"] != other["validation"]["image_id"]
    assert (
        "4 of 40 training images are held back to evaluate on, in whole groups of near-identical ones" in caplog.text
    )


def test_tuning_rows_do_not_depend_on_the_order_of_rows_or_files(table, tmp_path):
    names = []
    for number, picture in enumerate(picture for body in range(20) for picture in slices(1, body)):
        picture.save(tmp_path / f"{number}_a.png")
        picture.save(tmp_path / f"{number}_b.tif")  # the same pixels in another file
        names += [f"{number}_a.png", f"{number}_b.tif"]
    held_out = set()
    for order in (names, names[::-1]):
        file = table(*({"image": name, "split": "train"} for name in order), count=40)
        held_out.add(frozenset(load_vqa_dataset(str(file), tuning_split=True)["validation"]["image_id"]))
    [images] = held_out
    assert len(images) == 4


def test_tuning_rows_of_one_body_are_refused(table, tmp_path):
    for number, picture in enumerate(slices(12, 0)):
        picture.save(tmp_path / f"same{number}.png")
    file = table(*({"image": f"same{number}.png", "split": "train"} for number in range(12)))
    with pytest.raises(UserError, match="10 of the 10 training images are one group, so that a tenth can't be held"):
        load_vqa_dataset(str(file), tuning_split=True)


def test_slake_holds_back_45_training_images(slake):
    dataset = load_vqa_dataset(str(slake), tuning_split=True)
    assert {split: len(set(rows["image"])) for split, rows in dataset.items()} == {"train": 405, "validation": 45}
    train, validation = (
        [thumbnail(open_image(path)) for path in sorted(set(rows["image"]))] for rows in dataset.values()
    )
    assert not has_neighbour(validation, train).any()
