"""Fixtures of the tests of the SQuAD v2 module."""

import evaluate
import pytest

from tests.metrics.squad_v2_rows import MODULE, gold, predicted


@pytest.fixture(scope="module")
def metric():
    # In memory: test processes that run side by side then share no file of rows.
    return evaluate.load(str(MODULE), keep_in_memory=True)


@pytest.fixture
def mixed():
    """Two questions with an answer and two without; the probabilities are exact in float32."""
    predictions = [
        predicted("q1", "The lung.", 0.125),  # right: exact 1, F1 1
        predicted("q2", "kidney", 0.25),  # P = 1, R = 1/2: exact 0, F1 2/3
        predicted("q3", "liver", 0.5),  # has no answer: 0 and 0
        predicted("q4", "", 0.75),  # has no answer: 1 and 1
    ]
    references = [gold("q1", "lung"), gold("q2", "left kidney"), gold("q3"), gold("q4")]
    return {"predictions": predictions, "references": references}
