"""metrics.vqa and metrics.plots: figures and baselines against values worked out by hand, and curves."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from metrics.plots import plot_curves
from metrics.report import format_results, make_report
from metrics.vqa import (
    classification_metrics,
    majority_answers,
    most_frequent_answer,
    score_answers,
    score_each,
)

ROWS = [
    {"question": "q1", "answer": "Left Lung", "answer_type": "OPEN", "language": "en"},
    {"question": "q2", "answer": "Yes", "answer_type": "CLOSED", "language": "en"},
    {"question": "q3", "answer": "No", "answer_type": "CLOSED", "language": "en"},
    {"question": "q4", "answer": "liver, heart", "answer_type": "OPEN", "language": "en"},
]


def test_scores_in_all_and_by_answer_type_are_the_hand_worked_ones():
    scores = score_answers(ROWS, ["lung", "yes", "yes", "Liver Heart"])
    # "lung" for "left lung": P = 1, R = 1/2, F1 = 2/3; "yes" for "no": 0; punctuation and case do not count
    assert scores == pytest.approx(
        {
            "exact_match": 50.0,
            "f1": (2 / 3 + 1 + 0 + 1) / 4 * 100,
            "accuracy": 25.0,  # there punctuation counts
            "total": 4,
            "open_exact_match": 50.0,
            "open_f1": (2 / 3 + 1) / 2 * 100,
            "open_total": 2,
            "closed_exact_match": 50.0,
            "closed_f1": 50.0,
            "closed_total": 2,
        }
    )


def test_chinese_answers_have_one_exact_match_and_squads_under_its_own_name():
    """Gold 左肺, answered 左肺。 is right by characters; 肺 has half of them, and no word of them."""
    rows = [row | {"answer": "左肺", "language": "zh"} for row in ROWS[:2]] + ROWS[2:]
    predictions = ["左肺。", "肺", "no", "liver"]
    figures = score_answers(rows, predictions)
    assert (figures["exact_match"], figures["f1"]) == (50, pytest.approx(100 * (1 + 2 / 3 + 1 + 2 / 3) / 4))
    assert (figures["squad_v2_exact"], figures["squad_v2_f1"]) == (25, pytest.approx(100 * (1 + 2 / 3) / 4))
    assert (figures["open_exact_match"], figures["closed_exact_match"]) == (50, 50)
    report = make_report(score_each(full(rows), predictions, [0.5] * 4), {})["figures"]
    assert [round(figures[name], 2) for name in ("exact_match", "f1")] == [
        report[0][name][0] for name in ("exact_match", "f1")
    ]
    assert not any(name.startswith("squad") for name in score_answers(ROWS, predictions))


def full(rows):
    return [row | dict.fromkeys(("content_type", "modality", "location")) | {"image_id": "a"} for row in rows]


def test_rows_without_answer_types_have_no_such_figures():
    rows = [row | {"answer_type": None} for row in ROWS]
    assert score_answers(rows, ["x"] * 4).keys() == {"exact_match", "f1", "accuracy", "total"}


def test_rows_without_an_answer_bring_the_squad_v2_figures():
    rows = [*ROWS[:2], {"question": "q5", "answer": "", "answer_type": "OPEN", "language": "en"}]
    scores = score_answers(rows, ["Left Lung", "Yes", "Liver"], [0.1, 0.2, 0.9])
    assert set(scores) == {
        "exact_match",
        "f1",
        "accuracy",
        "total",
        "open_exact_match",
        "open_f1",
        "open_total",
        "closed_exact_match",
        "closed_f1",
        "closed_total",
        "HasAns_exact",
        "HasAns_f1",
        "HasAns_total",
        "NoAns_exact",
        "NoAns_f1",
        "NoAns_total",
        "best_exact",
        "best_exact_thresh",
        "best_f1",
        "best_f1_thresh",
    }
    assert scores["exact_match"] == pytest.approx(200 / 3)
    assert scores["NoAns_exact"] == 0
    assert scores["NoAns_total"] == 1
    assert scores["best_exact"] == 100  # by answering nothing above a no-answer probability of 0.2
    assert scores["best_exact_thresh"] == pytest.approx(0.2)
    assert score_answers(rows, ["Left Lung", "Yes", "Liver"])["best_exact_thresh"] == 0  # by default
    with pytest.raises(ValueError, match="shorter"):
        score_answers(rows, ["Left Lung", "Yes", "Liver"], [0.1, 0.2])


def test_majority_answers_follow_the_question_then_all_rows_and_break_ties_by_alphabet():
    train = [
        *[{"question": "Is it CT?", "answer": answer} for answer in ("Yes", "No", "No")],
        *[{"question": "Where?", "answer": answer} for answer in ("Lung", "Heart")],
        {"question": "What?", "answer": "No"},
    ]
    rows = [{"question": question} for question in ("is it ct?", "Where?", "Never asked")]
    assert majority_answers(train, rows) == ["No", "Heart", "No"]
    train += [{"question": "Which?", "answer": answer} for answer in ("Spleen", "Spleen", "Lung")]
    train += [{"question": "Why?", "answer": "Spleen"}] * 3
    assert majority_answers(train, [{"question": "Which?"}, {"question": "Never asked"}]) == ["Spleen", "Spleen"]
    assert (most_frequent_answer(train), most_frequent_answer([])) == ("Spleen", "")


def test_classification_hook_looks_answers_up_by_row_in_any_order():
    hook = classification_metrics({7: ROWS[0], 9: ROWS[1]}, {0: "Left lung", 1: "Yes"})
    predictions = (np.array([1, 0]), np.array([0.9, 0.8]), np.array([0.0, 0.0]))
    assert hook(SimpleNamespace(predictions=predictions, label_ids=np.array([9, 7])))["exact_match"] == 100
    assert hook(SimpleNamespace(predictions=predictions, label_ids=np.array([7, 9])))["exact_match"] == 0
    hook = classification_metrics({7: ROWS[0], 9: ROWS[1] | {"answer": ""}}, {0: "Left lung", 1: "Yes"})
    predictions = (np.array([1, 0]), np.array([0.9, 0.8]), np.array([0.7, 0.25]))
    figures = hook(SimpleNamespace(predictions=predictions, label_ids=np.array([9, 7])))
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (100, 0.25)


def test_table_lines_up_and_leaves_out_what_is_not_there():
    part = {"total": 3, "exact_match": 1.0}
    text = format_results({"validation": score_answers(ROWS, ["lung"] * 4), "b": part, "test, new images": part})
    lines = text.splitlines()
    assert {len(line) for line in lines} == {72}
    assert lines[3].startswith("  new images   ")
    assert lines[0].split() == ["questions", "EM", "F1", "OPEN", "EM", "CLOSED", "EM"]
    assert lines[1].split() == ["validation", "4", "0.00", "16.67", "0.00", "0.00"]
    assert lines[2].split() == ["b", "3", "1.00", "-", "-", "-"]
    long = format_results({"validation (images in training: 12)": part}).splitlines()
    assert long[1:] == ["validation (images in training: 12)", " " * 26 + lines[2][26:]]


def test_curves_are_drawn_as_pictures(tmp_path):
    history = [
        {"epoch": 0.5, "loss": 2.0},
        {"epoch": 1.0, "loss": 1.0},
        {"epoch": 1.0, "eval_loss": 1.5, "eval_exact_match": 40.0, "eval_f1": 45.0},
        {"epoch": 2.0, "eval_loss": 1.2, "eval_exact_match": 50.0, "eval_f1": 55.0},
    ]
    plot_curves(history, tmp_path)
    for name in ("loss.png", "metrics.png"):
        with Image.open(tmp_path / name) as image:
            assert image.size == (768, 480)
            assert len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_nothing_to_draw_draws_nothing(tmp_path):
    plot_curves([], tmp_path)
    assert not list(tmp_path.iterdir())
