"""metrics.report: the report folder, and the figures of it that are worked out by hand."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from metrics.abstention import SILENT_EVERYWHERE
from metrics.cases import choose_cases, with_heat_map
from metrics.report import make_report, write_report
from metrics.vqa import score_each
from tests.metrics.mixed_rows import PREDICTIONS, ROWS


def test_of_few_images_there_is_no_interval(tmp_path):
    report = make_report(score_each(ROWS, PREDICTIONS, [0.5] * 4), {})
    assert report["figures"][0]["exact_match"] == [25, None, None]
    write_report({"test": report}, tmp_path)
    assert "| all | 4 | 2 | 25.00 | 54.17 |" in (tmp_path / "report.md").read_text()


def test_report_has_figures_calibration_and_risk_against_coverage(tmp_path, monkeypatch):
    monkeypatch.setattr("metrics.intervals.MIN_IMAGES", 2)
    report = make_report(score_each(ROWS, PREDICTIONS, [0.9, 0.8, 0.7, 0.2]), {"majority": ["Yes"] * 4})
    assert report["calibration"]["mean_confidence"] == 0.65
    assert report["calibration"]["expected_calibration_error"] == pytest.approx((0.9 + 0.2 + 0.7 + 0.2) / 4)
    assert report["silence"]["coverage_at_risk"] == {"0.05": 0, "0.1": 0}  # the surest answer is wrong
    assert report["silence"]["area"] == pytest.approx((1 + 1 / 2 + 2 / 3 + 3 / 4) / 4, abs=1e-4)
    assert report["silence"]["curve"] == [[0.25, 1], [0.5, 0.5], [0.75, 0.6667], [1, 0.75]]
    assert report["calibration"]["log_loss"] == round(-np.log([0.1, 0.8, 0.3, 0.8]).mean(), 4)
    assert report["calibration"]["judged_on"] == "as saved"
    assert report["silence"]["chosen"] is None
    write_report({"validation": report, "test": report}, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == {"validation": report, "test": report}
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| all | 4 | 2 | 25.00 (0.00 to 50.00) | 54.17 (" in text
    assert "| answer type: OPEN | 2 | 2 |" in text
    for name in ("reliability_validation", "risk_validation", "reliability_test", "risk_test"):
        assert f"({name}.png)" in text
        with Image.open(tmp_path / "report" / f"{name}.png") as picture:
            assert picture.width > 400


def test_report_shows_where_the_model_looked_and_the_wrong_answers(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    box = {"label": "Left Lung", "bbox": [0, 0, 20, 20]}
    rows = [row | {"image": str(tmp_path / "a.png"), "question": "Where?", "boxes": [box]} for row in ROWS]
    cases = choose_cases(score_each(rows, PREDICTIONS, [0.9, 0.8, 0.7, 0.2]), 9)
    cases = [with_heat_map(case, np.array([[0.7, 0.1], [0.1, 0.1]])) for case in cases]
    report = make_report(score_each(rows, PREDICTIONS, [0.9, 0.8, 0.7, 0.2]), {}, cases)
    assert report["wrong"] == 3
    [everything, _, lung] = report["grounding"]
    assert everything["questions"] == lung["questions"] == 1  # the one whose answer is Left Lung
    assert (everything["hit"][0], everything["mass"][0], everything["chance"], everything["area"]) == (100, 70, 25, 25)
    write_report({"test": report}, tmp_path / "report", {"test": cases})
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == {"test": report}
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| Lung | 1 | 1 | 100.00 | 25.00 | 25.00 | 70.00 | 25.00 |" in text
    assert "`pointing_test.jpg` shows" in text  # no link: on the Hub it would lead nowhere
    assert (tmp_path / "report" / "pointing_test.jpg").is_file()
    assert "3 answers do not match" not in text
    assert '"total": 3' in (tmp_path / "report" / "errors.html").read_text()


def test_best_thresholds_are_reported_where_there_are_any(tmp_path):
    best = {"best_exact": 50.0, "best_exact_thresh": 0.25, "best_f1": 60.5, "best_f1_thresh": 0.125}
    report = make_report(score_each(ROWS, PREDICTIONS, [0.5] * 4), {}, thresholds=best)
    write_report({"test": report}, tmp_path)
    sentence = "With SQuAD v2's best thresholds for giving no answer, EM is 50.00 (at 0.250) and F1 60.50 (at 0.125)."
    assert sentence in (tmp_path / "report.md").read_text()


def test_calibration_is_that_of_the_held_out_confidences_with_what_chance_makes(tmp_path, monkeypatch):
    monkeypatch.setattr("metrics.intervals.MIN_IMAGES", 2)
    monkeypatch.setattr("metrics.report.MIN_IMAGES", 2)
    answers = score_each(ROWS, PREDICTIONS, [0.9, 0.8, 0.7, 0.2])
    report = make_report(answers, {}, held_out=np.array([0.5, 0.5, 0.5, 0.5]))
    calibration = report["calibration"]
    assert (calibration["judged_on"], calibration["mean_confidence"]) == ("two-fold over images", 0.5)
    assert calibration["expected_calibration_error"] == 0.25  # a quarter is right
    # of 0 to 4 right answers, each with the odds of a coin: |share - 0.5| is 0.5, 0.25, 0, 0.25, 0.5
    assert calibration["expected_calibration_error_if_perfect"] == pytest.approx((2 * 0.5 + 8 * 0.25) / 16, abs=0.02)
    low, high = calibration["expected_calibration_error_interval"]
    assert 0 <= low <= 0.25 <= high
    assert report["silence"]["curve"][0] == [0.25, 1]  # of the confidences as saved
    write_report({"validation": report}, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Calibration, for each half of the images by a fit to the other half (the saved fit uses both)" in text
    assert f"expected calibration error 25.0% (95 % interval {low:.1%} to {high:.1%}), where a perfectly" in text


def test_silence_is_reported_with_its_threshold(tmp_path, monkeypatch):
    monkeypatch.setattr("metrics.intervals.MIN_IMAGES", 3)
    answers = score_each(ROWS, PREDICTIONS, [0.9, 0.8, 0.7, 0.2])
    reports = {
        "validation": make_report(answers, {}, abstention=(0.7, 0.05)),
        "test": make_report(answers, {}, abstention=(0.95, None)),
    }
    assert reports["validation"]["silence"]["chosen"] == {
        "threshold": 0.7,
        "target_risk": 0.05,
        "answers": 3,
        "coverage": [75, None, None],
        "risk": [66.67, None, None],
    }
    write_report(reports, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert (
        "silent below a confidence of 0.700, chosen on the validation rows for a risk of at most 5.00%, with 95 % "
        "certainty for images of the same kind. Here it answers 75.00 % of the questions, and 66.67 % of these "
        "answers are wrong."
    ) in text
    assert "below a confidence of 0.950, as it was saved. Here it answers no question." in text
    everywhere = make_report(answers, {}, abstention=(SILENT_EVERYWHERE, 0.05))
    write_report({"test": everywhere}, tmp_path)
    assert (
        "The model gives no answer at all: no threshold kept its promise for a risk of at most 5.00% with 95 %"
        in (tmp_path / "report.md").read_text()
    )


def test_names_of_kinds_can_t_break_the_table(tmp_path):
    rows = [row | {"location": "a | b\n<b>c"} for row in ROWS]
    write_report({"test": make_report(score_each(rows, PREDICTIONS, [0.5] * 4), {})}, tmp_path)
    assert "| location: a \\| b &lt;b>c | 4 |" in (tmp_path / "report.md").read_text()


def test_report_of_one_right_answer_is_finite(tmp_path):
    report = make_report(score_each(ROWS[1:2], ["yes"], [1.0]), {})
    assert report["silence"]["coverage_at_risk"] == {"0.05": 1, "0.1": 1}
    assert math.isfinite(report["calibration"]["log_loss"])
    write_report({"test": report}, tmp_path)
