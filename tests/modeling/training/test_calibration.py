"""Confidence that training calibrates, saves with the model, and that evaluation and predictor give again."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import train
from metrics.calibration import Abstention, log_loss
from metrics.intervals import error_bound
from modeling.asking.predictor import Predictor
from tests.support.tiny_blip2 import tiny_blip2

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models

COMMON = ["--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "True", "--fp16", "False"]
KEPT_WEIGHTS = ["--max_steps", "1", "--learning_rate", "0"]  # a run that calibrates and changes no weight


class Settings(NamedTuple):
    """Where a family keeps what is calibrated."""

    file: str
    calibration: str
    uncalibrated: float | None
    threshold: str


SETTINGS = {
    "vilt": Settings("config.json", "answer_temperature", 1.0, "answer_threshold"),
    "blip2": Settings("answering.json", "confidence_scale", None, "threshold"),
}


@pytest.fixture(autouse=True, scope="module")
def few_answers_suffice():
    """Calibrates however few the validation rows are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modeling.training.evaluation.MIN_ANSWERS", 21)
        yield


@pytest.fixture(scope="module")
def calibrated(phantoms, dataset, runs, tmp_path_factory):
    """A function from a family to the folder of a calibrated run."""
    folder = tmp_path_factory.mktemp("calibrated")

    def run(family: str) -> Path:
        if not (folder / family).is_dir():
            if family == "vilt":
                model = ["--model_name_or_path", str(runs("vilt")), *KEPT_WEIGHTS]
            else:
                base = tiny_blip2("opt", dataset, folder / "base")
                model = ["--model_name_or_path", str(base), "--max_steps", "30", "--learning_rate", "5e-3"]
            options = ["--model_type", family, "--dataset", str(phantoms), "--output_dir", str(folder / family)]
            train.main([*options, *model, *COMMON])
        return folder / family

    return run


def predicted_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions_validation.jsonl").read_text().splitlines()]


def loss_of(rows: list[dict[str, Any]]) -> float:
    """How badly the confidences tell right answers from wrong ones."""
    correct = np.array([float(row["prediction"].lower() == row["answer"].lower()) for row in rows])
    return log_loss(np.array([row["confidence"] for row in rows]), correct)


@pytest.mark.parametrize("family", SETTINGS)
def test_calibration_lowers_the_loss_and_is_kept(calibrated, phantoms, dataset, tmp_path, family):
    folder, place = calibrated(family), SETTINGS[family]
    rows = predicted_rows(folder)
    settings = json.loads((folder / place.file).read_text())
    assert settings[place.calibration] not in (None, 1.0)

    again = ["--model_type", family, "--model_name_or_path", str(folder), "--do_train", "False"]
    train.main([*again, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "again"), *COMMON])
    expected = [row["confidence"] for row in rows]
    assert [row["confidence"] for row in predicted_rows(tmp_path / "again")] == pytest.approx(expected)

    predictor = Predictor.from_pretrained(folder, dtype="float32")
    images = list(dataset["validation"]["image"])
    answers = predictor.answer_batch(images, [row["question"] for row in rows], top_k=1)
    assert [answer.confidence for answer in answers] == pytest.approx(expected, abs=2e-3)

    (folder / place.file).write_text(json.dumps(settings | {place.calibration: place.uncalibrated}))
    train.main([*again, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "uncalibrated"), *COMMON])
    (folder / place.file).write_text(json.dumps(settings))
    assert loss_of(rows) < loss_of(predicted_rows(tmp_path / "uncalibrated"))


def test_few_rows_calibrate_nothing_and_a_new_training_forgets_the_old_temperature(calibrated, phantoms, tmp_path):
    options = ["--model_name_or_path", str(calibrated("vilt")), "--dataset", str(phantoms)]
    options += ["--output_dir", str(tmp_path), "--max_steps", "2", "--max_eval_samples", "20"]
    train.main([*options, *COMMON])
    assert json.loads((tmp_path / "config.json").read_text())["answer_temperature"] == 1.0


@pytest.mark.parametrize("family", SETTINGS)
def test_a_model_gives_no_answer_below_its_threshold(calibrated, dataset, tmp_path, family):
    folder, place = tmp_path / "model", SETTINGS[family]
    shutil.copytree(calibrated(family), folder)
    settings = json.loads((folder / place.file).read_text())
    confidences = sorted(row["confidence"] for row in predicted_rows(folder))
    threshold = (confidences[len(confidences) // 2 - 1] + confidences[len(confidences) // 2]) / 2
    rows = dataset["validation"]

    def answers():
        predictor = Predictor.from_pretrained(folder, dtype="float32")
        return predictor.answer_batch(list(rows["image"]), list(rows["question"]))

    before = answers()
    (folder / place.file).write_text(json.dumps(settings | {place.threshold: threshold}))
    after = answers()
    assert 0.3 < sum(answer.silent for answer in after) / len(after) < 0.7
    for one, other in zip(before, after, strict=True):
        assert other.confidence == one.confidence
        if other.silent:
            assert (other.answer, other.alternatives[0].answer) == ("", one.answer)
            assert other.alternatives[1:] == one.alternatives
        else:
            assert other == one


def test_target_risk_chooses_the_threshold_or_says_that_none_keeps_it(calibrated, phantoms, tmp_path, caplog):
    reachable, unreachable = tmp_path / "reachable", tmp_path / "unreachable"
    options = ["--model_name_or_path", str(calibrated("vilt")), *KEPT_WEIGHTS, *COMMON, "--dataset", str(phantoms)]
    with caplog.at_level("INFO"):
        train.main([*options, "--output_dir", str(reachable), "--target_risk", "0.8"])
    threshold = json.loads((reachable / "config.json").read_text())["answer_threshold"]
    answered = [row for row in predicted_rows(reachable) if row["confidence"] >= threshold - 1e-6]
    wrong = sum(row["prediction"].lower() != row["answer"].lower() for row in answered)
    assert 0 < threshold < 1
    assert error_bound(wrong, len(answered)) <= 0.8
    assert f"silent below a confidence of {threshold:.3f}" in caplog.text
    with caplog.at_level("INFO"):
        train.main([*options, "--output_dir", str(unreachable), "--target_risk", "0.001"])
    assert "--target_risk 0.001: no threshold keeps it" in caplog.text
    assert json.loads((unreachable / "config.json").read_text())["answer_threshold"] == 0


def test_threshold_of_a_blip2_is_kept_with_its_adapter(phantoms, dataset, tmp_path, monkeypatch):
    abstention = Abstention(0.25, 0.5, 0.1, 0.2)  # so small a model has none of its own
    monkeypatch.setattr("modeling.training.evaluation.choose_threshold", lambda *_: abstention)
    base = tiny_blip2("opt", dataset, tmp_path / "base")
    options = ["--model_type", "blip2", "--model_name_or_path", str(base), "--max_steps", "2", *COMMON]
    options += ["--merge_adapter", "True", "--target_risk", "0.2"]
    train.main([*options, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "out")])
    for folder in (tmp_path / "out", tmp_path / "out" / "merged"):
        assert Predictor.from_pretrained(folder).abstention_threshold == 0.25
