"""modeling.asking.consistency: the same question in other words, and answers that exclude each other."""

import pytest

from modeling.asking.consistency import (
    EXCLUSIVE,
    IN_FILE,
    OPPOSITE,
    PER_PART,
    OtherWording,
    contradiction_figures,
    other_wordings,
    paraphrase_figures,
    wordings_of_file,
)
from processing.errors import UserError
from processing.wordings import HELD_OUT, TRAINING, expansions, key, lines, meaning


def row_of(image, question, answer, language="en"):
    return {"image": image, "image_id": image, "question": question, "answer": answer, "language": language}


def test_rows_are_asked_in_some_wordings_of_each_part():
    found = other_wordings([row_of("a", "Which is it?", "CT"), row_of("a", "Where is the liver?", "Left")])
    assert {one.row for one in found} == {1}
    for part in ("SLAKE's wordings", "wordings that training may use", "wordings never trained on"):
        own = [one for one in found if one.part == part]
        assert len(own) == PER_PART
        assert all(meaning(one.text) == meaning("Where is the liver?") for one in own)
    assert sum(one.short for one in found) == 4


def test_paraphrases_cover_real_questions(slake_rows):
    rows = list(slake_rows["validation"])
    assert len({one.row for one in other_wordings(rows)}) > 1_000


def test_consistency_is_the_share_of_wordings_with_the_same_answer():
    rows = [row_of("a", "Is this a CT scan?", "Yes"), row_of("b", "Which is it?", "CT")]
    wordings = [
        OtherWording(0, "one", "Is it CT?", False),
        OtherWording(0, "one", "CT", True),
        OtherWording(0, "other", "Is this CT?", False),
        OtherWording(1, "other", "And what is it?", False),
    ]

    def ask(images, questions):
        assert list(images) == ["a", "a", "a", "b"]
        return ["yes." if "Is" in question else "No" for question in questions]

    table = paraphrase_figures(ask, rows, ["Yes", "CT"], wordings)
    assert [(entry["part"], entry["group"], entry["questions"], entry["wordings"]) for entry in table] == [
        ("one", "all", 1, 2),
        ("one", "short forms", 1, 1),
        ("one", "modality, yes or no", 1, 2),
        ("other", "all", 2, 2),
        ("other", "modality, yes or no", 1, 1),
        ("other", "other questions", 1, 1),
    ]
    assert [entry["consistent"][0] for entry in table] == [50, 0, 50, 50, 100, 0]
    assert [entry["exact_match"] for entry in table] == [50, 0, 50, 50, 100, 0]
    assert {entry["exact_match_as_asked"] for entry in table} == {100}
    assert paraphrase_figures(ask, rows, ["Yes", "CT"], []) == []


def test_wordings_of_a_file_belong_to_questions_by_their_number_or_their_text(tmp_path):
    rows = [row_of(image, "Is this a CT?", "Yes") | {"question_id": number} for image, number in (("a", 7), ("b", 8))]
    file = tmp_path / "wordings.csv"
    file.write_text("question_id,wording\n8,a CT perhaps\n8,Would you say that this is a CT?\n9,of no row\n")
    assert wordings_of_file(file, rows) == [
        OtherWording(1, IN_FILE, "a CT perhaps", True),
        OtherWording(1, IN_FILE, "Would you say that this is a CT?", False),
    ]
    file.write_text("wording,question\nct,Is this a CT?\n")
    assert wordings_of_file(file, rows) == [OtherWording(i, IN_FILE, "ct", True) for i in (0, 1)]
    file.write_text("question,words\nIs this a CT?,ct\n")
    with pytest.raises(UserError, match="it needs the columns wording, and question_id or question, and a row"):
        wordings_of_file(file, rows)
    file.write_text("question,wording\nWhich?,ct\n")
    with pytest.raises(UserError, match="no wording in it is of a question of this split, by question;"):
        wordings_of_file(file, rows)


def test_contradictions_are_asked_in_held_out_words_too():
    parts = {}
    for line in lines():
        parts |= {key(text.replace("{", "")): line.part for text in expansions(line.text) if "{" not in text}
    for group, questions in OPPOSITE.items():
        if "never trained on" in group:
            assert {parts[key(question)] for question in questions} == {HELD_OUT}
    held_out = [text for line in lines() if line.part == HELD_OUT for text in expansions(line.text)]
    trained = [text for line in lines() if line.part == TRAINING for text in expansions(line.text)]
    for group, questions in EXCLUSIVE.items():
        if "never trained on" in group:
            asks = [meaning(question) for question in questions]
            ((slot, _),) = asks[0].slots
            shapes = {
                question.replace(value, f"{{{slot}}}")
                for question, one in zip(questions, asks, strict=True)
                for _, value in one.slots
            }
            assert len({one.slots for one in asks}) == len(questions)
            assert len(shapes) == 1
            assert shapes <= set(held_out)
            assert not shapes & set(trained)


def test_contradictions_are_more_than_one_yes_or_the_same_answer_to_opposites():
    yes = {  # the questions about each image that get a yes
        "a": {"Is this a CT scan?", "Is this an MRI scan?", "Does this image look normal?"},
        "b": {"Is this a CT scan?", "Does this image look normal?", "Does this image look abnormal?"},
    }

    def ask(images, questions):
        pairs = zip(images, questions, strict=True)
        return ["Yes" if question in yes[image] else "No" for image, question in pairs]

    table = contradiction_figures(ask, {"1": "a", "2": "b"})
    found = {entry["group"]: (entry["contradictory"][0], entry["none"]) for entry in table}
    assert found.keys() == (EXCLUSIVE | OPPOSITE).keys()
    assert found["modality"] == (50, 0)
    assert found["plane"] == (0, 100)
    assert found["normal or abnormal"] == (50, 0)
    assert found["abnormalities or normal"] == (100, 100)
