"""processing.data: rows of any data set with one schema."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from metrics.vqa import majority_answers, score_answers
from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.good_rows import SCHEMA
from tests.processing.conftest import rows_of


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


def test_majority_baseline_of_slake_is_the_one_counted_beforehand(slake):
    dataset = load_vqa_dataset(str(slake))
    scores = score_answers(dataset["validation"], majority_answers(dataset["train"], dataset["validation"]))
    assert scores["exact_match"] == pytest.approx(56.60, abs=0.3)


def test_language_filter_keeps_the_language_asked_for_and_rows_without_one(table):
    file = table({"language": "en"}, {"language": "zh"}, {"language": "zh"})
    assert len(rows_of(load_vqa_dataset(str(file)))) == 10
    assert len(rows_of(load_vqa_dataset(str(file), language="zh"))) == 11
    assert len(rows_of(load_vqa_dataset(str(file), language="all"))) == 12


def test_language_that_no_row_has_names_those_there_are(table):
    file = table(*[{"language": "en"}] * 12)
    with pytest.raises(UserError, match=r"--language zh: no row is in that language; the data set has en \(12 rows\)"):
        load_vqa_dataset(str(file), language="zh")


def test_rooms_without_models_do_not_import_torch():
    light = [
        "box_questions",
        "data",
        "dicom",
        "images",
        "implied_questions",
        "phantom",
        "sources",
        "splits",
        "storage",
        "utils",
        "validation",
    ]
    modules = ", ".join([*(f"processing.{name}" for name in light), "metrics.vqa", "metrics.report"])
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_slake_is_called_slake(phantoms, slake):
    assert load_vqa_dataset(str(phantoms))["train"].info.dataset_name == "own data"  # in SLAKE's layout
    for language in ("en", "zh"):
        assert load_vqa_dataset(str(slake), language=language)["train"].info.license == "cc-by-4.0"
