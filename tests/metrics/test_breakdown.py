"""metrics.breakdown: figures by kind of question, worked out by hand."""

import pytest

from metrics.breakdown import breakdown
from metrics.vqa import score_each
from tests.metrics.mixed_rows import PREDICTIONS, ROWS


def test_figures_by_kind_of_question_are_the_hand_worked_ones(monkeypatch):
    monkeypatch.setattr("metrics.intervals.MIN_IMAGES", 2)
    table = breakdown(score_each(ROWS, PREDICTIONS, [0.5] * 4), {"yes": ["Yes"] * 4, "lung": ["Lung"] * 4})
    found = {(entry["group"], entry["value"]): entry for entry in table}
    assert list(found) == [
        ("all", ""),
        ("answer_type", "OPEN"),
        ("answer_type", "CLOSED"),
        ("closed", "yes or no"),
        ("closed", "other CLOSED"),
        ("modality", "CT"),
        ("modality", "MRI"),
        ("language", "en"),
        ("language", "zh"),
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
