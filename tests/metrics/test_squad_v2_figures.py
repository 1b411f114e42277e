"""SQuAD v2 figures of many questions and their thresholds, against values worked out by hand."""

import sys

import pytest

from metrics.squad_v2.scoring import squad_v2_scores
from tests.metrics.squad_v2_rows import gold, predicted


def test_keys_come_in_the_official_order_with_the_official_types(metric, mixed):
    figures = metric.compute(**mixed)
    assert list(figures) == [
        "exact",
        "f1",
        "total",
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
    ]
    assert {key: type(value) for key, value in figures.items()} == {
        key: int if key.endswith("total") else float for key in figures
    }


@pytest.mark.parametrize(("texts", "group", "other"), [(["lung"], "HasAns", "NoAns"), ([], "NoAns", "HasAns")])
def test_only_a_group_that_occurs_has_figures(metric, texts, group, other):
    figures = metric.compute(predictions=[predicted("1", "lung")], references=[gold("1", *texts)])
    assert figures[f"{group}_total"] == 1
    assert not [key for key in figures if key.startswith(other)]


def test_mixed_groups_match_figures_worked_by_hand(metric, mixed):
    figures = metric.compute(**mixed)
    assert figures == {
        "exact": 50.0,  # (1 + 0 + 0 + 1) / 4
        "f1": pytest.approx(100 * (1 + 2 / 3 + 0 + 1) / 4),
        "total": 4,
        "HasAns_exact": 50.0,  # q1 of q1, q2
        "HasAns_f1": pytest.approx(100 * (1 + 2 / 3) / 2),
        "HasAns_total": 2,
        "NoAns_exact": 50.0,  # q4 of q3, q4
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
        # Nothing answered: 2 right (q3, q4). q1 comes in: 3. q2: 3 (exact), 3 2/3 (F1). q3: one less. q4 is silent.
        # Exact: 3 is reached first at q1, and q2 does not better it. F1: 3 2/3 at q2.
        "best_exact": 75.0,
        "best_exact_thresh": 0.125,
        "best_f1": pytest.approx(100 * (3 + 2 / 3) / 4),
        "best_f1_thresh": 0.25,
    }


def test_only_a_probability_strictly_above_the_threshold_counts_as_no_answer(metric, mixed):
    # Above 0.25 are q3 (has none: now right) and q4 (right before and after); q2 at 0.25 keeps its 2/3.
    at_q2 = metric.compute(**mixed, no_answer_threshold=0.25)
    assert (at_q2["HasAns_f1"], at_q2["NoAns_exact"], at_q2["exact"]) == (pytest.approx(100 * 5 / 6), 100.0, 75.0)
    # Above 0.2 is q2 as well: it has an answer, so "no answer" scores 0.
    below_q2 = metric.compute(**mixed, no_answer_threshold=0.2)
    assert (below_q2["HasAns_f1"], below_q2["NoAns_exact"], below_q2["exact"]) == (50.0, 100.0, 75.0)


def test_default_threshold_lets_every_probability_pass(metric):
    rows = {"predictions": [predicted("1", "lung", 1.0)], "references": [gold("1", "lung")]}
    assert metric.compute(**rows)["exact"] == squad_v2_scores(**rows)["exact"] == 100.0


def test_the_threshold_leaves_the_best_figures_alone(metric, mixed):
    best = [
        [value for key, value in metric.compute(**mixed, no_answer_threshold=threshold).items() if "best" in key]
        for threshold in (0.0, 0.3, 1.0)
    ]
    assert best[0] == best[1] == best[2]


def test_probabilities_are_float32_as_in_the_official_metric(metric):
    # The float32 next to 0.1 is 0.10000000149: above 0.1, so the right answer counts as "no answer".
    rows = {"predictions": [predicted("1", "lung", 0.1)], "references": [gold("1", "lung")]}
    figures = metric.compute(**rows, no_answer_threshold=0.1)
    assert figures["exact"] == 0.0
    assert figures["best_exact_thresh"] == 0.10000000149011612
    assert metric.compute(**rows, no_answer_threshold=figures["best_exact_thresh"])["exact"] == 100.0


def test_best_threshold_is_zero_where_answering_never_pays():
    # Nothing answered: 2 right. The wrong prediction for q1 adds 0, that for q2 takes 1, the silence of q3 takes 0.
    figures = squad_v2_scores(
        [predicted("q1", "heart", 0.25), predicted("q2", "heart", 0.5), predicted("q3", "", 0.75)],
        [gold("q1", "lung"), gold("q2"), gold("q3")],
    )
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (pytest.approx(200 / 3), 0.0)
    assert (figures["best_f1"], figures["best_f1_thresh"]) == (pytest.approx(200 / 3), 0.0)


def test_best_threshold_passes_a_loss_that_later_answers_make_good():
    # Nothing answered: 1 right (q1). By rising probability: q1 -1 = 0, q2 +1 = 1, q3 +1 = 2 of 3, at 0.75.
    figures = squad_v2_scores(
        [predicted("q2", "lung", 0.5), predicted("q3", "lung", 0.75), predicted("q1", "heart", 0.25)],
        [gold("q1"), gold("q2", "lung"), gold("q3", "lung")],
    )
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (pytest.approx(200 / 3), 0.75)


def test_best_threshold_takes_nothing_for_silence_where_there_is_no_answer():
    # Nothing answered: 1 right (q1). The silence of q1 takes 0, q2 adds 1: 2 of 2, at 0.5.
    figures = squad_v2_scores(
        [predicted("q1", "", 0.25), predicted("q2", "lung", 0.5)], [gold("q1"), gold("q2", "lung")]
    )
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (100.0, 0.5)


def test_best_threshold_counts_an_article_as_an_answer_though_exact_match_does_not():
    # "the" normalises to nothing: right for q1 in `exact`, but the search sees text. 1 right; q1 -1 = 0; q2 +1 = 1.
    figures = squad_v2_scores(
        [predicted("q1", "the", 0.25), predicted("q2", "lung", 0.5)], [gold("q1"), gold("q2", "lung")]
    )
    assert figures["exact"] == 100.0
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (50.0, 0.0)


@pytest.mark.parametrize(
    ("order", "best", "threshold"),
    [
        (["right", "wrong"], 100.0, 0.5),  # 1 right, then +1 = 2 of 2, then -1
        (["wrong", "right"], 50.0, 0.0),  # 1 right, then -1 = 0, then +1 = 1: never above the start
    ],
)
def test_equal_probabilities_are_searched_in_the_order_of_the_predictions(order, best, threshold):
    of = {"right": predicted("q1", "lung", 0.5), "wrong": predicted("q2", "heart", 0.5)}
    figures = squad_v2_scores([of[name] for name in order], [gold("q1", "lung"), gold("q2")])
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (best, threshold)


def test_work_grows_with_the_number_of_questions_and_not_with_its_square():
    """A search that scores all questions anew at each threshold would call four times as much for twice as many."""

    def calls(count):
        predictions = [predicted(str(i), f"left lung {i % 7}", i / count) for i in range(count)]
        references = [gold(str(i), *([f"the lung {i % 5}"] if i % 4 else [])) for i in range(count)]
        counted = 0

        def count_call(_, event, __):
            nonlocal counted
            counted += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count_call)
        try:
            figures = squad_v2_scores(predictions, references)
        finally:
            sys.setprofile(before)
        assert figures["total"] == count
        return counted

    assert calls(4_000) < 2.1 * calls(2_000)


def test_a_hundred_thousand_answers_are_scored():
    count = 100_000
    predictions = [predicted(str(i), f"left lung {i % 7}", i / count) for i in range(count)]
    references = [gold(str(i), *([f"the lung {i % 5}"] if i % 4 else [])) for i in range(count)]
    assert squad_v2_scores(predictions, references)["total"] == count
