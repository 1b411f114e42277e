"""processing.sources.columns: columns of other names, several gold answers, and options."""

import json
import logging

import pytest

from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.processing.conftest import rows_of


@pytest.fixture
def renamed(table, tmp_path):
    """Twelve good rows, changed by the test, whose columns have the names that it gives."""

    def write(names, *changes, **constants):
        rows = json.loads(table(*changes).read_text())
        rows = [{names.get(column, column): value for column, value in row.items()} | constants for row in rows]
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        return str(tmp_path / "rows.json")

    return write


NAMES = [
    {"image": "Figure_path", "question": "Question", "answer": "Answer"},
    {"image": "file_name", "question": "prompt", "answer": "label"},
    {"image": "image_path", "question": "query", "answer": "answers"},
    {"image": "IMG", "question": "Prompt", "answer": "ground truth"},
    {"image": "img-name", "question": "question text", "answer": "gt_answer"},
    {"image": "filename", "question": "question", "answer": "response"},
]


@pytest.mark.parametrize("names", NAMES, ids=str)
def test_common_names_are_found_and_told_once(renamed, caplog, names):
    caplog.set_level(logging.INFO)
    found = rows_of(load_vqa_dataset(renamed(names)))
    assert sorted((row["image_id"], row["question"], row["answer"]) for row in found) == sorted(
        (f"{i}.png", f"What is {i % 3}?", "lung") for i in range(12)
    )
    text = ", ".join(f"{field} = {names[field]}" for field in ("image", "question", "answer"))
    assert caplog.text.count(f"Columns: {text}, question_id = question_id. Choose others by --column_names.") == 1


def test_usual_names_are_not_told(table, caplog):
    caplog.set_level(logging.INFO)
    load_vqa_dataset(str(table()))
    assert "Columns:" not in caplog.text


def test_own_names_win_over_common_ones_and_the_flag_over_both(renamed):
    file = renamed({}, label="wrong", prompt="Wrong?", Answer_label="A")
    assert {row["answer"] for row in rows_of(load_vqa_dataset(file))} == {"lung"}
    options = {"column_names": ["answer=label", "question=prompt"], "on_bad_rows": "skip"}
    found = rows_of(load_vqa_dataset(file, **options))
    assert {(row["question"], row["answer"]) for row in found} == {("Wrong?", "wrong")}


@pytest.mark.parametrize(
    ("names", "extra", "message"),
    [
        ({"question": "prompt"}, {"query": "x"}, "'prompt' and 'query' may each be the question; .* question=prompt."),
        ({"answer": "label"}, {"answers": "x"}, "'answers' and 'label' may each be the answer; .* answer=answers."),
        ({"image": "img"}, {"file_name": "x"}, "'file_name' and 'img' may each be the image; .* image=file_name."),
    ],
)
def test_two_candidates_are_a_sentence_that_the_flag_answers(renamed, names, extra, message):
    file = renamed(names, **extra)
    with pytest.raises(UserError, match=f"rows.json: the columns {message}"):
        load_vqa_dataset(file)
    pairs = [f"{field}={column}" for field, column in names.items()]
    assert len(rows_of(load_vqa_dataset(file, column_names=pairs))) == 12


def test_a_list_of_one_answer_is_that_answer_and_of_several_all_are_kept(table):
    changes = (
        {"answer": ["left lung"]},
        {"answer": ["liver", " the  heart", "liver"]},
        {"answer": ["a", "b"]},
        {"answer": [2, None, 2.5]},
        {"answer": []},
    )
    dataset = load_vqa_dataset(str(table(*changes)))
    found = {row["image_id"]: (row["answer"], row["answers"]) for row in rows_of(dataset)}
    assert [found.get(f"{i}.png") for i in range(6)] == [
        ("left lung", None),
        ("liver", ["liver", "the heart", "liver"]),
        ("a", ["a", "b"]),
        ("2", ["2", "2.5"]),
        None,  # no answer
        ("lung", None),
    ]


def test_lists_of_other_things_are_no_answers(table, caplog):
    changes = ({"answer": [{"text": "x"}]}, {"answer": [["x"]]}, {"answer": [True]}, {"answer": ["x\ud800", "y"]})
    dataset = load_vqa_dataset(str(table(*changes)))
    assert len(rows_of(dataset)) == 8
    assert "3 x answer is not a string" in caplog.text
    assert "1 x broken character (a lone surrogate)" in caplog.text
    assert "answers" not in dataset["train"].features


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"Choice A": " A:lung ", "Choice B": "B:liver"}, ["lung", "liver"]),
        ({"option_b": "liver", "option_a": "lung", "option_c": None}, ["lung", "liver"]),
        ({"choices": ["lung", "liver"], "note": "x"}, ["lung", "liver"]),
        ({"options": ["lung", 2]}, ["lung", "2"]),
        ({"options": {"B": "liver", "A": "lung"}}, ["lung", "liver"]),
        ({"options": {"10": "liver", "9": "lung"}}, ["lung", "liver"]),
        ({"options": "{'a': 'lung', 'b': 'liver'}"}, ["lung", "liver"]),
        ({"choices": {"first": "lung", "second": "liver"}}, ["lung", "liver"]),
        ({"choices": "A. lung\nB. liver"}, ["lung", "liver"]),
        ({"Option A": "lung", "Option B": "[1, 2]"}, ["lung", "[1, 2]"]),
    ],
    ids=str,
)
def test_options_are_found_in_columns_lists_and_objects(renamed, columns, expected):
    dataset = load_vqa_dataset(renamed({}, **columns, answer_label="A"))
    assert {tuple(row["choices"]) for row in rows_of(dataset)} == {tuple(expected)}
    assert {row["answer_label"] for row in rows_of(dataset)} == {"A"}


@pytest.mark.parametrize("columns", [{"options": {"a": 1}}, {"choices": "lung, liver"}, {"Choice A": None}], ids=str)
def test_what_is_no_list_of_options_is_left_out(renamed, columns):
    dataset = load_vqa_dataset(renamed({}, **columns))
    assert len(rows_of(dataset)) == 12
    assert "choices" not in dataset["train"].features


@pytest.mark.parametrize("options", [[{"key": "A", "value": "lung"}], {"A": True, "B": "lung"}, True], ids=str)
def test_options_that_are_no_texts_are_left_out_with_a_warning(renamed, caplog, options):
    dataset = load_vqa_dataset(renamed({}, options=options))
    assert "choices" not in dataset["train"].features
    assert caplog.text.count("the options of 12 rows ('options') are neither texts nor an object of texts") == 1
