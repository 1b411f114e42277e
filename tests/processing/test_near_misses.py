"""Tables that are nearly right: names in another case, empty splits, blank lines, numbers beyond all bounds."""

import json
from pathlib import Path

import pytest
from PIL import Image

from processing.answers import answer_identity
from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.sources.csv_tables import parse_csv
from processing.sources.values import language_code


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve images."""
    for number in range(12):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def rows(numbers, **more) -> list[dict]:
    return [{"image": f"{number}.png", "question": "Is it?", "answer": "yes"} | more for number in numbers]


def sizes(file: Path) -> dict[str, int]:
    return {split: len(part) for split, part in load_vqa_dataset(str(file)).items()}


def test_optional_columns_are_found_in_any_case(folder):
    table = folder / "rows.csv"
    lines = [f"{n}.png,Is it?,yes,{'train' if n < 6 else 'test'},{n + 100},CT" for n in range(12)]
    table.write_text("\n".join(["Image,Question,Answer,Split,Question_ID,Modality", *lines]))
    dataset = load_vqa_dataset(str(table))
    assert len(dataset["test"]) == 6
    assert dataset["test"]["question_id"] == [str(n + 100) for n in range(6, 12)]
    assert set(dataset["test"]["modality"]) == {"CT"}


@pytest.mark.parametrize("beside", [{"train": []}, {"version": "1"}, {"info": {"by": "us"}}])
def test_split_that_a_json_key_names_is_kept_whatever_stands_beside_it(folder, beside):
    file = folder / "rows.json"
    file.write_text(json.dumps(beside | {"test": rows(range(6))}))
    assert sizes(file) == {"test": 6}


def test_columns_that_differ_in_case_alone_are_told(folder):
    table = folder / "rows.csv"
    table.write_text("image,question,answer,Answer\n0.png,Is it?,yes,no\n")
    with pytest.raises(UserError, match="the columns 'Answer' and 'answer' are nearly the same; keep one"):
        load_vqa_dataset(str(table))


def test_column_that_is_named_wins_over_one_of_another_case(folder):
    table = folder / "rows.csv"
    table.write_text("\n".join(["image,question,answer,Answer", *(f"{n}.png,Is it?,yes,no" for n in range(12))]))
    dataset = load_vqa_dataset(str(table), column_names=["answer=Answer"])
    assert {answer for part in dataset.values() for answer in part["answer"]} == {"no"}


def test_number_with_an_endless_exponent_is_text(folder):
    file = folder / "rows.json"
    listed = json.dumps(rows(range(12))).replace('"yes"', "1e999999999999999999999")
    file.write_text(listed)
    dataset = load_vqa_dataset(str(file))
    assert {answer for part in dataset.values() for answer in part["answer"]} == {"1e999999999999999999999"}


@pytest.mark.parametrize("name", ["w" * 300, "~nobody-at-all/x.json", "a\0b"])
def test_name_that_can_not_be_a_path_is_one_sentence(name):
    with pytest.raises(UserError, match="there is no such file or folder"):
        load_vqa_dataset(name)


@pytest.mark.parametrize("content", ["image,question,answer\n", "[]"])
def test_table_without_rows_is_told(folder, content):
    file = folder / ("rows.json" if content == "[]" else "rows.csv")
    file.write_text(content)
    with pytest.raises(UserError, match="it has no rows; write them into it"):
        load_vqa_dataset(str(file))


@pytest.mark.parametrize("text", ["a,b\n1,2\n   \n3,4\n", "a,b\n1,2\n3,4\n\x1a", "a,b\n1,2,\n3,4,\n"])
def test_blank_lines_and_delimiters_at_the_end_are_no_fields(text):
    assert parse_csv(text, Path("t.csv")) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_row_with_fewer_fields_gets_a_mend_that_works():
    with pytest.raises(UserError, match="row 1: 1 fields where the header has 2; fill in those that are missing"):
        parse_csv("a,b\n1\n", Path("t.csv"))


@pytest.mark.parametrize("name", ["non-English", "not English", "No English", "en-zh"])
def test_language_that_is_denied_or_two_is_none_of_them(name):
    assert language_code(name) == name


def test_letter_inside_an_answer_is_no_article():
    assert answer_identity("vitamin A deficiency") != answer_identity("vitamin deficiency")
    assert answer_identity("group A strep") != answer_identity("group strep")
    assert answer_identity("A left lung") == answer_identity("the left lung") == "left lung"


def test_forms_of_unicode_are_one_answer():
    assert answer_identity("\u00d6dem") == answer_identity("O\u0308dem")


def test_password_of_a_url_is_not_shown(folder):
    file = folder / "rows.json"
    file.write_text(json.dumps([*rows(range(11)), *rows([0], image="https://u:secret@x.org/a.png")]))
    with pytest.raises(UserError) as refused:
        load_vqa_dataset(str(file), on_bad_rows="error")
    assert "secret" not in str(refused.value)
    assert "https://x.org/..." in str(refused.value)
