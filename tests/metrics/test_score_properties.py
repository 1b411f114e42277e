"""Whatever a model answers: figures between 0 and 100 that agree with each other, and a report of plain JSON."""

import json

from hypothesis import given
from hypothesis import strategies as st

from metrics.report import make_report
from metrics.vqa import all_scores, score_answers, score_each
from tests.support.strategies import few

answers = st.text(alphabet="aeT 左肺.,'-\n", max_size=12) | st.sampled_from(["the", "yes", "Left lung", ""])
questions = st.lists(
    st.tuples(answers, answers, st.sampled_from(["OPEN", "CLOSED", None]), st.sampled_from(["en", "zh", None])),
    min_size=1,
    max_size=12,
)


@few
@given(questions)
def test_figures_of_any_answers_lie_between_0_and_100_and_agree(asked):
    rows = [
        {"answer": gold, "answer_type": kind, "language": language, "image_id": str(i % 3), "row": i, "question": "?"}
        | dict.fromkeys(("content_type", "modality", "location"))
        for i, (gold, _, kind, language) in enumerate(asked)
    ]
    predictions = [prediction for _, prediction, _, _ in asked]
    scores = all_scores(rows, predictions)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores[:, 0] <= scores[:, 1]).all()  # an exact match has an F1 of 1
    figures = score_answers(rows, predictions)
    assert 0 <= figures["exact_match"] <= figures["f1"] <= 100
    report = make_report(score_each(rows, predictions, [0.5] * len(rows)), {}, [], {})
    assert json.loads(json.dumps(report, allow_nan=False)) == report
