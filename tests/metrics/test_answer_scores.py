"""Scores of single answers: recall, BLEU and Chinese characters, by hand and against a known library."""

import pytest
from torchmetrics.functional.text import bleu_score

from metrics import cmrc
from metrics.squad_v2.scoring import normalize_answer
from metrics.vqa import all_scores, answer_scores, most_frequent_answer, score_each
from tests.metrics.mixed_rows import PREDICTIONS, ROWS


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


def test_scored_answers_need_a_confidence_each():
    answers = score_each(ROWS, PREDICTIONS, [0.5, 0.25, 1, 0])
    assert answers.correct.tolist() == [0, 1, 0, 0]
    assert answers.confidences.tolist() == [0.5, 0.25, 1, 0]
    assert answers.scores.tolist() == all_scores(ROWS, PREDICTIONS).tolist()
    with pytest.raises(ValueError, match="4 rows have 3 confidences; each row needs one."):
        score_each(ROWS, PREDICTIONS, [0.5] * 3)
