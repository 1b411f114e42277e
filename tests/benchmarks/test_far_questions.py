"""benchmarks.far_questions: which questions are marked, by hand and on SLAKE."""

import re

import pytest
from PIL import Image

from benchmarks.far_questions import are_marked_ones_wrong, by_hand, main
from modeling.parts.question_words import QuestionWords
from modeling.predictor import Answer
from processing.errors import UserError

SHARES = {  # of what is marked on SLAKE, the lowest and highest in percent; they move with the tables of wordings
    "outside, for the figure": (75, 100),  # 83.3 in docs/looking.md
    "inside, for the figure": (0, 5),
    "validation questions as asked": (0, 0),
}


def test_half_of_the_questions_by_hand_are_for_the_figure():
    parts = by_hand()
    assert {title: len(questions) for title, questions in parts.items()} == {
        f"{scope}, for the {use}": 30 for scope in ("outside", "inside") for use in ("choice", "figure")
    }
    assert len({question for questions in parts.values() for question in questions}) == 120


def test_answers_to_marked_wordings_are_scored_apart(tmp_path):
    class Knows:
        """Answers the first wording alone as the rows do."""

        def try_batch(self, images, questions, top_k, choices):
            return [Answer("yes" if question == "healthy liver" else "no", 0.9) for question in questions]

    (tmp_path / "w.csv").write_text("question,wording\nLiver?,healthy liver\nLiver?,fat hepar\nLiver?,liver\n")
    row = {"question": "Liver?", "answer": "yes", "question_id": 1, "language": "en", "answer_type": None}
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    words = QuestionWords(frozenset(["liver", "healt"]))
    rows = [row | {"image": str(tmp_path / "x.png"), "image_id": "x.png"}]
    lines = are_marked_ones_wrong(words, Knows(), rows, tmp_path / "w.csv")
    assert lines == ["marked: 1 wordings, EM 0.00", "not marked: 2 wordings, EM 50.00"]


def test_command_line_needs_a_model_for_wordings(tmp_path):
    with pytest.raises(UserError, match="^Give --model and --wordings together, or neither.$"):
        main(["--dataset", "phantom", "--model", str(tmp_path)])


def test_far_questions_are_told_from_others_on_slake(slake, capsys):
    main(["--dataset", str(slake)])
    found = dict(re.findall(r"^(.*): \d+ of \d+ \(([\d.]+) %\) marked$", capsys.readouterr().out, re.MULTILINE))
    outside = {title: found[title] for title, (low, high) in SHARES.items() if not low <= float(found[title]) <= high}
    assert not outside
