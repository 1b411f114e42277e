"""metrics.calibration and metrics.intervals against known libraries and values worked out by hand."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as sklearn_log_loss
from torchmetrics.functional.classification import binary_calibration_error

from metrics.calibration import (
    TEMPERATURES,
    best_temperature,
    calibration_error,
    choose_threshold,
    fit_scale,
    log_loss,
    reliability,
    risk_coverage,
    scaled,
)
from metrics.intervals import bootstrap_interval, error_bound, resampled_means


@pytest.fixture
def answers():
    """Confidences whose log-odds are twice too large, and what was right."""
    generator = np.random.default_rng(0)
    odds = generator.normal(1, 1.5, 4_000)
    return expit(2 * odds), (generator.random(4_000) < expit(odds)).astype(float)


def test_reliability_and_error_are_those_of_known_libraries(answers):
    confidences, correct = answers
    accuracy, confidence = calibration_curve(correct, confidences, n_bins=15)
    bins = reliability(confidences, correct)
    np.testing.assert_allclose([part.accuracy for part in bins], accuracy)
    np.testing.assert_allclose([part.confidence for part in bins], confidence)
    assert sum(part.answers for part in bins) == 4_000
    expected = binary_calibration_error(torch.tensor(confidences), torch.tensor(correct).long(), n_bins=15)
    assert calibration_error(confidences, correct) == pytest.approx(float(expected), abs=1e-6)
    assert log_loss(confidences, correct) == pytest.approx(sklearn_log_loss(correct, confidences), rel=1e-3)


def test_an_overconfident_model_is_found_out_by_the_reliability_diagram(answers):
    confidences, correct = answers
    assert calibration_error(confidences, correct) > 0.08
    assert all(part.accuracy < part.confidence for part in reliability(confidences, correct) if part.low > 0.5)


def test_bounds_of_bins_belong_to_the_lower_one_and_zero_to_the_first():
    bins = reliability(np.array([0.0, 0.2, 0.5, 0.51, 1.0]), np.array([0.0, 1, 1, 0, 1]), bins=2)
    assert [(part.low, part.high, part.answers, part.accuracy) for part in bins] == [
        (0, 0.5, 3, pytest.approx(2 / 3)),
        (0.5, 1, 2, 0.5),
    ]


def test_temperature_takes_the_overconfidence_away(answers):
    confidences, correct = answers
    odds = logit(confidences)
    temperature = best_temperature(expit(odds[:, None] / TEMPERATURES), correct)
    assert temperature == pytest.approx(2, rel=0.08)
    assert calibration_error(expit(odds / temperature), correct) < 0.02


def test_scale_is_the_logistic_regression_of_the_log_odds(answers):
    confidences, correct = answers
    expected = LogisticRegression(C=np.inf).fit(logit(confidences)[:, None], correct)
    slope, offset = fit_scale(confidences, correct)
    assert (slope, offset) == (
        pytest.approx(expected.coef_[0, 0], abs=1e-3),
        pytest.approx(expected.intercept_[0], abs=1e-3),
    )
    assert calibration_error(scaled(confidences, slope, offset), correct) < 0.02


def test_scale_turns_log_odds_and_bears_full_certainty():
    np.testing.assert_allclose(scaled(np.array([0.5, 0.8]), 2, 1), expit(2 * logit(np.array([0.5, 0.8])) + 1))
    ends = scaled(np.array([0.0, 1.0]), 1, 0)
    np.testing.assert_allclose(ends, [1e-6, 1 - 1e-6])
    confidences, correct = np.array([0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0]), np.array([0, 1, 0, 1, 1, 1, 0.0])
    odds = logit(np.clip(confidences, 1e-6, 1 - 1e-6))
    expected = LogisticRegression(C=np.inf, tol=1e-8).fit(odds[:, None], correct)
    slope, offset = fit_scale(confidences, correct)
    assert slope == pytest.approx(expected.coef_[0, 0], abs=1e-3)
    assert offset == pytest.approx(expected.intercept_[0], abs=1e-3)


def test_loss_of_full_certainty_is_finite():
    assert log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(-np.log(1e-6))


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


@pytest.mark.parametrize(("errors", "total"), [(0, 59), (3, 100), (40, 41), (7, 7)])
def test_error_bound_is_clopper_and_pearson_s(errors, total):
    expected = binomtest(errors, total, alternative="less").proportion_ci(0.95, method="exact").high
    assert error_bound(errors, total) == pytest.approx(expected)


def test_chosen_threshold_answers_what_it_can_and_says_where_it_can_t(answers):
    confidences, correct = answers
    found = choose_threshold(confidences, correct, 0.1)
    answered = confidences >= found.threshold
    assert (found.coverage, found.risk) == (answered.mean(), pytest.approx(1 - correct[answered].mean()))
    assert found.risk < found.bound <= 0.1
    best, _ = risk_coverage(confidences, correct).coverage_at(0.1)
    assert 0.7 * best < found.coverage < best
    assert choose_threshold(confidences[:40], correct[:40], 0.01) is None


@pytest.mark.parametrize(
    ("correct", "target", "answered"),
    [
        ([1, 1, 1, 1, 0, 1, 1], 0.65, 4),  # looks at 4 (holds), 6 and 5
        ([1, 0, 0, 0, 0, 0, 0], 0.985, 1),  # at 4, 2 and 1 (holds)
        ([1, 1, 1, 1, 1, 0, 0, 0], 0.67, 5),  # at 4 (holds), 6 and 5 (holds), and has no use for a fourth look
        ([1, 1, 1, 1, 1, 1, 0, 0], 0.67, 7),  # at 4 (holds), 6 (holds), 7 (holds) and 8
        ([0, 0, 0, 0, 0, 0, 0], 0.9, None),
    ],
)
def test_chosen_threshold_by_hand(correct, target, answered):
    """Each look of the log2(N + 1) has its share of the 5 %; confidences fall from 0.9 by tenths."""
    confidences = np.arange(9, 9 - len(correct), -1) / 10
    order = np.array([2, 0, 1, *range(3, len(correct))])
    found = choose_threshold(confidences[order], np.array(correct, float)[order], target)
    if answered is None:
        assert found is None
        return
    errors = answered - sum(correct[:answered])
    doubt = 0.05 / {7: 3, 8: 4}[len(correct)]
    bound = binomtest(errors, answered, alternative="less").proportion_ci(1 - doubt, method="exact").high
    expected = (confidences[answered - 1], answered / len(correct), errors / answered, pytest.approx(bound))
    assert found == expected


def test_a_bound_that_just_meets_the_target_holds():
    confidences, correct = np.array([0.9, 0.8, 0.7]), np.array([1.0, 1, 0])
    found = choose_threshold(confidences, correct, error_bound(0, 2, 1 - 0.05 / 2))
    assert (found.threshold, found.bound) == (0.8, error_bound(0, 2, 1 - 0.05 / 2))


def test_the_promise_of_the_threshold_is_kept_on_other_questions():
    """In 200 data sets of 500 answers the true risk exceeds the target in no more than the 5 % that are allowed."""
    generator = np.random.default_rng(1)
    broken = chosen = 0
    for _ in range(200):
        odds = generator.normal(2, 2, 500)
        found = choose_threshold(expit(odds), (generator.random(500) < expit(odds)).astype(float), 0.1)
        if found is not None:
            others = generator.normal(2, 2, 20_000)
            chosen += 1
            broken += 1 - expit(others[expit(others) >= found.threshold]).mean() > 0.1
    assert chosen > 150
    assert broken <= 0.05 * chosen


def test_interval_of_independent_questions_is_that_of_the_normal_distribution():
    values = (np.random.default_rng(0).random(2_000) < 0.7).astype(float)
    low, high = bootstrap_interval(values, [str(i) for i in range(2_000)])
    half = 1.96 * values.std() / 2_000**0.5
    assert (low, high) == (
        pytest.approx(values.mean() - half, abs=0.002),
        pytest.approx(values.mean() + half, abs=0.002),
    )


def test_questions_of_one_image_are_drawn_together():
    """Ten questions each, all right or all wrong: the interval is that of the images, sqrt(10) times as wide."""
    right = (np.random.default_rng(0).random(200) < 0.7).astype(float)
    images = [str(i) for i in range(200) for _ in range(10)]
    low, high = bootstrap_interval(np.repeat(right, 10), images)
    assert high - low == pytest.approx(2 * 1.96 * right.std() / 200**0.5, rel=0.05)


def test_images_of_different_size_weigh_by_their_questions_and_the_seed_decides():
    values, images = np.array([1.0, 0, 0, 0]), ["a", "b", "b", "b"]
    means = resampled_means(values, images, samples=500)
    assert set(np.round(means, 3)) == {0.0, 0.25, 1.0}  # b twice, each once, a twice
    assert np.array_equal(means, resampled_means(values, images, samples=500))
    assert not np.array_equal(means, resampled_means(values, images, samples=500, seed=1))
