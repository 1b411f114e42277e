"""The phantom data set: SLAKE's format, honest answers, safe writing."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from processing.errors import UserError
from processing.phantom import files
from processing.phantom.__main__ import main
from processing.phantom.anatomy import KINDS, draw_scene
from processing.phantom.files import SPLITS, write_phantoms
from processing.phantom.questions import QUESTIONS
from processing.phantom.scene import tight_box
from tests.support.phantom_answers import check_answers, read_boxes

FIELDS = ["img_id", "img_name", "question", "answer", "q_lang", "location", "modality"]
FIELDS += ["answer_type", "base_type", "content_type", "triple", "qid"]
REGIONS = ("Chest", "Abdomen", "Head")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture(scope="module")
def rows(folder) -> dict[str, list[dict]]:
    return {split: json.loads((folder / f"{split}.json").read_text()) for split in SPLITS}


@pytest.fixture(scope="module")
def every_row(rows) -> list[dict]:
    return [row for split in rows.values() for row in split]


@pytest.fixture(scope="module")
def boxes(folder) -> dict[int, list[tuple[str, list[float]]]]:
    return read_boxes(folder)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path):
    first, second, other = (
        digest(write_phantoms(tmp_path / name, num_images=12, seed=seed, image_size=96))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == second
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.endswith("source.jpg"))


def test_bodies_of_one_image_are_those_that_0_1_draws(phantoms):
    """Every draw has its part in the questions. Boxes and grey levels may differ by rounding between machines."""
    rows = b"".join((phantoms / f"{split}.json").read_bytes() for split in SPLITS)
    assert hashlib.sha256(rows).hexdigest() == "5a3b6946bd1ef1ed5a3afe6e311466c1cfcdd140bc0eb419b70a74bc64d1b7ae"
    sides = [number for items in read_boxes(phantoms).values() for _, box in items for number in box]
    assert len(sides) == 420
    assert sum(sides) == pytest.approx(13_080, abs=4)
    grey = [np.asarray(Image.open(path).convert("L")).mean() for path in sorted(phantoms.glob("imgs/*/source.jpg"))]
    assert np.mean(grey) == pytest.approx(71.24, abs=0.05)


def test_an_image_does_not_depend_on_how_many_are_asked_for(tmp_path):
    few, many = (digest(write_phantoms(tmp_path / str(count), num_images=count, image_size=96)) for count in (12, 30))
    assert all(many[name] == value for name, value in few.items() if name.startswith("imgs"))


def test_files_and_fields_are_those_of_slake(folder, every_row):
    assert sorted(path.name for path in folder.iterdir()) == ["imgs", "test.json", "train.json", "validate.json"]
    for row in every_row:
        assert list(row) == FIELDS
        assert row["img_name"] == f"xmlab{row['img_id']}/source.jpg"
        assert (folder / "imgs" / row["img_name"]).is_file()
        assert (row["q_lang"], row["base_type"], row["triple"]) == ("en", "vqa", ["vhead", "_", "_"])
        assert row["answer_type"] in ("OPEN", "CLOSED")
        assert (row["location"], row["modality"]) in {(kind.location, kind.modality) for kind in KINDS}
        assert row["answer"]
        assert row["answer"] not in ("Yes", "No") or row["answer_type"] == "CLOSED"


def test_images_open_as_rgb_at_the_asked_size(folder, tmp_path):
    for root, size in ((folder, 224), (write_phantoms(tmp_path / "big", 12, image_size=320), 320)):
        for path in root.glob("imgs/*/source.jpg"):
            with Image.open(path) as picture:
                picture.load()
                assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (size, size))


@pytest.mark.parametrize("num_images", [12, 60])
def test_splits_share_no_image_and_each_has_every_kind(tmp_path, num_images):
    root = write_phantoms(tmp_path / "set", num_images, image_size=96)
    rows = {split: json.loads((root / f"{split}.json").read_text()) for split in SPLITS}
    images = {split: {row["img_id"] for row in rows[split]} for split in rows}
    assert sum(map(len, images.values())) == len(set.union(*images.values())) == num_images
    for split in rows:
        assert {index % len(KINDS) for index in images[split]} == set(range(len(KINDS)))


def test_default_split_is_about_70_15_15(rows):
    sizes = {split: len({row["img_id"] for row in rows[split]}) for split in rows}
    assert sizes == {"train": 44, "validate": 8, "test": 8}


def test_question_ids_are_unique_and_no_question_is_asked_twice(every_row):
    assert len({row["qid"] for row in every_row}) == len(every_row)
    assert len({(row["img_id"], row["question"]) for row in every_row}) == len(every_row)
    per_image = Counter(row["img_id"] for row in every_row).values()
    assert min(per_image) >= QUESTIONS[0]
    assert max(per_image) <= QUESTIONS[1]


def test_boxes_are_inside_the_image_and_tight():
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 7] = mask[5, 7:18] = True
    assert tight_box(mask) == [7.0, 4.0, 11.0, 5.0]
    for index in range(16):
        scene, _ = draw_scene(index, seed=1, size=128)
        masks = [
            mask for mask in [*scene.organs.values(), *(finding.mask for finding in scene.findings)] if mask.any()
        ]
        for mask, box in zip(masks, scene.boxes(), strict=True):
            (x, y, width, height), rest = map(int, *box.values()), mask.copy()
            assert min(x, y) >= 0
            assert max(x + width, y + height) <= 128
            for edge in (rest[y, :], rest[y + height - 1, :], rest[:, x], rest[:, x + width - 1]):
                assert edge.any()
            rest[y : y + height, x : x + width] = False
            assert not rest.any()


def test_left_and_right_follow_the_radiological_convention(boxes):
    seen = Counter()
    for items in boxes.values():
        middle = {label: x + width / 2 for label, (x, _, width, _) in items}
        for left, right in (("Left Lung", "Right Lung"), ("Left Kidney", "Right Kidney"), ("Spleen", "Liver")):
            if left in middle and right in middle:
                assert middle[left] > middle[right]
                seen[left] += 1
    assert all(seen[label] > 2 for label in ("Left Lung", "Left Kidney", "Spleen"))


def test_answers_agree_with_the_boxes(every_row, boxes):
    checked = check_answers(every_row, boxes)
    assert len(checked) == 12, checked


def test_general_answers_are_those_of_the_kind_of_image(tmp_path):
    folder = write_phantoms(tmp_path / "set", 240, image_size=96)
    rows = [row for split in SPLITS for row in json.loads((folder / f"{split}.json").read_text())]
    asks_weighting = ("What is the mr weighting in this image?", "What type of MRI is shown in this image?")
    weighting = {row["img_id"]: row["answer"] for row in rows if row["question"] in asks_weighting}
    assert set(weighting.values()) == {"T1", "T2"}
    asked = Counter()
    for row in rows:
        kind = KINDS[row["img_id"] % len(KINDS)]
        yes = {True: "Yes", False: "No"}
        is_mri, is_xray = (yes[kind.modality == modality] for modality in ("MRI", "X-Ray"))
        coronal, weighted = yes[kind.plane == "Coronal Plane"], weighting.get(row["img_id"])
        expected = {
            "What modality is used to take this image?": ("Modality", kind.modality),
            "How was this image taken?": ("Modality", kind.modality),
            "Is this an MRI?": ("Modality", is_mri),
            "Is this image taken via MRI?": ("Modality", is_mri),
            "Is this a X-Ray?": ("Modality", is_xray),
            "Is this image taken via X-Ray?": ("Modality", is_xray),
            **dict.fromkeys(asks_weighting, ("Modality", weighted)),
            "Is this an MRI image with T1 weighted?": ("Modality", weighted and yes[weighted == "T1"]),
            "Is this an MRI image with T2 weighted?": ("Modality", weighted and yes[weighted == "T2"]),
            "What is the scanning plane of this image?": ("Plane", kind.plane),
            "In what plane is this image scanned?": ("Plane", kind.plane),
            "Is this a coronal plane?": ("Plane", coronal),
            "Is this a coronal section?": ("Plane", coronal),
            "Which organ system is imaged?": ("Organ", kind.region),
            "What organ system is pictured?": ("Organ", kind.region),
            "Which part of the body does this image belong to?": ("Position", kind.region),
            "Where does the picture show?": ("Position", kind.region),
            **{f"Is this a study of the {part.lower()}?": ("Organ", yes[kind.region == part]) for part in REGIONS},
        }.get(row["question"])
        if expected and expected[1]:
            assert (row["content_type"], row["answer"]) == expected, row
            assert row["answer_type"] == ("CLOSED" if row["answer"] in yes.values() else "OPEN"), row
            asked[row["question"]] += 1
    assert len(asked) == 21, asked


def test_answers_need_the_image(rows):
    """The most frequent training answer of the very question, else of all, is the baseline to stay below."""
    by_question, overall = defaultdict(Counter), Counter()
    for row in rows["train"]:
        by_question[row["question"]][row["answer"]] += 1
        overall[row["answer"]] += 1
    for split in ("validate", "test"):
        guesses = [(by_question[row["question"]] or overall).most_common(1)[0][0] for row in rows[split]]
        right = sum(guess == row["answer"] for guess, row in zip(guesses, rows[split], strict=True))
        assert right / len(guesses) < 0.6
        assert sum(row["answer"] in overall for row in rows[split]) / len(guesses) > 0.95


def test_answers_are_few_and_yes_and_no_balance(every_row):
    answers = Counter(row["answer"] for row in every_row)
    assert 25 <= len(answers) <= 48
    assert 0.45 < answers["Yes"] / (answers["Yes"] + answers["No"]) < 0.55


def test_second_call_leaves_the_files_untouched(tmp_path):
    def stamps(root: Path) -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))

    root = write_phantoms(tmp_path / "set", 12, image_size=96)
    before = stamps(tmp_path)
    assert write_phantoms(root, 12, image_size=96) == root
    assert stamps(tmp_path) == before


def test_an_error_midway_leaves_nothing_behind(tmp_path, monkeypatch):

    def fail_late(index: int, seed: int, size: int):
        if index == 5:
            raise OSError("disk full")
        return draw_scene(index, seed, size)

    monkeypatch.setattr(files, "draw_scene", fail_late)
    with pytest.raises(OSError, match="disk full"):
        write_phantoms(tmp_path / "set", 12, image_size=96)
    assert list(tmp_path.iterdir()) == []


def test_loser_of_a_race_discards_its_copy(tmp_path, monkeypatch):
    write, root = files._write_files, tmp_path / "set"

    def write_second(part: Path, *arguments: int) -> None:
        write(part, *arguments)
        write(root, *arguments)  # the other process finishes first

    monkeypatch.setattr(files, "_write_files", write_second)
    assert write_phantoms(root, 12, image_size=96) == root
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 11}, "num_images is 11.*12 or more"),
        ({"seed": -1}, "seed is -1"),
        ({"image_size": 32}, "image_size is 32: give 96 to 1024"),
    ],
)
def test_bad_arguments_are_refused_with_the_fix(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        write_phantoms(tmp_path / "set", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"num_images": 13}, {"seed": 1}, {"image_size": 97}])
def test_folder_with_another_set_is_refused(tmp_path, change):
    arguments = {"num_images": 12, "seed": 0, "image_size": 96}
    root = write_phantoms(tmp_path / "set", **arguments)
    with pytest.raises(UserError, match="choose another folder or remove it"):
        write_phantoms(root, **arguments | change)


def test_folder_or_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match="is not the phantom set"):
            write_phantoms(target, 12, image_size=96)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    write_phantoms(tmp_path / "set", 12, image_size=96)
    assert (tmp_path / "set" / "train.json").is_file()


def test_command_line_prints_the_folder_or_the_error(tmp_path, capsys):
    main([str(tmp_path / "set"), "--num_images", "12", "--image_size", "96", "--seed", "3"])
    assert str(tmp_path / "set") in capsys.readouterr().out
    assert digest(tmp_path / "set") == digest(write_phantoms(tmp_path / "same", 12, seed=3, image_size=96))
    with pytest.raises(UserError, match="num_images is 3"):
        main([str(tmp_path / "few"), "--num_images", "3"])


def test_import_stays_light():
    code = "import sys, processing.phantom; print({'torch', 'pandas', 'datasets', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
