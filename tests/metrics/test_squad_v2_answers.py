"""SQuAD v2 scores of single answers, against values worked out by hand and against torchmetrics."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad as torchmetrics_squad

from metrics.squad_v2.scoring import squad_v2_scores
from metrics.squad_v2.squad_v2 import exact_score, f1_score, normalize_answer
from tests.metrics.squad_v2_rows import gold, predicted


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Left\tLung.", "left lung"),
        ("a mass in an organ", "mass in organ"),
        ("Anatomy of theatre", "anatomy of theatre"),  # articles are whole words
        ("hepatitis-A", "hepatitisa"),  # punctuation goes first
        ("lung\u2014the\u2014heart", "lung\u2014 \u2014heart"),  # an article leaves a space behind
        ("T1-weighted", "t1weighted"),
        ("1.5 cm", "15 cm"),
        ("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", ""),
        ("左肺、右肺。", "左肺、右肺。"),  # only ASCII punctuation goes
        ("A型 肝炎", "a型 肝炎"),  # no word boundary between a letter and an ideograph
        ("ÉPANCHEMENT\u00a0pleural", "épanchement pleural"),
        ("the", ""),
        ("", ""),
    ],
)
def test_answers_are_normalised(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("left lung", "The left lung.", 1, 1),
        ("left lung", "lung", 0, 2 / 3),  # P = 1/2, R = 1
        ("left left lung", "left lung lung", 0, 2 / 3),  # left once, lung once: P = R = 2/3
        ("lung lung lung", "lung", 0, 1 / 2),  # P = 1/3, R = 1
        ("heart", "lung", 0, 0),
        ("", "lung", 0, 0),
        ("the", "", 1, 1),
        ("左肺", "左肺", 1, 1),
        ("左肺", "肺", 0, 0),  # without spaces one token
        ("左 肺", "肺", 0, 2 / 3),
    ],
)
def test_exact_match_and_f1_of_a_pair(prediction, answer, exact, f1):
    assert exact_score(prediction, answer) == exact_score(answer, prediction) == exact
    assert f1_score(prediction, answer) == f1_score(answer, prediction) == pytest.approx(f1)


def test_the_best_of_several_gold_answers_counts(metric):
    # Against "left upper lobe" P = R = 2/3; against "upper lobe" P = 2/3, R = 1, F1 = 4/5.
    figures = metric.compute(
        predictions=[predicted("1", "right upper lobe")], references=[gold("1", "left upper lobe", "upper lobe")]
    )
    assert (figures["exact"], figures["f1"]) == (0.0, pytest.approx(80))
    figures = metric.compute(predictions=[predicted("1", "lung")], references=[gold("1", "heart", "lung")])
    assert (figures["exact"], figures["f1"]) == (100.0, 100.0)


def test_gold_answers_that_normalise_to_nothing_are_dropped(metric):
    figures = metric.compute(predictions=[predicted("1", "")], references=[gold("1", "the", "lung")])
    assert (figures["exact"], figures["f1"]) == (0.0, 0.0)


@pytest.mark.parametrize("text", ["the", ""])
def test_a_question_whose_gold_answers_are_all_dropped_expects_silence_and_stays_one_with_an_answer(metric, text):
    figures = metric.compute(predictions=[predicted("1", "a")], references=[gold("1", text)])
    assert (figures["HasAns_exact"], figures["HasAns_f1"], figures["HasAns_total"]) == (100.0, 100.0, 1)


@pytest.mark.parametrize(("text", "score"), [("", 100.0), ("an", 100.0), ("lung", 0.0)])
def test_a_question_without_an_answer_expects_silence(metric, text, score):
    figures = metric.compute(predictions=[predicted("1", text)], references=[gold("1")])
    assert (figures["NoAns_exact"], figures["NoAns_f1"]) == (score, score)


WORDS = [
    "the",
    "A",
    "an",
    "lung",
    "Lung",
    "left",
    "left-lung",
    "kidney.",
    "x-ray",
    "1.5",
    "15",
    "肺",
    "左肺",
    "。",
    "--",
]
answers = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
)
# torchmetrics follows SQuAD v1.1, which keeps the gold answers that version 2 drops.
golds = st.lists(answers.filter(normalize_answer), min_size=1, max_size=3)
questions = st.lists(st.tuples(answers, golds), min_size=1, max_size=6)


@settings(deadline=None, max_examples=150)
@given(questions)
def test_questions_with_an_answer_score_as_in_torchmetrics(questions):
    predictions = [predicted(str(i), text) for i, (text, _) in enumerate(questions)]
    references = [gold(str(i), *golds) for i, (_, golds) in enumerate(questions)]
    theirs = torchmetrics_squad(
        [{"id": row["id"], "prediction_text": row["prediction_text"]} for row in predictions], references
    )
    ours = squad_v2_scores(predictions, references)
    assert ours["exact"] == ours["HasAns_exact"] == pytest.approx(theirs["exact_match"].item(), rel=1e-5)
    assert ours["f1"] == ours["HasAns_f1"] == pytest.approx(theirs["f1"].item(), rel=1e-5)


def test_a_known_set_scores_as_in_torchmetrics_through_the_module(metric):
    texts = [("The left lung", ["lung", "left lung"]), ("no", ["Yes"]), ("1.5 cm", ["1.5cm", "15 cm wide"])]
    predictions = [predicted(str(i), text) for i, (text, _) in enumerate(texts)]
    references = [gold(str(i), *golds) for i, (_, golds) in enumerate(texts)]
    theirs = torchmetrics_squad(
        [{"id": row["id"], "prediction_text": row["prediction_text"]} for row in predictions], references
    )
    ours = metric.compute(predictions=predictions, references=references)
    # "1.5 cm" against "15 cm wide": P = 1, R = 2/3, F1 = 4/5.
    assert ours["exact"] == pytest.approx(theirs["exact_match"].item(), rel=1e-5) == pytest.approx(100 / 3)
    assert ours["f1"] == pytest.approx(theirs["f1"].item(), rel=1e-5) == pytest.approx(60)


@given(answers, answers)
def test_f1_is_symmetric_and_never_below_exact_match(one, other):
    assert f1_score(one, other) == f1_score(other, one)
    assert exact_score(one, other) <= f1_score(one, other) <= 1
