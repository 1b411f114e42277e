"""Confidence that training calibrates, saves with the model, and that evaluation and predictor give again."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest

import train
from metrics.abstention import SILENT_EVERYWHERE, Abstention
from metrics.calibration import log_loss
from metrics.intervals import clustered_error_bound
from modeling.asking.predictor import Predictor
from modeling.training.checks import check_rows
from modeling.training.evaluation import VALIDATION, evaluate
from modeling.training.parser import parse_arguments
from processing.errors import UserError
from tests.support.killed import Killed
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
        patch.setattr("modeling.training.checks.MIN_ANSWERS", 21)
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


@pytest.fixture
def options(calibrated, phantoms):
    """A run that changes no weight of the calibrated ViLT, without its folder."""
    return ["--model_name_or_path", str(calibrated("vilt")), *KEPT_WEIGHTS, *COMMON, "--dataset", str(phantoms)]


def test_target_risk_chooses_a_threshold_and_the_report_shows_it_on_every_split(options, tmp_path, caplog):
    with caplog.at_level("INFO"):
        train.main([*options, "--output_dir", str(tmp_path), "--target_risk", "0.9", "--do_predict", "True"])
    threshold = json.loads((tmp_path / "config.json").read_text())["answer_threshold"]
    assert 0 < threshold < 1
    assert f"--target_risk 0.9: silent below a confidence of {threshold:.3f}" in caplog.text
    reports = json.loads((tmp_path / "report" / "report.json").read_text())
    for split in ("validation", "test"):
        lines = (tmp_path / f"predictions_{split}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        answered = [row for row in rows if row["confidence"] >= threshold - 1e-6]
        wrong = [row["prediction"].lower() != row["answer"].lower() for row in answered]
        chosen = reports[split]["silence"]["chosen"]
        assert (chosen["threshold"], chosen["target_risk"], chosen["answers"]) == (threshold, 0.9, len(answered))
        assert chosen["coverage"][0] == pytest.approx(100 * len(answered) / len(rows), abs=0.01)
        assert chosen["risk"][0] == pytest.approx(100 * np.mean(wrong), abs=0.01)
        if split == "validation":
            images = [row["image_id"] for row in answered]
            _, index = np.unique(images, return_inverse=True)
            assert clustered_error_bound(np.bincount(index, wrong), np.bincount(index)) <= 0.9
    promise = "chosen on the validation rows for a risk of at most 90.00%, with 95 % certainty"
    text = (tmp_path / "report" / "report.md").read_text()
    assert text.count(promise) == 2
    assert (tmp_path / "README.md").read_text().count(promise) == 2


def test_a_model_that_can_t_keep_its_promise_is_saved_to_give_no_answer(options, dataset, tmp_path, caplog):
    train.main([*options, "--output_dir", str(tmp_path), "--target_risk", "0.001"])
    assert "--target_risk 0.001: no threshold keeps it with 95 % certainty" in caplog.text
    assert json.loads((tmp_path / "config.json").read_text())["answer_threshold"] == SILENT_EVERYWHERE > 1
    answers = Predictor.from_pretrained(tmp_path).answer_batch(
        list(dataset["validation"]["image"]), list(dataset["validation"]["question"]), top_k=1
    )
    assert all(answer.silent and answer.answer == "" for answer in answers)
    assert "The model gives no answer at all" in (tmp_path / "report" / "report.md").read_text()
    assert "The model gives no answer at all" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("family", SETTINGS)
def test_a_run_that_ends_before_a_threshold_is_chosen_leaves_a_silent_model(
    calibrated, phantoms, tmp_path, monkeypatch, family
):
    def killed(*_):
        raise Killed

    base = calibrated(family) if family == "vilt" else calibrated(family).parent / "base"
    monkeypatch.setattr("train.evaluate", killed)  # the last thing before the run: `calibrated` may train too
    options = ["--model_type", family, "--model_name_or_path", str(base), *KEPT_WEIGHTS, *COMMON]
    with pytest.raises(Killed):
        train.main([*options, "--dataset", str(phantoms), "--output_dir", str(tmp_path), "--target_risk", "0.2"])
    assert Predictor.from_pretrained(tmp_path).abstention_threshold == SILENT_EVERYWHERE


def test_target_risk_is_refused_where_it_can_t_act(options, tmp_path):
    def refusal(*flags):
        with pytest.raises(UserError) as error:
            train.main([*options, "--output_dir", str(tmp_path / "out"), "--target_risk", "0.2", *flags])
        assert not list((tmp_path / "out").glob("*.safetensors"))
        return str(error.value)

    needs = "--target_risk needs --do_train True and --do_eval True: the threshold is chosen once a model is trained."
    assert refusal("--do_eval", "False") == needs
    assert refusal("--do_train", "False") == needs
    assert refusal("--max_eval_samples", "20") == (
        "--target_risk 0.2: needs 21 validation rows or more to choose a threshold, and there are 20; give more, or "
        "leave the flag out."
    )


def test_target_risk_without_validation_rows_is_refused(dataset, tmp_path):
    _, args = parse_arguments(["--target_risk", "0.2", "--output_dir", str(tmp_path)])
    with pytest.raises(UserError, match="--target_risk 0.2: needs 21 .* and there are none; give more, or leave"):
        check_rows(args, datasets.DatasetDict({"train": dataset["train"]}))


def test_a_threshold_is_reported_when_the_model_is_evaluated_again(calibrated, phantoms, tmp_path):
    folder, again = tmp_path / "model", tmp_path / "again"
    for family, place in SETTINGS.items():
        shutil.copytree(calibrated(family), folder / family)
        settings = json.loads((folder / family / place.file).read_text())
        (folder / family / place.file).write_text(json.dumps(settings | {place.threshold: 0.3}))
        options = ["--model_type", family, "--model_name_or_path", str(folder / family), "--do_train", "False"]
        train.main([*options, "--dataset", str(phantoms), "--output_dir", str(again / family), *COMMON])
        report = json.loads((again / family / "report" / "report.json").read_text())["validation"]
        assert (report["silence"]["chosen"]["threshold"], report["silence"]["chosen"]["target_risk"]) == (0.3, None)
        assert report["calibration"]["judged_on"] == "as saved"
        assert "may have been fitted to these rows" in (again / family / "report" / "report.md").read_text()


def test_calibration_is_judged_by_fits_to_other_images(tmp_path):
    """A family whose calibrated confidence is the share of right answers among the rows that it is fitted to."""
    rows = datasets.Dataset.from_list(
        [
            {
                "row": i,
                "image": "x.png",
                "image_id": f"{i // 10:02}",
                "question": "q",
                "answer": "yes",
                "language": "en",
            }
            | dict.fromkeys(("question_id", "answer_type", "content_type", "modality", "location", "overlap", "boxes"))
            for i in range(120)
        ]
    )
    right = np.arange(120) // 10 >= 3  # all answers to the first three of twelve images are wrong
    fitted = []

    def calibrate(output, trainer, correct):
        fitted.append(correct)

    def read_answers(output, trainer):
        share = float(np.mean(list(fitted[-1].values()))) if fitted else 0.5
        return {i: ("yes" if right[i] else "no", share) for i in range(120)}

    family = SimpleNamespace(
        MAX_CASES=0,
        calibrate=calibrate,
        read_answers=read_answers,
        heat_maps=None,
        find_evidence=lambda _, rows: [None] * len(rows),
        abstention_threshold=lambda trainer: 0.0,
    )
    trainer = SimpleNamespace(
        predict=lambda *_, **__: SimpleNamespace(metrics={}),
        save_metrics=lambda *_: None,
        is_world_process_zero=lambda: True,
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
        args=SimpleNamespace(do_train=True, target_risk=None, output_dir=str(tmp_path)),
    )
    report = evaluate(trainer, family, datasets.DatasetDict(validation=rows), VALIDATION).report
    one, other, everything = fitted
    assert one.keys().isdisjoint(other)
    assert one.keys() | other.keys() == everything.keys() == set(range(120))
    images = [{i // 10 for i in part} for part in (one, other)]
    assert [len(part) for part in images] == [6, 6]
    assert images[0].isdisjoint(images[1])
    shares = [np.mean(list(part.values())) for part in (one, other)]
    assert shares[0] != shares[1]
    assert report["calibration"]["judged_on"] == "two-fold over images"
    error = abs(shares[0] - shares[1])  # each half has the confidence of the other
    assert report["calibration"]["expected_calibration_error"] == pytest.approx(error, abs=1e-4)
    predictions = (tmp_path / "predictions_validation.jsonl").read_text().splitlines()
    assert {json.loads(line)["confidence"] for line in predictions} == {0.75}  # the last fit is to all


def test_threshold_of_a_blip2_is_kept_with_its_adapter(phantoms, dataset, tmp_path, monkeypatch):
    abstention = Abstention(0.25, 0.5, 0.1, 0.2)  # so small a model has none of its own
    monkeypatch.setattr("modeling.training.evaluation.choose_threshold", lambda *_: abstention)
    base = tiny_blip2("opt", dataset, tmp_path / "base")
    options = ["--model_type", "blip2", "--model_name_or_path", str(base), "--max_steps", "2", *COMMON]
    options += ["--merge_adapter", "True", "--target_risk", "0.2"]
    train.main([*options, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "out")])
    for folder in (tmp_path / "out", tmp_path / "out" / "merged"):
        assert Predictor.from_pretrained(folder).abstention_threshold == 0.25
