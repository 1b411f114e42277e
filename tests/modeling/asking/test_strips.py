"""Long and thin images from training to answers, heat maps and tables, with each kind of model."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import train
from modeling.asking.heat_maps import overlay
from modeling.asking.probe import probe
from modeling.asking.tables import answer_table
from modeling.predictor import Predictor
from processing.data import load_vqa_dataset
from processing.images import open_image

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models

SIZES = [(2100, 100), (100, 2100), (10_000, 30), (1, 3_000), (3_000, 1), (3, 2_000), (64, 64)]
QUESTION = "Is this a CT scan?"


@pytest.fixture(scope="module")
def strips(tmp_path_factory):
    """A folder of strips and one square image, with a table of questions about them in each split."""
    folder = tmp_path_factory.mktemp("strips")
    rng = np.random.default_rng(0)
    rows = []
    for split in ("train", "validation", "test"):
        for number, (width, height) in enumerate(SIZES):
            name = f"{split}-{number}.png"
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name)
            for question, answer in ((QUESTION, "Yes"), ("Which lead is shown?", "II")):
                rows.append({"image": name, "question": question, "answer": answer, "split": split})
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def test_vilt_trains_and_is_evaluated_on_strips(strips, tmp_path):
    command = ["--dataset", str(strips / "rows.json"), "--model_name_or_path", "scratch:tiny", "--max_steps", "3"]
    command += ["--per_device_train_batch_size", "5", "--do_predict", "True", "--disable_tqdm", "True"]
    train.main([*command, "--output_dir", str(tmp_path)])
    predictions = [json.loads(line) for line in (tmp_path / "predictions_test.jsonl").read_text().splitlines()]
    assert len(predictions) == 2 * len(SIZES)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["test"]["figures"][0]["questions"] == 2 * len(SIZES)


@pytest.mark.parametrize("name", ["vilt", "starter", "opt", "t5"])
def test_strips_are_answered_and_have_heat_maps(runs, strips, name):
    predictor = Predictor.from_pretrained(runs(name), dtype="float32")
    paths = [str(strips / f"test-{number}.png") for number in range(len(SIZES))]
    answers = predictor.answer_batch(paths, [QUESTION] * len(paths), top_k=1)
    assert len(answers) == len(paths)
    for path, answer in zip(paths, answers, strict=True):
        alone = predictor.answer(path, QUESTION, top_k=1)
        assert (alone.answer, alone.confidence) == (answer.answer, pytest.approx(answer.confidence, rel=1e-3))
    for number in (0, 3, 6):
        heat = predictor.heat_map(paths[number], QUESTION)
        assert heat.sum() == pytest.approx(1, abs=1e-4)
        assert overlay(open_image(paths[number]), heat).size == SIZES[number]
    wide, tall = (predictor.heat_map(path, QUESTION).shape for path in paths[:2])
    assert (wide, tall) == ((1, 6), (6, 1)) if name == "vilt" else wide == tall


def test_table_with_strips_is_answered(runs, strips, tmp_path):
    rows = [("image", "question"), *((f"test-{number}.png", QUESTION) for number in range(len(SIZES)))]
    with open(strips / "in.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    predictor = Predictor.from_pretrained(runs("vilt"), dtype="float32")
    assert answer_table(predictor, strips / "in.csv", tmp_path / "out.csv") == 0
    with open(tmp_path / "out.csv", newline="") as file:
        assert all(row["prediction"] and not row["error"] for row in csv.DictReader(file))


def test_probe_changes_strips_too(runs, strips):
    rows = [dict(row) for row in load_vqa_dataset(str(strips / "rows.json"))["test"]]
    predictor = Predictor.from_pretrained(runs("vilt"), dtype="float32")
    figures, _ = probe(predictor, rows, ["Yes"] * len(rows))
    assert figures["blank"].keys() == figures["cropped"].keys()
