"""The figures of metrics.vqa.breakdown, metrics.cmrc and the report folder."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from torchmetrics.functional.text import bleu_score

from metrics import cmrc
from metrics.cases import choose_cases, with_heat_map
from metrics.report import make_report, write_report
from metrics.squad_v2.scoring import normalize_answer
from metrics.vqa import all_scores, answer_scores, breakdown, most_frequent_answer, score_each

NOTHING = dict.fromkeys(("content_type", "modality", "location"))
ROWS = [
    {"answer": "Left Lung", "answer_type": "OPEN", "image_id": "a", **NOTHING, "language": "en", "modality": "CT"},
    {"answer": "Yes", "answer_type": "CLOSED", "image_id": "a", **NOTHING, "language": "en", "modality": "CT"},
    {"answer": "T1", "answer_type": "CLOSED", "image_id": "b", **NOTHING, "language": "en", "modality": "MRI"},
    {"answer": "左肺", "answer_type": "OPEN", "image_id": "b", **NOTHING, "language": "zh", "modality": "MRI"},
]
PREDICTIONS = ["lung", "yes", "T2", "右肺"]


def test_of_few_images_there_is_no_interval(tmp_path):
    report = make_report(score_each(ROWS, PREDICTIONS, [0.5] * 4), {})
    assert report["figures"][0]["exact_match"] == [25, None, None]
    write_report({"test": report}, tmp_path)
    assert "| all | 4 | 2 | 25.00 | 54.17 |" in (tmp_path / "report.md").read_text()


def test_figures_by_kind_of_question_are_the_hand_worked_ones(monkeypatch):
    monkeypatch.setattr("metrics.intervals.MIN_IMAGES", 2)
    table = breakdown(score_each(ROWS, PREDICTIONS, [0.5] * 4), {"yes": ["Yes"] * 4, "lung": ["Lung"] * 4})
    found = {(entry["group"], entry["value"]): entry for entry in table}
    assert list(found) == [
        *(("all", ""), ("answer_type", "OPEN"), ("answer_type", "CLOSED")),
        *(("closed", "yes or no"), ("closed", "other CLOSED")),
        *(("modality", "CT"), ("modality", "MRI"), ("language", "en"), ("language", "zh")),
    ]
    assert {key: (entry["questions"], entry["images"]) for key, entry in found.items()}[("all", "")] == (4, 2)
    assert found["modality", "CT"]["images"] == 1
    # F1: lung for left lung 2/3; yes 1; T2 for T1 0; one of two characters 1/2
    assert found["all", ""]["f1"][0] == pytest.approx(100 * (2 / 3 + 1 + 0 + 1 / 2) / 4, abs=0.01)
    assert found["answer_type", "OPEN"]["exact_match"][0] == 0
    assert found["answer_type", "OPEN"]["llava_med_recall"][0] == 25  # one of two words, none of one
    assert "llava_med_recall" not in found["all", ""]
    assert found["closed", "yes or no"]["exact_match"] == [100, None, None]  # of one image
    assert found["closed", "other CLOSED"]["baselines"]["yes"] == 0
    assert found["all", ""]["baselines"] == {"yes": 25, "lung": 0}  # whose F1 is no Exact Match
    thirds = breakdown(score_each(ROWS[1:], PREDICTIONS[1:], [0.5] * 3), {"yes": ["Yes"] * 3})
    assert thirds[0]["baselines"] == {"yes": 33.33}
    # drawn with replacement, both images are a (1 of 2 right), both b (none), or one each (1 of 4)
    assert found["all", ""]["exact_match"] == [25, 0, 50]


@pytest.mark.parametrize(
    ("prediction", "gold", "recall"),
    [
        ("the left lung", "Left Lung", 1),
        ("lung", "left lung", 1 / 2),
        ("lung lung", "left upper lung", 2 / 4),  # as LLaVA-Med's script: words of the prediction that are right
        ("heart", "lung", 0),
        ("", "lung", 0),
    ],
)
def test_recall_of_open_answers(prediction, gold, recall):
    assert answer_scores(prediction, gold).llava_med_recall == pytest.approx(recall)


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [("left lung", "left lung"), ("lung", "left lung"), ("left lung lung", "left lung"), ("a big heart", "lung")],
)
def test_bleu_of_single_words_is_that_of_a_known_library(prediction, gold):
    texts = normalize_answer(prediction), normalize_answer(gold)
    expected = bleu_score([texts[0]], [[texts[1]]], n_gram=1)
    assert answer_scores(prediction, gold).bleu_1 == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "f1"),
    [
        ("左肺", "左肺。", 1, 1),
        ("左上肺", "左肺", 0, 2 / 5),  # a run of one character
        ("肺左", "左肺", 0, 1 / 2),
        ("T1加权", "t1加权", 1, 1),
        ("CT", "MRI", 0, 0),
        ("CT检查", "CT", 0, 2 / 4),  # CT is one word
        ("", "左肺", 0, 0),
        ("左肺", "。", 0, 0),
        ("", "。", 1, 1),  # no answer, rightly
    ],
)
def test_chinese_is_scored_by_characters(prediction, gold, exact, f1):
    assert cmrc.exact_score(prediction, gold) == exact
    assert cmrc.f1_score(prediction, gold) == pytest.approx(f1)
    assert answer_scores(prediction, gold, "zh")[:2] == (exact, pytest.approx(f1))


@pytest.mark.parametrize("language", ["en", None])
def test_other_languages_are_scored_by_words_without_articles(language):
    assert answer_scores("the Left Lung", "left lung", language)[:2] == (1, 1)
    assert answer_scores("lung, left", "left lung", language)[:2] == (0, 1)  # by characters a run of one
    with pytest.raises(ValueError, match="shorter"):
        all_scores(ROWS, PREDICTIONS[:3])


def test_most_frequent_answer_is_the_first_in_the_alphabet_of_equals():
    assert most_frequent_answer({"answer": answer} for answer in ("Yes", "No", "No", "Yes", "CT")) == "No"


def test_report_tells_figures_calibration_and_silence(tmp_path, monkeypatch):
    monkeypatch.setattr("metrics.intervals.MIN_IMAGES", 2)
    report = make_report(score_each(ROWS, PREDICTIONS, [0.9, 0.8, 0.7, 0.2]), {"majority": ["Yes"] * 4})
    assert report["calibration"]["mean_confidence"] == 0.65
    assert report["calibration"]["expected_calibration_error"] == pytest.approx((0.9 + 0.2 + 0.7 + 0.2) / 4)
    assert report["silence"]["coverage_at_risk"] == {"0.05": 0, "0.1": 0}  # the surest answer is wrong
    assert report["silence"]["area"] == pytest.approx((1 + 1 / 2 + 2 / 3 + 3 / 4) / 4, abs=1e-4)
    assert report["silence"]["curve"] == [[0.25, 1], [0.5, 0.5], [0.75, 0.6667], [1, 0.75]]
    assert report["calibration"]["log_loss"] == round(-np.log([0.1, 0.8, 0.3, 0.8]).mean(), 4)
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


def test_best_thresholds_are_told_where_there_are_any(tmp_path):
    best = {"best_exact": 50.0, "best_exact_thresh": 0.25, "best_f1": 60.5, "best_f1_thresh": 0.125}
    report = make_report(score_each(ROWS, PREDICTIONS, [0.5] * 4), {}, thresholds=best)
    write_report({"test": report}, tmp_path)
    told = "With the best thresholds of SQuAD v2 for no answer, EM is 50.00 (at 0.250) and F1 60.50 (at 0.125)."
    assert told in (tmp_path / "report.md").read_text()


def test_names_of_kinds_can_t_break_the_table(tmp_path):
    rows = [row | {"location": "a | b\n<b>c"} for row in ROWS]
    write_report({"test": make_report(score_each(rows, PREDICTIONS, [0.5] * 4), {})}, tmp_path)
    assert "| location: a \\| b &lt;b>c | 4 |" in (tmp_path / "report.md").read_text()


def test_report_of_one_right_answer_is_finite(tmp_path):
    report = make_report(score_each(ROWS[1:2], ["yes"], [1.0]), {})
    assert report["silence"]["coverage_at_risk"] == {"0.05": 1, "0.1": 1}
    assert math.isfinite(report["calibration"]["log_loss"])
    write_report({"test": report}, tmp_path)
