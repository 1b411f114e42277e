"""spaces_app.answers: when two models are said to differ."""

import pytest

from modeling.asking.predictor import Answer
from spaces_app import answers
from spaces_app.answers import Turn
from spaces_app.pictures import View


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("HER2+", "HER2-", True),
        ("1.5 cm", "15 cm", True),
        ("-5", "5", True),
        ("The left lung.", "left  Lung", False),
        ("Yes", "yes", False),
        ("", "+", True),
        ("", "", False),
    ],
)
def test_models_differ_by_the_identity_of_their_answers(monkeypatch, one, other, differ):
    badges = []
    monkeypatch.setattr(answers.st, "badge", lambda text, **_: badges.append(text))
    turn = Turn("q", View(), answers={"a": Answer(one, 0.9), "b": Answer(other, 0.5)})
    answers._show_difference(turn)
    assert badges == (["The models differ"] if differ else [])
