"""Confidence that training calibrates, saves with the model, and that evaluation and predictor give again."""

import json
import shutil

import numpy as np
import pytest

import train
from metrics.calibration import Abstention, log_loss
from metrics.intervals import error_bound
from modeling.asking.predictor import Predictor
from processing.data import load_vqa_dataset
from tests.support.tiny_blip2 import tiny_blip2

COMMON = ["--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "True", "--fp16", "False"]


@pytest.fixture(scope="module")
def calibrated(phantoms, tmp_path_factory):
    """A function from a family to a run's folder, calibrated however few its validation rows are."""
    folder = tmp_path_factory.mktemp("calibrated")

    def run(family: str):
        if not (folder / family).is_dir():
            model = ["--model_name_or_path", "scratch:tiny", "--max_steps", "150", "--learning_rate", "5e-3"]
            if family == "blip2":
                base = tiny_blip2("opt", load_vqa_dataset(str(phantoms)), folder / "base")
                model = ["--model_name_or_path", str(base), "--max_steps", "30", "--learning_rate", "5e-3"]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(train, "MIN_ANSWERS", 10)
                options = ["--model_type", family, "--dataset", str(phantoms), "--output_dir", str(folder / family)]
                train.main([*options, *model, *COMMON])
        return folder / family

    return run


def rows(folder):
    return [json.loads(line) for line in (folder / "predictions_validation.jsonl").read_text().splitlines()]


def losses(found):
    correct = np.array([float(row["prediction"].lower() == row["answer"].lower()) for row in found])
    return log_loss(np.array([row["confidence"] for row in found]), correct)


@pytest.mark.parametrize("family", ["vilt", "blip2"])
def test_calibration_lowers_the_loss_and_is_kept(calibrated, phantoms, tmp_path, family):
    folder = calibrated(family)
    found = rows(folder)
    file, name = {"vilt": ("config.json", "answer_temperature"), "blip2": ("answering.json", "confidence_scale")}[
        family
    ]
    settings = json.loads((folder / file).read_text())
    assert settings[name] not in (None, 1.0)

    again = ["--model_type", family, "--model_name_or_path", str(folder), "--do_train", "False"]
    train.main([*again, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "again"), *COMMON])
    expected = [row["confidence"] for row in found]
    assert [row["confidence"] for row in rows(tmp_path / "again")] == pytest.approx(expected)

    predictor = Predictor.from_pretrained(folder, dtype="float32")
    images = load_vqa_dataset(str(phantoms))["validation"]["image"]
    answers = predictor.answer_batch(list(images), [row["question"] for row in found], top_k=1)
    assert [answer.confidence for answer in answers] == pytest.approx(expected, abs=2e-3)

    plain = {"vilt": 1.0, "blip2": None}[family]
    (folder / file).write_text(json.dumps(settings | {name: plain}))
    train.main([*again, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "plain"), *COMMON])
    (folder / file).write_text(json.dumps(settings))
    assert losses(found) < losses(rows(tmp_path / "plain"))


def test_few_rows_calibrate_nothing_and_a_new_training_forgets_the_old_temperature(calibrated, phantoms, tmp_path):
    folder = calibrated("vilt")
    options = ["--model_name_or_path", str(folder), "--dataset", str(phantoms), "--output_dir", str(tmp_path)]
    train.main([*options, "--max_steps", "2", "--max_eval_samples", "20", *COMMON])
    assert json.loads((tmp_path / "config.json").read_text())["answer_temperature"] == 1.0


@pytest.mark.parametrize("family", ["vilt", "blip2"])
def test_a_model_is_silent_below_its_threshold(calibrated, phantoms, tmp_path, family):
    folder = tmp_path / "model"
    shutil.copytree(calibrated(family), folder)
    file, name = {"vilt": ("config.json", "answer_threshold"), "blip2": ("answering.json", "threshold")}[family]
    settings = json.loads((folder / file).read_text())
    sure = sorted(row["confidence"] for row in rows(folder))
    threshold = (sure[len(sure) // 2 - 1] + sure[len(sure) // 2]) / 2
    dataset = load_vqa_dataset(str(phantoms))["validation"]
    before = Predictor.from_pretrained(folder, dtype="float32").answer_batch(
        list(dataset["image"]), dataset["question"]
    )
    (folder / file).write_text(json.dumps(settings | {name: threshold}))
    after = Predictor.from_pretrained(folder, dtype="float32").answer_batch(
        list(dataset["image"]), dataset["question"]
    )
    assert 0.3 < sum(answer.silent for answer in after) / len(after) < 0.7
    for one, other in zip(before, after, strict=True):
        assert other.confidence == one.confidence
        if other.silent:
            assert (other.answer, other.alternatives[0].answer) == ("", one.answer)
            assert other.alternatives[1:] == one.alternatives
        else:
            assert other == one


def test_target_risk_chooses_the_threshold_or_says_that_none_keeps_it(phantoms, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(train, "MIN_ANSWERS", 10)
    options = ["--model_name_or_path", "scratch:tiny", "--max_steps", "150", "--learning_rate", "5e-3", *COMMON]
    options += ["--dataset", str(phantoms)]
    with caplog.at_level("INFO"):
        train.main([*options, "--output_dir", str(tmp_path / "a"), "--target_risk", "0.8"])
    found = rows(tmp_path / "a")
    threshold = json.loads((tmp_path / "a" / "config.json").read_text())["answer_threshold"]
    answered = [row for row in found if row["confidence"] >= threshold - 1e-6]
    wrong = sum(row["prediction"].lower() != row["answer"].lower() for row in answered)
    assert 0 < threshold < 1
    assert error_bound(wrong, len(answered)) <= 0.8
    assert f"silent below a confidence of {threshold:.3f}" in caplog.text
    with caplog.at_level("INFO"):
        train.main([*options, "--output_dir", str(tmp_path / "b"), "--target_risk", "0.001"])
    assert "--target_risk 0.001: no threshold keeps it" in caplog.text
    assert json.loads((tmp_path / "b" / "config.json").read_text())["answer_threshold"] == 0


def test_threshold_of_a_blip2_is_kept_with_its_adapter(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "MIN_ANSWERS", 10)
    monkeypatch.setattr(
        train, "choose_threshold", lambda *_: Abstention(0.25, 0.5, 0.1, 0.2)
    )  # so small a model has none
    base = tiny_blip2("opt", load_vqa_dataset(str(phantoms)), tmp_path / "base")
    options = ["--model_type", "blip2", "--model_name_or_path", str(base), "--max_steps", "2", *COMMON]
    options += ["--merge_adapter", "True", "--target_risk", "0.2"]
    train.main([*options, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "out")])
    for folder in (tmp_path / "out", tmp_path / "out" / "merged"):
        assert Predictor.from_pretrained(folder).answering.threshold == 0.25
