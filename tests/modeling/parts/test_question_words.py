"""modeling.parts.question_words: which questions are unlike those of a training, and what is kept to tell them."""

import json

import datasets
import pytest

from modeling.parts.model_files import ModelFiles
from modeling.parts.question_words import (
    QUESTION_WORDS_FILE,
    QuestionWords,
    content_words,
    words_of,
    write_question_words,
)
from processing.errors import UserError


def rows(*asked: tuple[str, str, str | None]) -> datasets.Dataset:
    """Rows of question, image and group."""
    names = ("question", "image", "group")
    columns = {name: list(values) for name, values in zip(names, zip(*asked, strict=True), strict=True)}
    features = datasets.Features(dict.fromkeys(names, datasets.Value("string")))
    return datasets.Dataset.from_dict(columns, features=features)


def test_words_are_their_first_letters_without_common_words_and_numbers():
    assert content_words("Is THIS an Abdominal CT, taken in 2019 (T2)?") == ["abdom", "ct", "taken", "t2"]
    assert content_words("肝脏 is a liver") == ["肝", "脏", "liver"]
    assert content_words("What is it?") == []


def test_a_question_is_unlike_the_training_where_half_of_its_words_are_new():
    words = QuestionWords(frozenset(["liver", "healt"]))
    assert not words.are_unlike("Is the LIVER healthy?")
    assert not words.are_unlike("Is a healthier liver fat?")  # one of three
    assert words.are_unlike("Is the liver fat?")
    assert words.are_unlike("Which drug?")
    assert not words.are_unlike("What is it?"), "which has no word to judge it by"


def test_words_of_one_or_two_patients_are_not_kept():
    asked = [("Is the liver healthy?", f"{i}.png", None) for i in range(90)]
    asked += [("Is Smith healthy?", f"{i}.png", "patient 1") for i in range(90, 95)]  # five images
    asked += [("Is Jones healthy?", f"{i}.png", None) for i in (95, 95, 95, 96)]  # two images, without patients
    few = words_of(rows(*asked)).words
    assert {"liver", "healt"} <= few
    assert not {"smith", "jones", "splee"} & few
    three = [("Is the spleen healthy?", f"{i}.png", f"patient {i}") for i in range(3)]
    assert "splee" in words_of(rows(*asked, *three)).words


def test_other_words_for_a_question_count_as_the_question():
    asked = rows(*(("Is this a study of the chest?", f"{i}.png", None) for i in range(3)))
    assert words_of(asked).words > {"study", "chest", "thora"}
    unknown = rows(*(("Does the chest wheeze?", f"{i}.png", None) for i in range(3)))  # which no table has
    assert words_of(unknown).words == {"chest", "wheez"}


def test_a_training_that_is_too_small_keeps_nothing_and_leaves_no_older_file(tmp_path):
    (tmp_path / "merged").mkdir()
    large = rows(*(("Wheezing when?", f"{i}.png", None) for i in range(9)), ("Any fat?", "1.png", None))
    write_question_words(large, tmp_path)  # one of ten questions is unlike the words that are kept
    for folder in (tmp_path, tmp_path / "merged"):
        assert json.loads((folder / QUESTION_WORDS_FILE).read_text()) == {"words": ["wheez"]}
        found = QuestionWords.from_pretrained(ModelFiles("m", folder))
        assert found == QuestionWords(frozenset(["wheez"]))
    write_question_words(large.select(range(1, 10)), tmp_path)  # one of nine
    assert not list(tmp_path.rglob(QUESTION_WORDS_FILE))
    assert QuestionWords.from_pretrained(ModelFiles("m", tmp_path)) is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"words": "liver"}', '{"words": [["liver"]]}'])
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    (tmp_path / QUESTION_WORDS_FILE).write_text(content)
    with pytest.raises(UserError, match="^m: its question_words.json is damaged; save or download the model again.$"):
        QuestionWords.from_pretrained(ModelFiles("m", tmp_path))
