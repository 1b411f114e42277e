"""Several gold answers to a question: each score is the best over them, worked out by hand and against `squad_v2`."""

import json

import pytest

from metrics.breakdown import breakdown
from metrics.compare import main as compare_main
from metrics.squad_v2.scoring import squad_v2_scores
from metrics.vqa import all_scores, score_answers, score_each
from processing.errors import UserError

NOTHING = dict.fromkeys(("content_type", "modality", "location"))
ROWS = [
    {"answer": "left lung", "answers": ["left lung", "lung", "left lung"], "language": "en"},
    {"answer": "HER2-", "answers": ["HER2-", "HER2+"], "language": "en"},
    {"answer": "liver", "answers": None, "language": "en"},
    {"answer": "左肺", "answers": ["左肺", "左侧肺"], "language": "zh"},
    {"answer": "heart", "answers": ["the", "heart"], "language": "en"},
]
ROWS = [row | NOTHING | {"answer_type": "OPEN", "image_id": str(i)} for i, row in enumerate(ROWS)]
PREDICTIONS = ["Lung", "HER2+", "Lung", "左侧", ""]


def test_each_score_is_the_best_over_the_gold_answers():
    scores = all_scores(ROWS, PREDICTIONS)
    assert scores[:, 0].tolist() == [1, 1, 0, 0, 0]  # "the" is no gold answer beside another
    # two of two characters of 左肺 is 1/2 each way; of 左侧肺 it is P = 1, R = 2/3
    assert scores[:, 1].tolist() == pytest.approx([1, 1, 0, 4 / 5, 0])
    lung_for_left_lung_alone = all_scores([ROWS[0] | {"answers": None}], ["Lung"])[0]
    assert lung_for_left_lung_alone.tolist() == pytest.approx([0, 2 / 3, 1 / 2, 1 / 2.718281828])
    assert scores[0].tolist() == [1, 1, 1, 1]


def test_right_is_an_exact_match_with_the_signs_of_any_gold_answer():
    rows = [ROWS[1], ROWS[1] | {"answers": None}, ROWS[1] | {"answers": ["HER2-", "HER2 -"]}]
    assert score_each(rows, ["HER2+"] * 3, [0.5] * 3).correct.tolist() == [1, 0, 0]


def test_accuracy_counts_any_gold_answer_in_figures_and_report():
    figures = score_answers(ROWS, PREDICTIONS)
    assert (figures["exact_match"], figures["accuracy"], figures["total"]) == (40, 40, 5)
    assert figures["f1"] == pytest.approx(100 * (1 + 1 + 4 / 5) / 5)
    answers = score_each(ROWS, PREDICTIONS, [0.5] * 5)
    [everything, *_] = breakdown(answers, {"baseline": ["left lung", "her2-", "liver", "左侧肺", "heart"]})
    assert (everything["exact_match"][0], everything["accuracy"][0]) == (40, 40)
    assert everything["baselines"] == {"baseline": 100}


def test_figures_in_english_are_those_of_the_squad_v2_module():
    rows = [row for row in ROWS if row["language"] == "en"] + [ROWS[0] | {"answer": "", "answers": None}]
    predictions = ["Lung", "HER2+", "Lung", "", "lung"]
    references = [
        {
            "id": str(i),
            "answers": {"text": row["answers"] or [row["answer"]] * bool(row["answer"]), "answer_start": []},
        }
        for i, row in enumerate(rows)
    ]
    expected = squad_v2_scores(
        [{"id": str(i), "prediction_text": text, "no_answer_probability": 0} for i, text in enumerate(predictions)],
        references,
    )
    figures = score_answers(rows, predictions)
    assert (expected["exact"], expected["f1"]) == (40, 40)
    assert (figures["exact_match"], figures["f1"]) == (expected["exact"], expected["f1"])
    assert {name: figures[name] for name in expected if "Ans_" in name or "best" in name} == {
        name: value for name, value in expected.items() if "Ans_" in name or "best" in name
    }


def test_compare_scores_by_all_gold_answers_of_the_predictions_files(tmp_path, capsys):
    row = {"id": "1", "image_id": "a", "question": "q", "answer": "left lung", "answers": ["left lung", "lung"]}
    row |= {"language": "en"}
    for run, prediction in (("a", "lung"), ("b", "liver")):
        (tmp_path / run).mkdir()
        line = json.dumps(row | {"prediction": prediction})
        (tmp_path / run / "predictions_validation.jsonl").write_text(f"{line}\n")
    compare_main([str(tmp_path / "a"), str(tmp_path / "b")])
    assert "exact_match: A 100.00, B 0.00, B - A -100.00" in capsys.readouterr().out
    del row["answers"]  # as of an older version, which knew one answer
    (tmp_path / "b" / "predictions_validation.jsonl").write_text(json.dumps(row | {"prediction": "lung"}) + "\n")
    with pytest.raises(UserError, match="answer different validation questions; evaluate both on the same data"):
        compare_main([str(tmp_path / "a"), str(tmp_path / "b")])
