"""metrics.accuracy: the plain accuracy, and what Exact Match can't tell apart."""

import logging

import pytest

from metrics.accuracy import equal_for_exact_match, is_accurate, warn_of_equal_answers
from metrics.breakdown import breakdown
from metrics.report import make_report, write_report
from metrics.vqa import score_answers, score_each
from tests.metrics.mixed_rows import NOTHING

PAIRS = [("HER2+", "HER2-"), ("1.5 cm", "15 cm"), ("<5 mm", ">5 mm"), ("-5", "5"), ("10-20", "1020"), ("5%", "5")]


def rows_of(*answers, language="en"):
    fixed = {"question": "q", "answer_type": "OPEN", "image_id": "a", **NOTHING, "language": language}
    return [fixed | {"answer": answer} for answer in answers]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_accuracy_counts_what_exact_match_leaves_out(pair):
    rows = rows_of(*pair)
    scores = score_answers(rows, pair[::-1])
    assert (scores["exact_match"], scores["accuracy"]) == (100, 0)
    assert score_answers(rows, [f" {answer.upper()}\n" for answer in pair])["accuracy"] == 100
    assert equal_for_exact_match(rows) == [tuple(sorted(pair))]


def test_accuracy_is_lower_case_and_white_space_alone():
    assert is_accurate("Left  LUNG\n", "left lung")
    assert is_accurate("", " ")
    for other in ("the left lung", "left lung.", "left-lung", "leftlung", "lung left", ""):
        assert not is_accurate(other, "left lung")


def test_spellings_of_one_answer_are_no_pair():
    assert equal_for_exact_match(rows_of("Left Lung", "left lung.", "the left  lung", "yes")) == []


def test_pairs_are_named_in_their_most_frequent_spelling_once():
    rows = rows_of("her2+", "HER2+", "HER2+", "HER2-", "HER2")
    assert equal_for_exact_match(rows) == [("HER2", "HER2+"), ("HER2", "HER2-"), ("HER2+", "HER2-")]


def test_answers_of_signs_alone_are_as_no_answer_to_exact_match():
    assert equal_for_exact_match(rows_of("+", "-", "")) == [("", "+"), ("", "-"), ("+", "-")]


def test_chinese_answers_count_by_both_normalisations():
    assert equal_for_exact_match(rows_of("阳性，左", "阳性左", language="zh")) == [("阳性，左", "阳性左")]  # noqa: RUF001
    assert equal_for_exact_match(rows_of("阳性，左", "阳性左")) == []  # noqa: RUF001
    assert equal_for_exact_match(rows_of("5%", "5", language="zh")) == [("5", "5%")]


def test_warning_names_three_pairs_and_counts_them(caplog):
    warn_of_equal_answers(rows_of(*(answer for pair in PAIRS[:5] for answer in pair)))
    [record] = caplog.records
    assert "so it can't tell 5 pairs of answers apart: 'HER2+' and 'HER2-'; '1.5 cm' and '15 cm'; " in record.message
    assert record.message.count(" and '") == 3
    assert "; ... The accuracy beside it can." in record.message.replace("; .... ", "; ... ")
    caplog.clear()
    warn_of_equal_answers(rows_of("HER2+", "HER2-" + " " * 5 + "x" * 200, "her2" + "x" * 200))
    assert "can't tell 1 pair of answers apart" not in caplog.text  # a space is no sign


def test_a_long_answer_is_cut_in_the_warning(caplog):
    warn_of_equal_answers(rows_of("y" * 300 + "+", "y" * 300 + "-"))
    assert "can't tell 1 pair of answers apart: 'yyy" in caplog.text
    assert "y" * 81 not in caplog.text


def test_nothing_to_confuse_is_no_warning(caplog):
    with caplog.at_level(logging.INFO):
        warn_of_equal_answers(rows_of("yes", "no", "Yes."))
    assert not caplog.records


def test_an_answer_of_the_opposite_sign_is_not_right():
    answers = score_each(rows_of("HER2+", "1.5 cm", "x-ray", "yes"), ["HER2-", "15 cm", "X-Ray.", "no"], [0.9] * 4)
    assert answers.scores[:, 0].tolist() == [1, 1, 1, 0]
    assert answers.correct.tolist() == [0, 0, 1, 0]
    report = make_report(answers, {})
    assert report["wrong"] == 3
    assert report["calibration"]["bins"][0]["accuracy"] == 0.25
    assert report["silence"]["curve"][-1] == [1.0, 0.75]


def test_report_has_the_accuracy_of_every_kind_beside_exact_match(tmp_path):
    rows = [*rows_of("HER2+", "HER2-"), *rows_of("yes", "no")]
    for row in rows[2:]:
        row["answer_type"] = "CLOSED"
    answers = score_each(rows, ["HER2-", "HER2-", "Yes", "yes"], [0.5] * 4)
    everything, opened, closed, *_ = breakdown(answers, {})
    assert (everything["exact_match"][0], everything["accuracy"][0]) == (75, 50)
    assert (opened["exact_match"][0], opened["accuracy"][0]) == (100, 50)
    assert closed["accuracy"] == [50, None, None]
    write_report({"test": make_report(answers, {})}, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| kind of question | questions | images | EM | F1 | accuracy | recall | BLEU-1 |" in text
    assert "| all | 4 | 1 | 75.00 | 75.00 | 50.00 |" in text
    assert "- Accuracy: the answer equals the gold answer in lower case and with one space between words." in text
