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
    with pytest.raises(UserError, match=r"share images \(130 in train and validation\): .*--leaks drop"):
        load_vqa_dataset(str(slake), language="all")


def test_slake_with_both_languages_is_accepted_without_the_leaking_rows(slake):
    dataset = load_vqa_dataset(str(slake), language="all", leaks="drop")
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
    with pytest.raises(UserError, match=r"\(1 in train and test\): 1 rows, the first is rows.json row 1,"):
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
    with pytest.raises(UserError, match=r"\(1 in train and test\): 1 rows, the first is rows.json row 1,"):
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


def test_patients_in_two_splits_are_a_leak(table):
    splits = [{"split": "train", "patient_id": i // 2} for i in range(11)]
    file = table(*splits, {"split": "test", "patient_id": 5})
    told = r"share groups, such as patients \(1 in train and test\): 1 rows, the first is rows.json row 11,"
    with pytest.raises(UserError, match=told):
        load_vqa_dataset(str(file))
    dropped = load_vqa_dataset(str(file), leaks="drop")
    assert sum(map(len, dropped.values())) == 11
    kept = load_vqa_dataset(str(file), leaks="keep")
    assert kept["test"]["group"] == ["5"]
    assert kept["test"]["overlap"] == ["near"]  # an image of its patient is in training


def test_splits_that_are_made_cut_no_patient(table):
    file = table(*({"patient_id": f"p{i // 4}", "study_id": i} for i in range(40)), count=40)
    dataset = load_vqa_dataset(str(file))
    patients = [set(part["group"]) for part in dataset.values()]
    assert list(map(len, patients)) == [8, 1, 1]
    assert len(set.union(*patients)) == 10


def test_one_patient_alone_can_not_be_split(table):
    with pytest.raises(UserError, match=r"The 12 images are too few groups \(1, the largest of 12 images\)"):
        load_vqa_dataset(str(table(*[{"patient_id": "p"}] * 12)))


@pytest.fixture
def bodies(table, tmp_path):
    """20 bodies of two slices each, of which the data set's own split puts one into training and one into test."""
    for body in range(20):
        for number, picture in enumerate(slices(2, body)):
            picture.save(tmp_path / f"body{body}_{number}.png")
    names = [f"body{body}_{number}.png" for number in range(2) for body in range(20)]
    rows = [{"image": name, "split": "test" if name.endswith("1.png") else "train"} for name in names]
    rows[-1]["image"] = "alone.png"
    Image.fromarray(np.random.default_rng(99).integers(0, 256, (48, 48), dtype=np.uint8)).save(tmp_path / "alone.png")
    return table(*rows, {"image": "body0_0.png", "split": "test"}, count=41)


def test_rows_to_evaluate_on_tell_what_training_has_seen_of_their_image(bodies):
    dataset = load_vqa_dataset(str(bodies), leaks="keep")
    assert set(dataset["train"]["overlap"]) == {None}
    found = dict(zip(dataset["test"]["image_id"], dataset["test"]["overlap"], strict=True))
    held_out = set(dataset["validation"]["image_id"])
    for name, overlap in found.items():
        twin = name.replace("_1", "_0")
        same = {"alone.png": "none", "body0_0.png": "same"}.get(name, "none" if twin in held_out else "near")
        assert overlap == same, name


def test_split_by_neighbours_keeps_the_slices_of_a_body_together(bodies):
    by_image, by_body = (load_vqa_dataset(str(bodies), split_by=by) for by in ("image", "neighbours"))
    parts = [{name.split("_")[0] for name in part["image_id"]} for part in by_body.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 21  # 20 bodies and the image alone
    assert [len(set(part["image"])) for part in by_body.values()] == [32, 4, 4]
    assert set(by_body["test"]["overlap"]) == {"none"}
    assert "near" in by_image["test"]["overlap"]
    assert "same" not in by_image["test"]["overlap"]


def test_slake_has_39_validation_images_with_a_near_neighbour_in_training(slake):
    rows = load_vqa_dataset(str(slake))["validation"]
    images = dict(zip(rows["image"], rows["overlap"], strict=True))
    assert [list(images.values()).count(kind) for kind in ("none", "near", "same")] == [57, 39, 0]
