"""processing.sources: every kind of data set in, and what is said of files that are none."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.sources.csv_tables import CsvTable
from processing.sources.slake import read_slake_boxes
from tests.processing.conftest import rows_of


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
    dataset = load_vqa_dataset(str(tmp_path), leaks="drop")
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 6, "validation": 1, "test": 1}


def test_lines_inside_a_csv_field_stay_as_they_are():
    text = 'image,question,answer\r\na.png,"What\r\nis it?","a ""b"", c"\r\n'
    expected = {"image": "a.png", "question": "What\r\nis it?", "answer": 'a "b", c'}
    assert list(CsvTable(text, Path("t.csv"))) == [expected]


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


BAD_FILES = {
    "rows.txt": ("image,question,answer", "unknown kind of table"),
    "bracket.json": ('[{"image": 1,]', r"not valid JSON at line 1, column 14"),
    "object.json": ('{"a": 1}', "expected a JSON list of rows, got dict"),
    "numbers.json": ("[1, 2]", "row 1: expected an object with named fields, got int"),
    "line.jsonl": ('{"image": "a"}\n{oops}\n', "line.jsonl: not valid JSON at line 2, column 2"),
    "short.csv": ("image,question,answer\na.png,what\n", "row 1: 2 fields where the header has 3"),
    "quote.csv": ('image,question,answer\n"a.png,what,x\n', "a quote opens in this row and is never closed"),
    "columns.csv": ("file,question,answer\na.png,what,x\n", "no column 'image' .found: 'answer', 'file', 'question'"),
    "latin.csv": (b"image,question,answer\na.png,what,caf\xe9\n", "not UTF-8 text .byte 36"),
    "empty.json": ("[]", "empty.json: it has no rows; write them into it"),
    "deep.json": ("[" * 100_000, "nested too deeply|not valid JSON"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_each_kind_of_bad_file_is_one_clear_sentence(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_vqa_dataset(str(tmp_path / name))


def test_missing_data_set_is_an_error_that_says_what_can_be_given(tmp_path):
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


def test_columns_are_mapped_by_the_other_names_of_a_field_too(table):
    file = table(*({"Fall": f"p{i // 2}"} for i in range(12)))
    rows = rows_of(load_vqa_dataset(str(file), column_names=["patient_id=Fall"]))
    assert {row["group"] for row in rows} == {f"p{i}" for i in range(6)}


@pytest.mark.parametrize("pair", ["image", "scan=image", "image="])
def test_wrong_column_mapping_names_the_fields(table, pair):
    with pytest.raises(UserError, match=f"--column_names {pair}: expected field=column"):
        load_vqa_dataset(str(table()), column_names=[pair])


@pytest.mark.parametrize("options", [{"column_names": ["answer=a"]}, {"image_folder": "."}], ids=str)
def test_data_sets_that_know_their_columns_refuse_others(options):
    [name] = options
    with pytest.raises(UserError) as error:
        load_vqa_dataset("phantom:12", **options)
    assert str(error.value) == f"--{name} is for tables, and phantom:12 is read as phantom; leave it out."


def table_with_boxes(folder: Path, names: list[str]) -> dict[str, list[dict] | None]:
    """Loads a table of these images, one a folder with a `detection.json`; the boxes of each."""
    for number, name in enumerate(names):
        file = folder / str(number) / name.partition("#")[0]
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 32), (number * 9, 0, 0)).save(file, "PNG")
        if not (file.parent / "detection.json").is_symlink():
            (file.parent / "detection.json").write_text(f'[{{"Liver": [{number}, 2, 3.5, 4]}}]')
    rows = [{"image": f"{number}/{name}", "question": "q", "answer": "a"} for number, name in enumerate(names)]
    (folder / "rows.json").write_text(json.dumps(rows))
    dataset = load_vqa_dataset(str(folder / "rows.json"), on_bad_rows="error")
    return {row["image_id"]: row["boxes"] for row in rows_of(dataset)}


def test_a_table_has_the_boxes_beside_its_images_that_are_named_source(tmp_path):
    names = ["source.png", "source.tif", "other.png", "source.tif#1", "source", "my source.png", "source.old.png"]
    assert table_with_boxes(tmp_path, names) == {
        "0/source.png": [{"label": "Liver", "bbox": [0, 2, 3.5, 4]}],
        "1/source.tif": [{"label": "Liver", "bbox": [1, 2, 3.5, 4]}],
        **dict.fromkeys([f"{number}/{name}" for number, name in enumerate(names) if number > 1]),
    }


def test_boxes_outside_of_the_data_folder_are_not_read(tmp_path):
    (tmp_path / "private.json").write_text('[{"Liver": [1, 2, 3, 4]}]')
    folder = tmp_path / "data"
    for name in ("0", "1"):
        (folder / name).mkdir(parents=True)
    (folder / "0" / "detection.json").symlink_to(tmp_path / "private.json")
    (folder / "1" / "detection.json").symlink_to(folder / "2" / "detection.json")
    boxes = table_with_boxes(folder, ["source.png"] * 3)
    assert [boxes[f"{number}/source.png"] for number in range(3)] == [
        None,
        [{"label": "Liver", "bbox": [2, 2, 3.5, 4]}],
        [{"label": "Liver", "bbox": [2, 2, 3.5, 4]}],
    ]


BROKEN_BOXES = {
    "no JSON": "[",
    "a number": "5",
    "no list of boxes": '{"Liver": [1, 2, 3, 4]}',
    "three numbers": '[{"Liver": [1, 2, 3]}]',
    "words": '[{"Liver": ["a", "b", "c", "d"]}]',
    "a huge number": f'[{{"Liver": [1{"0" * 400}, 2, 3, 4]}}]',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("content", BROKEN_BOXES.values(), ids=BROKEN_BOXES)
def test_broken_boxes_are_none(tmp_path, content):
    Image.new("RGB", (8, 8)).save(tmp_path / "source.png")
    (tmp_path / "detection.json").write_text(content)
    assert read_slake_boxes(tmp_path / "source.png", tmp_path) is None
