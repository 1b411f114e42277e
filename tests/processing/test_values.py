"""processing.sources.values and what a loaded row makes of them: nothing, numbers, languages."""

import json
import math

import pytest

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.sources.values import is_missing, language_code, text_of
from tests.processing.conftest import rows_of

NOTHING = [None, math.nan, "", "  ", "\n"]
WORDS = ["None", "nan", "NaN", "N/A", "null", "NULL", "NA", "-", "none", "nil"]
OPTIONAL = ("question_id", "image_id", "answer_type", "content_type", "modality", "location", "language", "split")


def first(dataset, image="0.png"):
    return next(row for row in rows_of(dataset) if row["image_id"] == image)


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_nothing_is_nothing_in_every_optional_field_of_json(table, value):
    file = table(*[dict.fromkeys(OPTIONAL, value)] * 12)
    dataset = load_vqa_dataset(str(file))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 10, "validation": 1, "test": 1}
    for row in rows_of(dataset):
        assert [row[field] for field in OPTIONAL if field not in ("image_id", "split")] == [None] * 6
        assert row["image_id"] == row["image"].rpartition("/")[2]


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_nothing_for_an_answer_is_no_answer(table, caplog, value):
    file = table({"answer": value})
    assert len(rows_of(load_vqa_dataset(str(file)))) == 11
    assert "1 x empty answer (SQuAD v2's no answer; kept by --allow_no_answer): rows.json row 1" in caplog.text
    assert first(load_vqa_dataset(str(file), allow_no_answer=True))["answer"] == ""


@pytest.mark.parametrize("value", NOTHING, ids=repr)
@pytest.mark.parametrize(("field", "kind"), [("question", "empty question"), ("image", "missing image")])
def test_nothing_for_a_question_or_image_is_a_bad_row(table, caplog, value, field, kind):
    assert len(rows_of(load_vqa_dataset(str(table({field: value}))))) == 11
    assert f"1 x {kind}: rows.json row 1" in caplog.text


def test_empty_cells_of_csv_are_nothing(table, tmp_path):
    rows = json.loads(table().read_text())
    lines = ["image,question,answer,question_id,modality,language"]
    lines += [f"{row['image']},{row['question']},lung,,{'CT' if i else ''}," for i, row in enumerate(rows)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    loaded = rows_of(load_vqa_dataset(str(tmp_path / "rows.csv")))
    assert len(loaded) == 12
    assert {row["question_id"] for row in loaded} == {row["language"] for row in loaded} == {None}
    assert {row["modality"] for row in loaded} == {"CT", None}


def test_slake_and_vqa_rad_have_the_same_nothing(tmp_path, table):
    rows = json.loads(table().read_text())
    slake = [
        {"img_name": row["image"], "question": row["question"], "answer": "lung", "q_lang": math.nan, "qid": ""}
        | {"modality": math.nan, "location": "", "answer_type": None}
        for row in rows
    ]
    (tmp_path / "imgs").mkdir()
    for row in rows:
        (tmp_path / row["image"]).rename(tmp_path / "imgs" / row["image"])
    (tmp_path / "rows.json").unlink()
    (tmp_path / "train.json").write_text(json.dumps(slake))
    for row in rows_of(load_vqa_dataset(str(tmp_path))):
        assert [row[name] for name in ("language", "question_id", "modality", "location", "answer_type")] == [None] * 5
    (tmp_path / "train.json").unlink()
    (tmp_path / "imgs").rename(tmp_path / "images")
    rad = [
        {"image_name": row["img_name"], "question": row["question"], "answer": 3.0, "qid": math.nan}
        | {"phrase_type": "freeform", "image_organ": math.nan, "question_type": ""}
        for row in slake
    ]
    (tmp_path / "trainset.json").write_text(json.dumps(rad))
    for row in rows_of(load_vqa_dataset(str(tmp_path))):
        assert (row["answer"], row["location"], row["content_type"], row["question_id"]) == ("3", None, None, None)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_words_for_nothing_are_answers_where_somebody_wrote_them(table, tmp_path, word, suffix):
    rows = json.loads(table({"answer": word}).read_text())
    file = tmp_path / f"t{suffix}"
    if suffix == ".csv":
        text = "\n".join(["image,question,answer", *(f"{row['image']},q,{row['answer']}" for row in rows)])
    else:
        text = "\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows)
    file.write_text(text)
    assert first(load_vqa_dataset(str(file)))["answer"] == word
    assert not is_missing(word)


NUMBERS = {
    "1234567.0": "1234567",
    "10000000.0": "10000000",
    "1e7": "10000000",
    "100000.5": "100000.5",
    "0.123456789": "0.123456789",
    "0.12345678901234567890": "0.1234567890123456789",  # more digits than a float has
    "123456789012345678.0": "123456789012345678",
    "12345678901234567890": "12345678901234567890",
    "1e-7": "0.0000001",
    "2.50": "2.5",
    "-3.25": "-3.25",
    "-0.0": "0",
    "0": "0",
    "0.1": "0.1",
    "3": "3",
}


@pytest.mark.parametrize("literal", NUMBERS)
def test_a_number_keeps_its_digits(table, literal):
    file = table({"answer": "HERE", "modality": "HERE"})
    file.write_text(file.read_text().replace('"HERE"', literal))
    row = first(load_vqa_dataset(str(file)))
    assert (row["answer"], row["modality"]) == (NUMBERS[literal], NUMBERS[literal])


def test_numbers_beyond_every_day_stay_text_and_whole(table):
    file = table({"answer": "A"}, {"answer": "B"}, {"answer": "C"})
    huge = "9" * 5_000
    text = file.read_text().replace('"A"', huge).replace('"B"', "1e999").replace('"C"', "Infinity")
    file.write_text(text)
    answers = {row["answer"] for row in rows_of(load_vqa_dataset(str(file)))}
    assert answers == {huge, "1E+999", "Infinity", "lung"}


def test_numbers_of_csv_are_text_but_for_whole_numbers_that_pandas_wrote_as_floats(table, tmp_path):
    for last, expected in (("7.0", {"1234567", "7"}), ("7.5", {"1234567.0", "7.5"}), ("many", {"1234567.0", "many"})):
        lines = [*(f"{i}.png,q,1234567.0" for i in range(11)), f"11.png,q,{last}"]
        (tmp_path / "t.csv").write_text("\n".join(["image,question,answer", *lines]))
        table()
        assert {row["answer"] for row in rows_of(load_vqa_dataset(str(tmp_path / "t.csv")))} == expected


@pytest.mark.parametrize("answer", [True, False, [["yes"]], {"yes": 1}], ids=str)
def test_what_is_neither_text_nor_number_is_no_answer(table, caplog, answer):
    assert len(rows_of(load_vqa_dataset(str(table({"answer": answer}))))) == 11
    assert "1 x answer is not a string: rows.json row 1" in caplog.text


def test_a_number_is_a_question_and_a_list_is_none(table, caplog):
    file = table({"question": 5.0}, {"question": ["Is it?"]})
    assert first(load_vqa_dataset(str(file)))["question"] == "5"
    assert "1 x question is not a string: rows.json row 2 (['Is it?'])" in caplog.text


ENGLISH = ["en", "EN", "English", "english", "ENGLISH", "en-US", "en_GB", "en ", " En", "eng", "en_US.UTF-8", "英文"]
ENGLISH += ["English (US)", "American English", "en-CN", "英语", "ｅｎ"]  # noqa: RUF001
CHINESE = [
    "zh",
    "ZH",
    "Chinese",
    "zh-CN",
    "zh_Hans",
    "zh-Hant-TW",
    "cn",
    "CN",
    "中文",
    "zho",
    "chi",
    "Mandarin",
    "汉语",
]
CHINESE += ["Simplified Chinese", "Chinese (Simplified, China)", "简体中文", "zh "]


@pytest.mark.parametrize(("names", "code"), [(ENGLISH, "en"), (CHINESE, "zh")])
def test_names_of_a_language_are_its_code(names, code):
    assert {language_code(name) for name in names} == {code}


@pytest.mark.parametrize("name", ["fr", "de", "French", "en/zh", "zh-en", "English and Chinese", "uk", "yue", "de-en"])
def test_other_languages_and_several_stay_themselves(name):
    assert language_code(f" {name} ") == name
    assert text_of(name) == name


def test_every_row_in_english_is_kept_and_the_rest_is_counted(table, caplog):
    names = ["en", "EN", "English", "en-US", "en ", None, math.nan, "zh-CN", "中文", "fr", "Deutsch", "fr"]
    file = table(*({"language": name} for name in names))
    loaded = rows_of(load_vqa_dataset(str(file)))
    assert {row["language"] for row in loaded} == {"en", None}
    assert len(loaded) == 7
    assert "--language en leaves out 5 of 12 rows: zh (2), fr (2), Deutsch (1)." in caplog.text
    assert len(rows_of(load_vqa_dataset(str(file), language="zh"))) == 4
    everything = rows_of(load_vqa_dataset(str(file), language="all"))
    assert {row["language"] for row in everything} == {"en", "zh", "fr", "Deutsch", None}


def test_many_languages_are_not_all_named(table, caplog):
    file = table({"language": "en"}, *({"language": f"{i}" * 100} for i in range(11)))
    with pytest.raises(UserError, match="too few"):
        load_vqa_dataset(str(file))
    assert "leaves out 11 of 12 rows" in caplog.text
    assert "and 1 more." in caplog.text
    assert "0" * 81 not in caplog.text
