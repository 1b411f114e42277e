"""metrics.choices: figures of questions with options, worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from metrics.choices import choice_figures
from metrics.report import format_results, make_report, write_report
from metrics.vqa import classification_metrics, generation_metrics, score_answers, score_each
from processing.errors import UserError

ORGANS = ["lung", "liver", "heart", "spleen"]
NOTHING = dict.fromkeys(("content_type", "modality", "location", "answer_type")) | {"language": "en"}
ROWS = [
    {"answer": "lung", "choices": ORGANS, "image_id": "a"},
    {"answer": "liver", "choices": ORGANS, "image_id": "a"},
    {"answer": "yes", "choices": ["no", "yes"], "image_id": "b"},
    {"answer": "CT", "choices": None, "image_id": "b"},  # a question without options
    {"answer": "spleen", "choices": ORGANS, "image_id": "c"},
]
ROWS = [row | NOTHING for row in ROWS]
PREDICTIONS = ["Lung.", "lung", "yes", "CT", "brain"]  # the last is no option: a ViLT's own answer


def test_choice_accuracy_is_the_share_of_rows_with_options_whose_right_one_is_chosen():
    figures = score_answers(ROWS, PREDICTIONS)
    assert figures["choice_accuracy"] == 50
    assert figures["choice_total"] == 4
    assert figures["exact_match"] == 60
    assert not any(name.startswith("choice") for name in score_answers(ROWS[3:4], ["CT"]))
    signs = [ROWS[0] | {"answer": "HER2+", "choices": ["HER2-", "HER2+"]}]
    assert score_answers(signs, ["HER2-"])["exact_match"] == 100
    assert score_answers(signs, ["HER2-"])["choice_accuracy"] == 0


def test_any_of_several_gold_answers_is_a_right_option():
    rows = [ROWS[0] | {"answers": ["lung", "heart"]}]
    assert score_answers(rows, ["heart"])["choice_accuracy"] == 100
    assert score_answers(rows, ["liver"])["choice_accuracy"] == 0


def test_figures_by_the_place_of_the_right_option_show_a_preference_for_a_place(monkeypatch):
    monkeypatch.setattr("metrics.intervals.MIN_IMAGES", 3)
    table = choice_figures(ROWS, PREDICTIONS, 1)
    assert [entry["value"] for entry in table] == ["all", "A", "B", "D"]
    assert [entry["questions"] for entry in table] == [4, 1, 2, 1]
    assert [entry["images"] for entry in table] == [3, 1, 2, 1]
    assert [entry["choice_accuracy"][0] for entry in table] == [50, 100, 50, 0]
    assert [entry["chance"] for entry in table] == [(25 + 25 + 50 + 25) / 4, 25, 37.5, 25]
    assert [entry["chosen"] for entry in table] == [3, 2, 1, 0]
    assert table[0]["choice_accuracy"][1:] == [0, 100]  # images: a half right, b right, c wrong
    assert table[0]["out_of_vocabulary"] == 1
    assert choice_figures(ROWS[3:4], ["CT"]) == []


def test_report_has_a_table_by_the_place_of_the_right_option(tmp_path):
    report = make_report(score_each(ROWS, PREDICTIONS, [0.5] * 5), {}, out_of_vocabulary=1)
    write_report({"test": report}, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| all | 4 | 3 | 50.00 | 31.25 | 3 |" in text
    assert "| B | 2 | 2 | 50.00 | 37.50 | 1 |" in text
    assert "Right options that are not among the answers the model knows: 1 of 4. It chooses" in text
    free = make_report(score_each(ROWS[3:4], ["CT"], [0.5]), {})
    write_report({"test": free}, tmp_path)
    assert free["choices"] == []
    assert "Questions with options" not in (tmp_path / "report.md").read_text()


def test_log_has_a_column_for_it_only_where_there_are_choices():
    with_choices = format_results({"test": score_answers(ROWS, PREDICTIONS)})
    assert with_choices.splitlines()[0].split() == ["questions", "EM", "F1", "OPEN", "EM", "CLOSED", "EM", "choice"]
    assert with_choices.splitlines()[1].split()[-1] == "50.00"
    assert {len(line) for line in with_choices.splitlines()} == {80}
    assert "choice" not in format_results({"test": score_answers(ROWS[3:4], ["CT"])})


def test_classifier_counts_right_options_that_it_does_not_know():
    hook = classification_metrics(dict(enumerate(ROWS)), {0: "LUNG", 1: "yes", 2: "CT"})
    labels = np.array([0, 0, 1, 2, 2])
    figures = hook(SimpleNamespace(predictions=(labels, np.ones((5, 3)), np.zeros(5)), label_ids=np.arange(5)))
    assert figures["choice_out_of_vocabulary"] == 2  # liver and spleen
    assert figures["choice_accuracy"] == 50
    assert figures["accuracy"] == 60  # LUNG is given in the spelling of the option


def test_written_and_chosen_answers_of_a_batch_are_told_apart():
    """Row 3 chooses among candidates; its written answer is wrong, and figures of written answers are of it alone."""
    rows = dict(enumerate(ROWS))
    tokens, numbers = np.arange(5)[:, None], np.array([0, 0, 1, 1, 3])
    outputs = (tokens, np.full(5, 0.1), numbers, np.full(5, 0.9))
    written = ["nothing"] * 5
    evaluation = SimpleNamespace(predictions=outputs, label_ids=np.arange(5))
    figures = generation_metrics(rows, lambda _: written, ["MRI", "CT"])(evaluation)
    assert (figures["choice_accuracy"], figures["choice_total"]) == (75, 4)
    assert (figures["exact_match"], figures["generated_exact_match"]) == (80, 0)
    without = (*outputs[:2], np.array([0, 0, 1, -1, 3]), outputs[3])
    evaluation = SimpleNamespace(predictions=without, label_ids=np.arange(5))
    figures = generation_metrics(rows, lambda _: ["CT"] * 5)(evaluation)
    assert figures["exact_match"] == 80
    assert "generated_exact_match" not in figures


def test_confidences_that_are_no_numbers_are_refused():
    outputs = (np.zeros((1, 1)), np.zeros(1), np.zeros(1, int), np.array([np.nan]))
    with pytest.raises(UserError, match="confidences are no numbers"):
        generation_metrics({0: ROWS[0]}, lambda _: [""])(SimpleNamespace(predictions=outputs, label_ids=[0]))
