"""processing.other_words: training rows whose questions are put in other words."""

import pytest

from processing.other_words import InOtherWords, wordings_within
from processing.wordings import training_wordings

ROWS = [{"row": i, "question": "Is this an MRI?", "answer": "Yes"} for i in range(-200, 200)]


def questions(collator, rows=ROWS):
    return [row["question"] for row in collator(rows)]


@pytest.fixture
def half():
    return InOtherWords(list, 0.5, seed=1)


def test_a_share_of_questions_gets_other_words_and_rows_stay_as_they_were(half):
    found = half(ROWS)
    changed = [row["question"] for row in found if row["question"] != "Is this an MRI?"]
    assert 160 < len(changed) < 240
    assert set(changed) <= set(training_wordings("Is this an MRI?"))
    assert len(set(changed)) > 8
    assert [(row["row"], row["answer"]) for row in found] == [(row["row"], "Yes") for row in ROWS]
    assert {row["question"] for row in ROWS} == {"Is this an MRI?"}
    assert "Is this an MRI?" not in questions(InOtherWords(list, 1.0, seed=1))


def test_words_depend_on_seed_epoch_and_row_alone(half):
    first = questions(half)
    assert questions(half, ROWS[::-1]) == first[::-1]
    half.set_epoch(1)
    second = questions(half)
    assert second != first
    resumed = InOtherWords(list, 0.5, seed=1)
    resumed.set_epoch(1)
    assert questions(resumed, ROWS[150:]) == second[150:]
    assert questions(InOtherWords(list, 0.5, seed=2)) != first


def test_a_question_without_other_words_stays():
    collator = InOtherWords(list, 1.0, seed=1, wordings=lambda question: ())
    assert questions(collator) == [row["question"] for row in ROWS]


def test_wordings_within_a_limit_are_as_many_as_fit():
    asked = ["Is this an MRI?", "Where is the liver?", "Who?"]
    whole = {question: training_wordings(question) for question in asked}
    assert wordings_within(asked, 1000) == whole
    few = wordings_within(asked, 8 + len(whole["Who?"]))
    assert {question: len(found) for question, found in few.items()} == {
        asked[0]: 4,
        asked[1]: 4,
        asked[2]: len(whole["Who?"]),
    }
    assert all(found == whole[question][: len(found)] for question, found in few.items())
    same = ["Is this image normal?", "Is everything normal in this image?"]  # whose wordings are partly the same
    shared = set(training_wordings(same[0])) | set(training_wordings(same[1]))
    assert len(shared) < sum(len(training_wordings(question)) for question in same)
    assert wordings_within(same, len(shared)) == {question: training_wordings(question) for question in same}
    assert set(wordings_within(asked, -5).values()) == {()}
