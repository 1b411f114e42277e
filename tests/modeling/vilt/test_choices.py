"""ViLT and its starter choose among a row's options that are in their vocabulary; probabilities worked out by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metrics.calibration import TEMPERATURES
from modeling.vilt.confidence import ChosenAnswers, Options
from modeling.vilt.family import read_answers

LABELS = {"lung": 0, "liver": 1, "heart": 2, "yes": 3}
GOLD = {
    7: {"choices": ["liver", "The Heart."]},
    8: {"choices": ["liver", "spleen", "HEART"]},
    9: {"choices": ["spleen", "brain"]},
    10: {"choices": None},
}
LOGITS = torch.tensor([[9.0, 1.0, 3.0, 2.0]] * 4).log()
ONE = int(np.abs(TEMPERATURES - 1).argmin())


def config(problem_type="single_label_classification", **changes):
    id2label = {i: label for label, i in LABELS.items()}
    return SimpleNamespace(label2id=LABELS, id2label=id2label, problem_type=problem_type, **changes)


def test_the_likeliest_known_option_is_chosen_with_its_probability_among_the_options():
    """Softmax: 9, 1, 3 and 2 of 15. Of both options 1 and 3 of 4; with one unknown, 3 of all 15; else the answer."""
    labels, confidences, _ = ChosenAnswers(config(), GOLD)(LOGITS, torch.tensor(list(GOLD)))
    assert labels.tolist() == [2, 2, 0, 0]
    assert confidences[:, ONE].tolist() == pytest.approx([3 / 4, 3 / 15, 9 / 15, 9 / 15])
    at_4 = confidences[0, -1].item()  # the fourth roots of 1 and 3
    assert at_4 == pytest.approx(3**0.25 / (1 + 3**0.25))


def test_answers_of_a_model_of_binary_cross_entropy_have_shares_of_their_own_probabilities():
    """Sigmoids of logits ln x are x / (1 + x): 1/2 and 3/4 for the two options."""
    _, confidences, _ = ChosenAnswers(config("multi_label_classification"), GOLD)(LOGITS, torch.tensor(list(GOLD)))
    assert confidences[:, ONE].tolist() == pytest.approx([(3 / 4) / (1 / 2 + 3 / 4), 3 / 4, 9 / 10, 9 / 10])


def test_options_far_below_the_best_answer_have_finite_probabilities():
    logits = torch.tensor([0.0, -800.0, -801.0, 0.0])
    for kind in ("single_label_classification", "multi_label_classification"):
        found = Options(config(kind)).probabilities(logits, GOLD[7])[0]
        assert found.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))], rel=1e-4)


def test_options_are_answered_in_the_spelling_of_the_row():
    output = SimpleNamespace(
        label_ids=np.array(list(GOLD)),
        predictions=(np.array([2, 2, 0, 0]), np.full((4, len(TEMPERATURES)), 0.5), None),
    )
    trainer = SimpleNamespace(model=SimpleNamespace(config=config(answer_temperature=1.0)), gold=GOLD)
    assert [answer for answer, _ in read_answers(output, trainer).values()] == ["The Heart.", "HEART", "lung", "lung"]


def test_options_count_where_the_first_row_to_evaluate_has_none():
    """As the validation rows have none where the test split is another data set's."""
    labels, confidences, _ = ChosenAnswers(config(), {6: {}, **GOLD})(LOGITS[:2], torch.tensor([6, 7]))
    assert labels.tolist() == [0, 2]
    assert confidences[:, ONE].tolist() == pytest.approx([9 / 15, 3 / 4])
