"""processing.choices: options in one form, in columns or in the question, and the right one as the answer."""

import pytest

from processing.choices import option_texts, read_choices
from processing.data import load_vqa_dataset
from tests.processing.conftest import rows_of

LETTERED = ["A: lungs", "B: heart", "C: liver", "D: spleen"]
TEXTS = ["lungs", "heart", "liver", "spleen"]


def read(**row):
    """A row after `read_choices`, which finds no problem."""
    row = {"question": "Which organ?", "answer": "heart"} | row
    assert read_choices(row) is None
    return row


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (LETTERED, TEXTS),
        ([" A:lungs ", "B:heart", " C : liver", "D:  spleen"], TEXTS),
        (["(A) lungs", "(b) heart", "(C)liver", "( D ) spleen"], TEXTS),
        (["A. lungs", "B. heart", "C.) liver", "D) spleen"], TEXTS),
        (["A：肺", "Ｂ．心", "（Ｃ）肝", "D、脾"], ["肺", "心", "肝", "脾"]),  # noqa: RUF001
        (["A: lungs", "B: heart", "", "D:"], ["lungs", "heart"]),
        (["E. coli", "S. aureus", "C. difficile"], ["E. coli", "S. aureus", "C. difficile"]),
        (["A: lungs", "heart", "C: liver"], ["A: lungs", "heart", "C: liver"]),  # not all have a letter
        (["B: lungs", "A: heart"], ["B: lungs", "A: heart"]),  # not their own
        (["lungs", "The heart.", "Heart", "liver"], ["lungs", "The heart.", "liver"]),
        (["5 mm", "0.5 mm"], ["5 mm", "0.5 mm"]),
    ],
    ids=str,
)
def test_options_lose_their_letters_and_repetitions(written, expected):
    assert option_texts(written) == expected


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"answer": "heart", "answer_label": "B"}, 1),
        ({"answer": "", "answer_label": "c"}, 2),
        ({"answer": None, "answer_label": "(D)"}, 3),
        ({"answer": "The Heart."}, 1),
        ({"answer": "C"}, 2),
        ({"answer": "(D)."}, 3),
        ({"answer": "B: heart"}, 1),
        ({"answer": "B", "answer_label": "B."}, 1),
        ({"answer": "liver", "answer_label": 7}, 2),  # no letter, so the answer counts
        ({"choices": ["B", "A", "AB", "0"], "answer": "A"}, 1),  # a blood group, whose text comes before its letter
        ({"choices": ["lungs", "", "liver", "spleen"], "answer_label": "C", "answer": "liver"}, 1),
        ({"choices": ["lungs", "Lungs", "liver"], "answer_label": "C", "answer": "C"}, 1),
    ],
    ids=str,
)
def test_right_option_becomes_the_answer(changes, right):
    row = read(**({"choices": LETTERED} | changes))
    assert row["answer"] == row["choices"][right]
    assert row["answer_label"] == "ABCD"[right]


def test_several_gold_answers_become_the_options_that_they_name():
    row = read(choices=LETTERED, answer="A", answers=["A", "heart", "kidney", "A"])
    assert (row["answer"], row["answers"]) == ("lungs", ["lungs", "heart", "lungs"])


@pytest.mark.parametrize(
    "changes",
    [
        {"choices": ["heart"]},
        {"choices": ["heart", " Heart. ", ""]},
        {"choices": LETTERED, "answer": ""},  # no answer at all is none of the options
    ],
    ids=str,
)
def test_fewer_than_two_options_or_no_answer_are_a_question_without_options(changes):
    row = read(**changes)
    assert row == {"question": "Which organ?", "answer": changes.get("answer", "heart")}


def test_more_options_than_letters_are_known_by_their_number():
    row = read(choices=[f"stage {i}" for i in range(30)], answer="stage 28")
    assert (row["answer"], row["answer_label"], len(row["choices"])) == ("stage 28", "29", 30)


def test_rows_whose_right_option_cannot_be_told_are_bad_ones_with_a_sentence(table, caplog):
    changes = (
        {"answer": "kidney"},
        {"answer": "lungs", "answer_label": "E"},
        {"answer": "lungs", "answer_label": "B"},
        {"answer": "M"},
        {"answer": "heart", "answer_label": "B"},
    )
    dataset = load_vqa_dataset(str(table(*(change | {"options": LETTERED} for change in changes), count=13)))
    assert sorted(row["answer"] for row in rows_of(dataset)) == ["heart"] + ["lung"] * 8
    assert (
        "4 x it can't be told which option is right; write the letter of one into answer_label, or its text into "
        "answer: rows.json row 1 (answer 'kidney' is none of the options 'lungs', 'heart', 'liver', 'spleen'); "
        "rows.json row 2 (answer_label 'E' names none of the options 'lungs', 'heart', 'liver', 'spleen'); rows.json "
        "row 3 (answer_label 'B', but answer 'lungs'); ..."
    ) in caplog.text


FOUND = [
    ("Which organ is it? A: lungs B: heart C: liver D: spleen", TEXTS),
    ("Which organ is it?\nA. lungs\nB. heart\nC. liver\nD. spleen", TEXTS),
    ("Which organ is it?\nA. lungs\nB. heart\nAnswer with the option's letter from the given choices directly.", None),
    ("Which organ is it? (A) lungs, (B) heart, (C) liver. Please answer with the letter.", TEXTS[:3]),
    ("Which organ is it?\nOptions:\nA) lungs\nB) heart", None),
    ("Which organ is it? Options: A) lungs; B) heart", None),
    ("Which organ is it\nA: lungs\nB: heart", None),
    ("Which organ is it. A: lungs B: heart", None),
    ("Which organ is it? A. lungs B. heart", None),
    ("这是什么器官？A：lungs B：heart", None),  # noqa: RUF001
    ("这是什么器官？A、lungs、B、heart", None),  # noqa: RUF001
]


@pytest.mark.parametrize(("question", "options"), FOUND, ids=str)
@pytest.mark.parametrize("answer", ["B", "heart", "B. heart"])
def test_options_in_the_question_are_found_and_the_question_ends_before_them(question, options, answer):
    row = read(question=question, answer=answer)
    assert row["choices"] == (options or TEXTS[:2])
    assert (row["answer"], row["answer_label"]) == ("heart", "B")
    ends = {"Which organ is it?", "Which organ is it", "Which organ is it.", "这是什么器官？"}  # noqa: RUF001
    assert row["question"] in ends
    assert question.startswith(row["question"])


def test_a_bacterium_is_no_letter_of_an_option():
    row = read(question="Which one? A. E. coli B. S. aureus C. C. difficile D. P. aeruginosa", answer="C")
    assert row["choices"] == ["E. coli", "S. aureus", "C. difficile", "P. aeruginosa"]
    assert row["answer"] == "C. difficile"


NEAR_MISSES = [
    ("Is vitamin A: or B: deficient?", "B"),
    ("Which is the aorta? A: or B:", "A"),
    ("Which is larger? A. the left or B. the right", "B"),
    ("What is larger? A: left B: right, or neither?", "A"),
    ("Is this hepatitis? A: yes", "A"),
    ("Is this hepatitis? B: yes A: no", "A"),
    ("Is this hepatitis? A: yes C: no", "A"),
    ("Is this hepatitis? A: yes B) no", "A"),
    ("Is this hepatitis A. or hepatitis B. virus?", "A"),
    ("A: lungs B: heart", "heart"),  # options alone ask nothing
    ("Which organ is it? A: lungs B: heart", "kidney"),  # none of them is right
    ("Which organ is it? a: lungs b: heart", "heart"),  # small letters are words
    ("Which organ is it, options: A: lungs B: heart", "heart"),
    ("Is the ratio FA: 2 or GB: 3? A:1 or B:2", "2"),
    ("Look at panels\nA: CT\nB: MRI\nWhich one shows the liver?", "A"),
    ("What do the arrows mark? A: lungs B: heart, what else?", "heart"),
    ("Which organ is it? A: lungs B: Lungs.", "A"),  # one option twice
    ("What differs between fig. A. and fig. B. here?", "A"),
    ("Was the U.S.A. B. scale used?", "B"),
    ("", "A"),
    ("Which organ is it? A: lungs B: heart" + 4_000 * " x", "A"),  # too long to be searched
]


@pytest.mark.parametrize(("question", "answer"), NEAR_MISSES, ids=str)
def test_what_only_looks_like_options_stays_as_it_is(question, answer):
    row = {"question": question, "answer": answer}
    assert read(**row) == row


def test_options_in_columns_leave_the_question_alone():
    question = "Which organ is it? A: lungs B: heart"
    assert read(question=question, choices=LETTERED)["question"] == question
