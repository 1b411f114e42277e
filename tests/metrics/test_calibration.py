"""metrics.calibration against known libraries and values worked out by hand."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as sklearn_log_loss
from torchmetrics.functional.classification import binary_calibration_error

from metrics.calibration import (
    TEMPERATURES,
    best_temperature,
    calibration_error,
    calibration_error_interval,
    fit_scale,
    log_loss,
    perfect_calibration_error,
    reliability,
    scaled,
)


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


def platt(confidences, correct):
    """The logistic regression of the log-odds with Platt's targets: each row is right and wrong, with weights."""
    right, wrong = correct.sum(), (1 - correct).sum()
    targets = np.where(correct > 0, (right + 1) / (right + 2), 1 / (wrong + 2))
    odds = np.tile(logit(np.clip(confidences, 1e-6, 1 - 1e-6)), 2)[:, None]
    labels, weights = np.repeat([1, 0], len(correct)), np.concatenate([targets, 1 - targets])
    fit = LogisticRegression(C=np.inf, tol=1e-8).fit(odds, labels, weights)
    return fit.coef_[0, 0], fit.intercept_[0]


def test_scale_is_the_logistic_regression_of_the_log_odds_with_platts_targets(answers):
    confidences, correct = answers
    slope, offset = fit_scale(confidences, correct)
    assert (slope, offset) == pytest.approx(platt(confidences, correct), abs=1e-3)
    assert calibration_error(scaled(confidences, slope, offset), correct) < 0.02


def test_platts_targets_hardly_move_an_ordinary_fit(answers):
    confidences, correct = (column[:1_000] for column in answers)
    plain = LogisticRegression(C=np.inf).fit(logit(confidences)[:, None], correct)
    before = scaled(confidences, plain.coef_[0, 0], plain.intercept_[0])
    assert np.abs(scaled(confidences, *fit_scale(confidences, correct)) - before).max() < 0.01


def test_scale_of_answers_that_confidence_separates_stays_finite():
    confidences = np.concatenate([np.linspace(0.85, 0.95, 60), np.linspace(0.2, 0.7, 40)])
    correct = np.repeat([1.0, 0.0], [60, 40])
    slope, offset = fit_scale(confidences, correct)
    assert (slope, offset) == pytest.approx(platt(confidences, correct), rel=1e-2)
    ends = scaled(confidences, slope, offset)
    assert 0.9 < ends.max() < 0.999
    assert 0.2 < ends[correct == 0].max() < 0.5  # the surest wrong answer is not called wrong for certain
    everything = scaled(confidences, *fit_scale(confidences, np.ones(100)))
    assert everything == pytest.approx(np.full(100, 101 / 102), abs=1e-3)


def test_scale_counts_every_answer_that_is_too_sure():
    steps = np.linspace(0.3, 0.9, 1_000)
    assert fit_scale(steps, (steps > 0.6) * 1.0) == pytest.approx((21.93, -8.91), abs=0.01)
    certain, correct = 1 - 10 ** -np.linspace(6.1, 9, 1_000), np.arange(1_000) % 10 < 7
    assert scaled(certain, *fit_scale(certain, correct * 1.0)) == pytest.approx(np.full(1_000, 0.7), abs=2e-3)


def test_scale_turns_log_odds_and_bears_full_certainty():
    np.testing.assert_allclose(scaled(np.array([0.5, 0.8]), 2, 1), expit(2 * logit(np.array([0.5, 0.8])) + 1))
    ends = scaled(np.array([0.0, 1.0]), 1, 0)
    np.testing.assert_allclose(ends, [1e-6, 1 - 1e-6])
    confidences, correct = np.array([0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0]), np.array([0, 1, 0, 1, 1, 1, 0.0])
    assert fit_scale(confidences, correct) == pytest.approx(platt(confidences, correct), abs=1e-3)


def test_loss_of_full_certainty_is_finite():
    assert log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(-np.log(1e-6))


def test_a_perfectly_calibrated_model_has_an_error_by_chance():
    """Of 1,053 answers at 80 %, |share - 0.8| is half normal with a mean of sqrt(2 / pi) times its deviation."""
    assert perfect_calibration_error(np.full(1_053, 0.8)) == pytest.approx((2 / np.pi * 0.16 / 1_053) ** 0.5, rel=0.08)
    assert perfect_calibration_error(np.array([0.0, 1.0])) == 0
    spread = expit(np.random.default_rng(0).normal(2, 2, 1_053))
    assert 0.02 < perfect_calibration_error(spread) < 0.05
    assert perfect_calibration_error(spread) == perfect_calibration_error(spread)


def test_interval_of_the_calibration_error_holds_the_true_one_and_is_of_images():
    """Answers at 80 % of which 70 % are right: the error is 10 %, and one bin has it all."""
    correct = (np.random.default_rng(0).random(2_000) < 0.7).astype(float)
    confidences = np.full(2_000, 0.8)
    low, high = calibration_error_interval(confidences, correct, [str(i) for i in range(2_000)])
    half = 1.96 * (0.21 / 2_000) ** 0.5
    found = 0.8 - correct.mean()
    assert (low, high) == (pytest.approx(found - half, abs=0.002), pytest.approx(found + half, abs=0.002))
    assert low < 0.1 < high
    ordered = np.sort(correct)  # of ten questions of an image all are right or all wrong
    low, high = calibration_error_interval(confidences, ordered, [str(i // 10) for i in range(2_000)])
    assert high - low == pytest.approx(2 * half * 10**0.5, rel=0.1)


def test_interval_of_the_calibration_error_takes_off_what_chance_adds():
    """Data sets of a calibrated model, whose true error is 0: an ECE of 4 % on average, mid-intervals 2.6 %."""
    generator, middles, errors = np.random.default_rng(0), [], []
    for _ in range(30):
        confidences = expit(generator.normal(2, 2, 500))
        correct = (generator.random(500) < confidences).astype(float)
        errors.append(calibration_error(confidences, correct))
        middles.append(np.mean(calibration_error_interval(confidences, correct, list(map(str, range(500))))))
    assert np.mean(middles) < 0.7 * np.mean(errors)


def test_interval_of_the_calibration_error_holds_itself_and_nothing_where_there_is_none():
    generator, held, images = np.random.default_rng(1), 0, [str(i) for i in range(400)]
    for _ in range(60):
        confidences = expit(generator.normal(2, 2, 400))
        correct = (generator.random(400) < confidences).astype(float)
        low, high = calibration_error_interval(confidences, correct, images)
        assert low <= calibration_error(confidences, correct) <= high
        held += low == 0
    assert held >= 54
