"""metrics.intervals against known libraries and values worked out by hand."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from metrics.intervals import (
    bootstrap_interval,
    clustered_error_bound,
    error_bound,
    interval_of_mean,
    interval_text,
    mean_with_interval,
    resampled_means,
)


@pytest.mark.parametrize(("errors", "total"), [(0, 59), (3, 100), (40, 41), (7, 7)])
def test_error_bound_is_clopper_and_pearson_s(errors, total):
    expected = binomtest(errors, total, alternative="less").proportion_ci(0.95, method="exact").high
    assert error_bound(errors, total) == pytest.approx(expected)


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


def test_values_that_are_all_the_same_have_the_exact_bound_by_images():
    images = [str(i % 20) for i in range(62)]
    low = 100 * 0.05 ** (1 / 20)  # 86.09: were less than that share of the images all right, all 20 hardly would be
    assert mean_with_interval(np.full(62, 100.0), images) == [100, round(low, 2), 100]
    assert mean_with_interval(np.zeros(62), images) == [0, 0, round(100 - low, 2)]
    assert interval_text(mean_with_interval(np.full(62, 100.0), images)) == "100.00 (86.09 to 100.00)"
    assert mean_with_interval(np.zeros(62), images, (-100, 100)) == [0, round(low - 100, 2), round(100 - low, 2)]
    assert interval_of_mean(np.full(62, 50.0), images, (0, 100)) == pytest.approx((low / 2, 100 - low / 2))
    assert mean_with_interval(np.full(9, 100.0), images[:9]) == [100, None, None]


def test_values_that_differ_have_the_interval_of_the_bootstrap():
    values, images = np.array([100.0] * 11 + [0.0]), [str(i) for i in range(12)]
    assert interval_of_mean(values, images, (0, 100)) == bootstrap_interval(values, images)


def test_bound_of_images_that_are_right_or_wrong_as_a_whole_is_that_of_the_images():
    for images, wrong in ((40, 0), (100, 0), (100, 3), (400, 10)):
        errors = np.where(np.arange(images) < wrong, 10, 0)
        bound = clustered_error_bound(errors, np.full(images, 10))
        exact = error_bound(wrong, images)
        assert exact <= bound < 1.12 * exact
        assert bound > 1.4 * error_bound(10 * wrong, 10 * images)  # that of independent questions


def test_bound_of_independent_errors_comes_close_to_that_of_the_answers():
    errors = np.random.default_rng(0).binomial(10, 0.1, 4_000)
    exact = error_bound(errors.sum(), 40_000)
    assert exact < clustered_error_bound(errors, np.full(4_000, 10)) < 1.02 * exact


def test_bound_counts_no_image_without_answers_and_is_1_where_nothing_is_right():
    errors, answers = np.array([1, 0, 0, 2]), np.array([5, 5, 5, 5])
    assert clustered_error_bound(np.append(errors, [0, 0]), np.append(answers, [0, 0])) == clustered_error_bound(
        errors, answers
    )
    assert clustered_error_bound(answers, answers) == 1
    assert clustered_error_bound(np.zeros(3), np.zeros(3)) == 1


@pytest.mark.parametrize("sizes", [[10], [2, 30]])
def test_bound_of_wholly_clustered_errors_is_too_low_in_at_most_5_percent(sizes):
    """2,000 draws of 60 images, each of which is wrong as a whole with a probability of 10 %."""
    generator = np.random.default_rng(0)
    answers = np.resize(sizes, 60)
    wrong = generator.random((2_000, 60)) < 0.1
    low = [clustered_error_bound(answers * part, answers) < 0.1 for part in wrong]
    assert np.mean(low) <= 0.05
    if len(sizes) == 1:
        assert np.mean(low) > 0.2 * binom.cdf(2, 60, 0.1)  # not far below what the bound of images allows
