"""processing.data, sources and validation: every kind of data set in, every kind of bad input told."""

import csv
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metrics.vqa import majority_answers, score_answers
from processing.data import SCHEMA, load_vqa_dataset
from processing.errors import UserError
from processing.sources.tables import parse_csv


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes a JSON table of good rows over distinct images, changed as the test asks."""

    def write(*changes: dict[str, Any], count: int = 12, name: str = "rows.json") -> Path:
        rows = []
        for i in range(count):
            Image.new("RGB", (40, 32), (i * 5, 20, 90)).save(tmp_path / f"{i}.png")
            rows.append({"image": f"{i}.png", "question": f"What is {i % 3}?", "answer": "lung", "question_id": i})
        for row, change in zip(rows, changes, strict=False):
            row |= change
        (tmp_path / name).write_text(json.dumps(rows))
        return tmp_path / name

    return write


def rows_of(dataset) -> list[dict]:
    return [row for split in dataset.values() for row in split]


# The kinds of data sets ----------------------------------------------------------------------------------------------


def test_phantom_is_read_by_name_with_every_split_and_boxes():
    dataset = load_vqa_dataset("phantom")
    assert list(dataset) == ["train", "validation", "test"]
    assert dataset["train"].features.keys() == SCHEMA.keys()
    row = dataset["train"][0]
    assert Path(row["image"]).is_file()
    assert row["boxes"][0].keys() == {"label", "bbox"}
    assert len(row["boxes"][0]["bbox"]) == 4
    numbers = [row["row"] for row in rows_of(dataset)]
    assert numbers == list(range(len(numbers)))


def test_phantom_comes_in_any_number_of_images(hub):
    assert len({row["image"] for row in rows_of(load_vqa_dataset("phantom:16"))}) == 16
    with pytest.raises(UserError, match="num_images is 3, too few"):
        load_vqa_dataset("phantom:3")
    with pytest.raises(UserError, match="--dataset phantom:many: there is no such file"):
        load_vqa_dataset("phantom:many")


def test_slake_in_english_has_its_published_counts(slake, tmp_path):
    dataset = load_vqa_dataset(str(slake), skipped_rows_file=tmp_path / "skipped.jsonl")
    assert len(dataset["train"]) == 4919 - 1
    assert len(dataset["validation"]) == 1053
    assert len(set(dataset["train"]["image"])) == 450
    assert len(set(dataset["validation"]["image"])) == 96
    assert set(dataset["train"]["answer_type"]) == {"OPEN", "CLOSED"}
    assert dataset["validation"][0]["question_id"] == 9835
    skipped = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [row["question"] for row in skipped] == ["Does the picture contain liver?"]


def test_slake_keeps_its_row_without_an_answer_when_asked(slake):
    dataset = load_vqa_dataset(str(slake), allow_no_answer=True)
    assert len(dataset["train"]) == 4919
    assert dataset["train"]["answer"].count("") == 1


def test_slake_with_both_languages_is_refused_for_its_130_shared_images(slake):
    with pytest.raises(UserError, match=r"share images \(130 in train and validation; .*--drop_leaking_rows"):
        load_vqa_dataset(str(slake), language="all")


def test_slake_with_both_languages_is_accepted_without_the_leaking_rows(slake):
    dataset = load_vqa_dataset(str(slake), language="all", drop_leaking_rows=True)
    assert not set(dataset["train"]["image"]) & set(dataset["validation"]["image"])
    assert len(dataset["validation"]) == 1969
    assert set(dataset["train"]["language"]) == {"en", "zh"}


def test_second_load_opens_no_image_again(table, monkeypatch):
    file = table()
    first = load_vqa_dataset(str(file))
    monkeypatch.setattr("processing.validation.open_image", lambda _: pytest.fail("an image was opened again"))
    assert rows_of(load_vqa_dataset(str(file))) == rows_of(first)


def test_majority_baseline_of_slake_is_the_one_counted_beforehand(slake):
    dataset = load_vqa_dataset(str(slake))
    scores = score_answers(dataset["validation"], majority_answers(dataset["train"], dataset["validation"]))
    assert scores["exact_match"] == pytest.approx(56.60, abs=0.3)


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


def write_vqa_rad(folder: Path, name: str, rows: list[dict]) -> None:
    (folder / "images").mkdir(exist_ok=True)
    for row in rows:
        shade = int(row["image_name"].split(".")[0])
        Image.new("L", (32, 32), shade).save(folder / "images" / row["image_name"])
    (folder / name).write_text(json.dumps(rows))


def vqa_rad_row(image: int, phrase_type: str, qid: int) -> dict:
    return {
        "qid": qid,
        "image_name": f"{image}.png",
        "image_organ": "CHEST",
        "question": "Is it normal?",
        "answer": "Yes",
        "answer_type": "CLOSED ",
        "question_type": "PRES",
        "phrase_type": phrase_type,
    }


def test_public_single_file_of_vqa_rad_is_split_by_its_phrase_type(tmp_path):
    rows = [vqa_rad_row(i, "freeform", i) for i in range(8)] + [vqa_rad_row(20, "test_para", 8)]
    write_vqa_rad(tmp_path, "VQA_RAD Dataset Public.json", rows)
    dataset = load_vqa_dataset(str(tmp_path))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 7, "validation": 1, "test": 1}
    assert dataset["test"]["question_id"] == [8]
    assert dataset["test"]["answer_type"] == ["CLOSED"]
    row = dataset["test"][0]
    assert (row["image_id"], row["location"], row["content_type"], row["language"]) == (
        "20.png",
        "CHEST",
        "PRES",
        "en",
    )


def test_images_of_vqa_rad_may_lie_in_the_folder_of_its_archive(tmp_path):
    rows = [vqa_rad_row(i, "freeform", i) for i in range(8)]
    write_vqa_rad(tmp_path, "VQA_RAD Dataset Public.json", rows)
    (tmp_path / "images").rename(tmp_path / "VQA_RAD Image Folder")
    dataset = load_vqa_dataset(str(tmp_path))
    assert Path(dataset["train"][0]["image"]).parent.name == "VQA_RAD Image Folder"
    (tmp_path / "VQA_RAD Image Folder").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="8 x missing image"):
        load_vqa_dataset(str(tmp_path))


def test_vqa_rad_with_the_official_test_set_is_refused_for_shared_images(tmp_path):
    write_vqa_rad(tmp_path, "trainset.json", [vqa_rad_row(i, "freeform", i) for i in range(8)])
    write_vqa_rad(tmp_path, "testset.json", [vqa_rad_row(3, "test_freeform", 9)])
    with pytest.raises(UserError, match="1 in train and test"):
        load_vqa_dataset(str(tmp_path))
    dataset = load_vqa_dataset(str(tmp_path), drop_leaking_rows=True)
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 6, "validation": 1, "test": 1}


def test_lines_inside_a_csv_field_stay_as_they_are():
    text = 'image,question,answer\r\na.png,"What\r\nis it?","a ""b"", c"\r\n'
    expected = {"image": "a.png", "question": "What\r\nis it?", "answer": 'a "b", c'}
    assert parse_csv(text, Path("t.csv")) == [expected]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_tables_of_all_three_kinds_give_the_same_rows(table, tmp_path, suffix):
    source = table()
    rows = json.loads(source.read_text())
    file = tmp_path / f"mine{suffix}"
    if suffix == ".csv":
        with file.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file = source
    dataset = load_vqa_dataset(str(file))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 10, "validation": 1, "test": 1}
    assert sorted(int(row["question_id"]) for row in rows_of(dataset)) == list(range(12))
    assert rows_of(dataset)[0]["modality"] is None


def test_columns_of_other_names_are_mapped(table, tmp_path):
    rows = json.loads(table().read_text())
    renamed = [{"file": row["image"], "q=1": row["question"], "answer": row["answer"]} for row in rows]
    (tmp_path / "other.json").write_text(json.dumps(renamed))
    dataset = load_vqa_dataset(str(tmp_path / "other.json"), column_names=["image=file", "question=q=1"])
    assert len(rows_of(dataset)) == 12
    assert {row["image_id"] for row in rows_of(dataset)} == {row["file"] for row in renamed}


def test_images_may_lie_in_a_folder_of_their_own(table, tmp_path):
    file = table()
    (tmp_path / "pictures").mkdir()
    for image in tmp_path.glob("*.png"):
        shutil.move(image, tmp_path / "pictures")
    assert len(rows_of(load_vqa_dataset(str(file), image_folder=str(tmp_path / "pictures")))) == 12


def test_split_column_and_split_files_are_followed(table, tmp_path):
    splits = ["train"] * 6 + ["val"] * 3 + ["TEST"] * 3
    file = table(*({"split": split} for split in splits))
    by_column = load_vqa_dataset(str(file))
    assert {split: len(rows) for split, rows in by_column.items()} == {"train": 6, "validation": 3, "test": 3}
    rows = json.loads(file.read_text())
    file.unlink()
    (tmp_path / "train.json").write_text(json.dumps(rows[:8]))
    (tmp_path / "dev.json").write_text(json.dumps(rows[8:]))
    by_file = load_vqa_dataset(str(tmp_path))
    assert {split: len(rows) for split, rows in by_file.items()} == {"train": 8, "validation": 4}


def test_split_by_image_is_the_same_for_the_same_seed_and_keeps_images_whole(table):
    file = table(*({"image": f"{i // 2}.png"} for i in range(40)), count=40)
    first, again, other = (load_vqa_dataset(str(file), split_seed=seed) for seed in (1, 1, 2))
    assert [row["question_id"] for row in rows_of(first)] == [row["question_id"] for row in rows_of(again)]
    assert [row["question_id"] for row in rows_of(first)] != [row["question_id"] for row in rows_of(other)]
    assert not set(first["train"]["image"]) & set(first["validation"]["image"])
    assert {split: len(rows) for split, rows in first.items()} == {"train": 32, "validation": 4, "test": 4}


def test_language_filter_keeps_the_language_asked_for_and_rows_without_one(table):
    file = table({"language": "en"}, {"language": "zh"}, {"language": "zh"})
    assert len(rows_of(load_vqa_dataset(str(file)))) == 10
    assert len(rows_of(load_vqa_dataset(str(file), language="zh"))) == 11
    assert len(rows_of(load_vqa_dataset(str(file), language="all"))) == 12


# What is bad is told -------------------------------------------------------------------------------------------------

BAD_ROWS = {
    "missing image": {"image": "nowhere.png"},
    "undecodable image": {"image": "broken.png"},
    "image path leaves the data folder": {"image": "../outside.png"},
    "empty question": {"question": "  "},
    "answer is not a string": {"answer": ["lung"]},
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
        changes[10] = BAD_ROWS[problem]
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


def test_all_problems_come_in_one_pass_counted_with_three_rows_named(table, tmp_path, caplog):
    missing = [{"image": f"none{i}.png"} for i in range(5)]
    load_vqa_dataset(str(table(*missing, {"question": ""}, {"answer": None})))
    assert "7 of 12 rows can't be used" in caplog.text
    assert "5 x missing image: rows.json row 1 (none0.png); rows.json row 2 (none1.png); rows.json row" in caplog.text
    assert "; ..." in caplog.text
    assert "1 x empty question: rows.json row 6" in caplog.text
    assert "1 x answer is not a string: rows.json row 7 (None)" in caplog.text


@pytest.mark.parametrize("answer", [(3, "3"), (2.0, "2"), (0.5, "0.5")], ids=str)
def test_numbers_become_text(table, answer):
    given, expected = answer
    dataset = load_vqa_dataset(str(table({"answer": given})))
    assert expected in {row["answer"] for row in rows_of(dataset)}


def test_true_is_no_answer_text(table, caplog):
    assert len(rows_of(load_vqa_dataset(str(table({"answer": True}))))) == 11
    assert "answer is not a string: rows.json row 1 (True)" in caplog.text


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


def test_copies_of_an_image_under_two_names_are_a_leak(table, tmp_path):
    file = table(*({"split": "train"} for _ in range(11)), {"split": "test"})
    shutil.copy(tmp_path / "0.png", tmp_path / "11.png")
    with pytest.raises(UserError, match=r"1 in train and test; 1 rows, the first is rows.json row 1"):
        load_vqa_dataset(str(file))


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


BAD_FILES = {
    "rows.txt": ("image,question,answer", "unknown kind of table"),
    "bracket.json": ('[{"image": 1,]', r"not valid JSON at line 1, column 14"),
    "object.json": ('{"a": 1}', "expected a JSON list of rows, got dict"),
    "numbers.json": ("[1, 2]", "row 1: expected an object with named fields, got int"),
    "line.jsonl": ('{"image": "a"}\n{oops}\n', "line.jsonl: not valid JSON at line 2, column 2"),
    "short.csv": ("image,question,answer\na.png,what\n", "row 1: 2 fields where the header has 3"),
    "quote.csv": ('image,question,answer\n"a.png,what,x\n', "not valid CSV"),
    "columns.csv": ("file,question,answer\na.png,what,x\n", "no column 'image' .found: 'answer', 'file', 'question'"),
    "latin.csv": (b"image,question,answer\na.png,what,caf\xe9\n", "not UTF-8 text .byte 36"),
    "empty.json": ("[]", "no column 'image' and no column 'question' and no column 'answer' .found: none"),
    "deep.json": ("[" * 100_000, "nested too deeply|not valid JSON"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_each_kind_of_bad_file_is_one_clear_sentence(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_vqa_dataset(str(tmp_path / name))


def test_nothing_there_is_told_with_what_can_be_given(tmp_path):
    with pytest.raises(UserError, match="no such file or folder.*phantom"):
        load_vqa_dataset(str(tmp_path / "nowhere"))


def test_folder_that_is_no_data_set_names_what_it_holds(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"found: a.csv, b.csv"):
        load_vqa_dataset(str(tmp_path))


def test_two_files_for_one_split_are_refused(tmp_path):
    for name in ("val.json", "validation.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(UserError, match=r"validation.json and val.json both name the validation split"):
        load_vqa_dataset(str(tmp_path))


def test_language_that_no_row_has_names_those_there_are(table):
    file = table(*[{"language": "en"}] * 12)
    with pytest.raises(UserError, match=r"--language zh: no row is in that language; the data set has en \(12 rows\)"):
        load_vqa_dataset(str(file), language="zh")


@pytest.mark.parametrize("pair", ["image", "picture=image", "image="])
def test_wrong_column_mapping_names_the_fields(table, pair):
    with pytest.raises(UserError, match=f"--column_names {pair}: expected field=column"):
        load_vqa_dataset(str(table()), column_names=[pair])


def test_rows_without_split_beside_rows_with_one_are_refused(table):
    with pytest.raises(UserError, match="11 rows have no split while others do"):
        load_vqa_dataset(str(table({"split": "train"})))


def test_too_few_images_to_split(table):
    with pytest.raises(UserError, match="2 images are too few to split by image"):
        load_vqa_dataset(str(table(count=2)))


def test_rooms_without_models_do_not_import_torch():
    code = (
        "import sys, processing.data, processing.images, processing.phantom, metrics.vqa, metrics.report;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_slake_is_called_slake(phantoms, slake):
    assert load_vqa_dataset(str(phantoms))["train"].info.dataset_name == "own data"  # in SLAKE's layout
    for language in ("en", "zh"):
        assert load_vqa_dataset(str(slake), language=language)["train"].info.license == "cc-by-4.0"
