"""metrics.compare: whether one run is better than another."""

import json

import numpy as np
import pytest
from scipy.stats import permutation_test as scipy_test
from scipy.stats import ttest_rel

from metrics.compare import compare, main, permutation_test
from metrics.intervals import resampled_means
from metrics.vqa import all_scores
from processing.errors import UserError


def rows(right, per_image=1):
    return [
        {"id": i, "image_id": f"{i // per_image}", "question": "What?", "answer": "left lung", "language": "en"}
        | {"prediction": "Left lung" if hit else "right lung"}
        for i, hit in enumerate(right)
    ]


def test_a_clear_gain_has_its_interval_above_zero_and_a_small_p_value():
    generator = np.random.default_rng(0)
    a, b = generator.random(600) < 0.7, generator.random(600) < 0.8
    found = compare(rows(a), rows(b))
    exact, f1 = found.differences
    assert (exact.a, exact.b) == (pytest.approx(100 * a.mean()), pytest.approx(100 * b.mean()))
    assert (f1.a, f1.b) == (pytest.approx(50 + exact.a / 2), pytest.approx(50 + exact.b / 2))  # one word of two
    expected = ttest_rel(b.astype(float), a.astype(float))
    low, high = expected.confidence_interval()
    assert (exact.low, exact.high) == (pytest.approx(100 * low, abs=0.5), pytest.approx(100 * high, abs=0.5))
    assert exact.p_value == pytest.approx(expected.pvalue, abs=2e-3)


def test_interval_and_p_value_are_those_of_the_drawn_samples():
    generator = np.random.default_rng(1)
    a, b = (rows(generator.random(90) < share, per_image=3) for share in (0.6, 0.75))
    found, turned = compare(a, b), compare(b, a)
    gain = (all_scores(b, [row["prediction"] for row in b]) - all_scores(a, [row["prediction"] for row in a]))[:, :2]
    means = resampled_means(gain, [row["image_id"] for row in a], 10_000)
    for column, part in enumerate(found.differences):
        drawn = means[:, column]
        assert (part.low, part.high) == pytest.approx(tuple(100 * np.quantile(drawn, [0.025, 0.975])))
        assert part.p_value == pytest.approx(2 * (1 + (drawn <= 0).sum()) / 10_001)
        other = turned.differences[column]
        assert (other.low, other.high, other.p_value) == pytest.approx((-part.high, -part.low, part.p_value))
    assert (turned.only_a, turned.only_b, turned.permutation) == (found.only_b, found.only_a, found.permutation)
    assert compare(rows([0] * 9), rows([1] * 9)).differences[0].p_value == 2 / 10_001  # no sample without a gain


def test_half_a_gain_is_none_for_the_permutation_test():
    a, b = rows([0, 0, 1]), rows([0, 0, 1])
    a[0]["prediction"], b[1]["prediction"] = "heart", "heart"
    found = compare(a, b)
    assert (found.only_a, found.only_b, found.permutation) == (0, 0, 1.0)


def test_permutation_test_of_single_questions_is_mcnemars():
    found = compare(rows([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]), rows([1, 1, 0, 1, 1, 1, 1, 1, 1, 0]))
    assert (found.only_a, found.only_b) == (1, 6)
    assert found.permutation == pytest.approx(2 * (1 + 7) / 2**7)  # 0 or 1 of 7, both ways


def test_questions_of_an_image_change_their_sign_together():
    gains, images = np.array([1, 1, 1, 0, 1, -1, 1, 1]), list("aaabbccc")  # sums 3, 1, 1
    assert permutation_test(gains, images) == 2 / 2**3  # only +5 and -5 are as far from 0
    gains, images = np.array([1, 1, 1, 1, -1]), list("aabbc")  # sums 2, 2, -1
    assert permutation_test(gains, images) == (4 / 2**3)  # 5 and 3, both ways
    found = compare(rows([0] * 40 + [1] * 20, 20), rows([1] * 40 + [0] * 20, 20))  # two images against one
    assert (found.only_a, found.only_b, found.permutation) == (20, 40, 1.0)


def test_permutation_test_is_that_of_scipy():
    generator = np.random.default_rng(3)
    gains, images = generator.integers(-1, 2, 60), [str(i // 5) for i in range(60)]
    gains[:20] = np.abs(gains[:20])
    sums = gains.reshape(12, 5).sum(1)
    expected = scipy_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert permutation_test(gains, images) == pytest.approx(expected.pvalue)
    assert 0.01 < expected.pvalue < 0.9


def test_the_same_run_twice_does_not_differ():
    found = compare(rows([1, 0, 1]), rows([1, 0, 1]))
    assert (found.only_a, found.only_b, found.permutation) == (0, 0, 1.0)
    half = pytest.approx(100 * (1 - 0.05 ** (1 / 3)))  # three images that are the same tell little about others
    assert [(-part.low, part.high, part.p_value) for part in found.differences] == [(half, half, 1.0)] * 2


def test_a_gain_on_few_images_is_not_certain_however_many_their_questions():
    a, b = [0] * 40 + [1] * 40 + [0] * 40, [1] * 40 + [0] * 20 + [1] * 60
    alone, together = (compare(rows(a, n), rows(b, n)).differences[0] for n in (1, 40))
    assert alone.p_value < 0.001 < 0.05 < together.p_value


@pytest.fixture
def run(tmp_path):
    def write(name, content):
        (tmp_path / name).mkdir()
        lines = (json.dumps(row) + "\n" for row in content)
        (tmp_path / name / "predictions_validation.jsonl").write_text("".join(lines))
        return str(tmp_path / name)

    return write


def test_command_line_tells_both_tests(run, capsys):
    a, b = rows([1, 0, 0, 0]), rows([1, 1, 1, 0])
    main([run("a", a), run("b", b[::-1])])  # the order of rows does not matter
    out = capsys.readouterr().out
    assert "4 validation questions on 4 images" in out
    assert "exact_match: A 25.00, B 75.00, B - A +50.00 (95% interval" in out
    assert "right in A alone 0, in B alone 2: permutation test over images p = 0.5000" in out


def test_no_p_value_is_printed_as_nothing(run, capsys):
    main([run("a", rows([0] * 20)), run("b", rows([1] * 20))])  # 2 * 0.5^20
    assert capsys.readouterr().out.endswith("permutation test over images p < 0.0001\n")


def test_runs_that_can_t_be_compared(run, tmp_path):
    a = run("a", rows([1, 0]))
    with pytest.raises(UserError, match="answer different validation questions"):
        main([a, run("b", rows([1, 0, 1]))])
    with pytest.raises(UserError, match="predictions_test.jsonl: there is no such file"):
        main([a, a, "--split", "test"])
    old = [{name: value for name, value in row.items() if name != "image_id"} for row in rows([1])]
    with pytest.raises(UserError, match="its rows have no image_id"):
        main([a, run("c", old)])
