"""modeling.asking.consistency: the same question in other words, and answers that exclude each other."""

import pytest

from modeling.asking.consistency import (
    EXCLUSIVE,
    OPPOSITE,
    WORDINGS,
    contradiction_figures,
    other_wordings,
    paraphrase_figures,
)
from processing.data import load_vqa_dataset


def row_of(image, question, answer, language="en"):
    return {"image": image, "image_id": image, "question": question, "answer": answer, "language": language}


@pytest.mark.parametrize(
    ("question", "group", "wording"),
    [
        ("what  imaging modality was used ?", "modality", "How was this image taken?"),
        ("How many existing kidneys in this image?", "number", "How many kidneys are shown in this image?"),
        ("How many kidneys are there in this image?", "number", "How many existing kidneys in this image?"),
        ("Is this a transverse plane?", "plane, yes or no", "Is this a transverse section?"),
        ("Is this sagittal plane?", "plane, yes or no", "Is this a sagittal plane?"),
        ("Does the picture contain small bowel?", "organ there", "Does the small bowel appear in this image?"),
        ("Is the lung normal appearing?", "organ healthy", "Does the lung look healthy?"),
        ("Is this a CT scan?", "CT", "Was CT used for this image?"),
    ],
)
def test_other_wordings_of_a_question(question, group, wording):
    found, others = other_wordings(question)
    assert found == group
    assert wording in others
    assert len(others) == len(WORDINGS[group]) - 1


@pytest.mark.parametrize("question", ["Which is the kidney?", "这是什么", "Is this?"])
def test_question_of_no_group_has_no_other_wordings(question):
    assert other_wordings(question) is None


def test_every_wording_belongs_to_its_own_group():
    for group, wordings in WORDINGS.items():
        for wording in wordings:
            found, others = other_wordings(wording.replace("{}", "liver"))
            assert found == group
            assert len(others) == len(wordings) - 1, wording


def test_paraphrases_cover_real_questions(slake):
    questions = load_vqa_dataset(str(slake))["validation"]["question"]
    assert sum(other_wordings(question) is not None for question in questions) > 450


def test_consistency_is_the_share_of_wordings_with_the_same_answer():
    rows = [row_of("a", "Is this a CT scan?", "Yes"), row_of("b", "Which is it?", "CT")]

    def ask(images, questions):
        assert list(images) == ["a"] * 3
        return ["yes." if "Is" in question else "No" for question in questions]  # two of three

    table = paraphrase_figures(ask, rows, ["Yes", "CT"], ["is this a ct ?", "Is this image taken via CT?"])
    assert [(entry["group"], entry["questions"], entry["wordings"]) for entry in table] == [
        *(("all", 1, 3), ("wordings of the training rows", 1, 2), ("other wordings", 1, 1), ("CT", 1, 3)),
    ]
    assert [entry["consistent"][0] for entry in table] == [66.67, 100, 0, 66.67]
    assert [entry["exact_match"] for entry in table] == [66.67, 100, 0, 66.67]
    assert {entry["exact_match_as_asked"] for entry in table} == {100}
    assert paraphrase_figures(ask, rows[1:], ["CT"]) == []


def test_contradictions_are_more_than_one_yes_or_the_same_answer_to_opposites():
    answers = {  # by image: the questions that get a yes
        "a": {"Is this a CT scan?", "Is this an MRI scan?", "Does this image look normal?"},
        "b": {"Is this a CT scan?", "Does this image look normal?", "Does this image look abnormal?"},
    }
    table = contradiction_figures(
        lambda images, questions: ["Yes" if q in answers[i] else "No" for i, q in zip(images, questions, strict=True)],
        {"1": "a", "2": "b"},
    )
    found = {entry["group"]: (entry["contradictory"][0], entry["none"]) for entry in table}
    assert found.keys() == (EXCLUSIVE | OPPOSITE).keys()
    assert found["modality"] == (50, 0)
    assert found["plane"] == (0, 100)
    assert found["normal or abnormal"] == (50, 0)
    assert found["abnormalities or normal"] == (100, 100)
