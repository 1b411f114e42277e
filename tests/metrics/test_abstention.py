"""metrics.abstention: risk against coverage, and thresholds that keep their promise where errors cluster by image."""

import numpy as np
import pytest
from scipy.special import expit

from benchmarks.abstention import Setting, count_broken_promises
from metrics.abstention import (
    SILENT_EVERYWHERE,
    abstention_figures,
    choose_threshold,
    describe_abstention,
    risk_coverage,
)
from metrics.intervals import clustered_error_bound


@pytest.fixture
def answers():
    """4,000 calibrated answers, four about each image."""
    generator = np.random.default_rng(0)
    odds = generator.normal(1, 1.5, 4_000)
    return expit(odds), (generator.random(4_000) < expit(odds)).astype(float), [str(i // 4) for i in range(4_000)]


def test_risk_and_coverage_by_hand():
    confidences, correct = np.array([0.6, 0.9, 0.8, 0.6]), np.array([1.0, 1, 0, 0])
    curve = risk_coverage(confidences, correct)
    np.testing.assert_allclose(curve.thresholds, [0.9, 0.8, 0.6, 0.6])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [0, 0.5, 0.5, 0.5])  # each of the two at 0.6 has half an error
    assert curve.area == pytest.approx(0.375)
    assert curve.coverage_at(0.1) == (0.25, 0.9)
    assert curve.coverage_at(0.5) == (1.0, 0.6)
    assert risk_coverage(confidences, np.zeros(4)).coverage_at(0.1) == (0.0, np.inf)


def test_coverage_does_not_end_between_answers_of_one_confidence():
    curve = risk_coverage(np.array([0.9, 0.5, 0.5, 0.5]), np.array([1.0, 1, 1, 0]))
    assert curve.coverage_at(0.2) == (0.25, 0.9)  # a third of an error in two answers is 0.17, but a quarter in all


def test_chosen_threshold_answers_what_it_can_and_says_where_it_can_t(answers):
    confidences, correct, images = answers
    found = choose_threshold(confidences, correct, images, 0.1)
    answered = confidences >= found.threshold
    assert (found.coverage, found.risk) == (answered.mean(), pytest.approx(1 - correct[answered].mean()))
    assert found.risk < found.bound <= 0.1
    best, _ = risk_coverage(confidences, correct).coverage_at(0.1)
    assert 0.7 * best < found.coverage < best
    assert choose_threshold(confidences[:40], correct[:40], images[:40], 0.01) is None
    assert "On other images of this kind at most 9." in describe_abstention(found)
    assert "saved to give no answer at all" in describe_abstention(None)


def test_bound_of_the_chosen_threshold_is_that_of_the_images(answers):
    confidences, correct, images = answers
    found = choose_threshold(confidences, correct, images, 0.1)
    answered = (confidences >= found.threshold).reshape(-1, 4)
    wrong = (1 - correct).reshape(-1, 4) * answered
    assert found.bound == pytest.approx(clustered_error_bound(wrong.sum(1), answered.sum(1)))


def test_errors_of_whole_images_answer_less_than_the_same_errors_apart():
    """100 images with a question in each tenth of the ranks, and a risk of 10 % in each tenth."""
    confidences = np.linspace(0.91, 0.89, 1_000)
    tenth, image = np.divmod(np.arange(1_000), 100)
    images = [str(number) for number in image]
    apart = np.where(tenth == image % 10, 0.0, 1.0)  # each image has one error
    together = np.where(image % 10 == 0, 0.0, 1.0)  # ten images are wrong as a whole
    assert choose_threshold(confidences, apart, images, 0.15).coverage == 1
    assert choose_threshold(confidences, together, images, 0.15) is None
    assert choose_threshold(confidences, together, images, 0.2).coverage == 1


def test_the_first_threshold_does_not_depend_on_what_is_right():
    """A wrong answer among the surest makes no other threshold be tried: then the sequence would be chosen by it."""
    confidences = np.repeat([0.99, 0.6], [60, 40])
    images = [str(i) for i in range(100)]
    right = np.ones(100)
    assert choose_threshold(confidences, right, images, 0.06).coverage == 1
    right[:10] = 0  # 10 of the surest 60
    assert choose_threshold(confidences, right, images, 0.17) is None  # though 10 of 100 would keep it
    assert choose_threshold(confidences, right, images, 0.3).coverage == 1


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_the_promise_of_the_threshold_is_kept_for_errors_that_cluster(correlation):
    """`benchmarks/abstention.py` has more sizes, correlations and runs."""
    setting = Setting(images=100, equal_sizes=False, shared_confidence=0.5, correlation=correlation, target=0.1)
    result = count_broken_promises(setting, runs=60)
    assert result.broken <= 0.05
    assert result.found > 0.5
    if correlation == 1:
        assert result.broken_before > 0.1


def test_figures_of_a_threshold_by_hand():
    confidences, correct = np.array([0.9, 0.9, 0.5, 0.2] * 10), np.array([1.0, 0, 1, 0] * 10)
    images = [str(i // 4) for i in range(40)]
    found = abstention_figures(confidences, correct, images, 0.5, 0.4)
    assert (found["threshold"], found["target_risk"], found["answers"]) == (0.5, 0.4, 30)
    assert (found["coverage"][0], found["risk"][0]) == (75, 33.33)
    silent = abstention_figures(confidences, correct, images, SILENT_EVERYWHERE)
    assert (silent["answers"], silent["coverage"][0], silent["risk"]) == (0, 0, None)
