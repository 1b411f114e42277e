"""Tables that are nearly right: names in another case, empty splits, blank lines, numbers beyond all bounds."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from processing.answers import answer_identity
from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.sources.csv_tables import CsvTable
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
    assert list(CsvTable(text, Path("t.csv"))) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_row_with_fewer_fields_gets_a_mend_that_works():
    with pytest.raises(UserError, match="row 1: 1 fields where the header has 2; fill in those that are missing"):
        list(CsvTable("a,b\n1\n", Path("t.csv")))


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


def read(folder, text, name="rows.csv", **options):
    (folder / name).write_text(text, encoding="utf-8")
    return [row for part in load_vqa_dataset(str(folder / name), **options).values() for row in part]


def refusal(folder, text, name="rows.csv", **options) -> str:
    with pytest.raises(UserError) as error:
        read(folder, text, name, **options)
    return str(error.value)


CELLS = [
    "['{}.png']",
    '["{}.png"]',
    "{{'bytes': None, 'path': '{}.png'}}",
    '{{"bytes": null, "path": "{}.png"}}',
]


@pytest.mark.parametrize("cell", CELLS)
def test_path_in_a_list_or_an_object_as_datasets_and_pandas_write_it(folder, cell):
    cells = [cell.format(n) for n in range(12)]
    quoted = [cell.replace('"', '""') for cell in cells]
    text = "image,question,answer\n" + "".join(f'"{cell}",Is it?,yes\n' for cell in quoted)
    assert len(read(folder, text)) == 12
    if cell.startswith(('["', '{{"')):
        lines = [f'{{"image": {cell}, "question": "Is it?", "answer": "yes"}}' for cell in cells]
        assert {row["image_id"] for row in read(folder, "\n".join(lines), "rows.jsonl")} == {
            f"{n}.png" for n in range(12)
        }


def test_columns_of_other_spaces_and_hyphens_are_found(folder):
    lines = [f"{n}.png,Is it?,yes,q{n},Closed-ended,CT" for n in range(12)]
    found = read(folder, "\n".join(["Image,Question,Answer,Question ID,Answer-Type,\ufeffmodality", *lines]))
    assert {(row["answer_type"], row["modality"]) for row in found} == {("CLOSED", "CT")}
    assert {row["question_id"] for row in found} == {f"q{n}" for n in range(12)}


def test_words_for_nothing_are_missing_in_facts_and_text_in_answers(folder):
    words = ["NA", "n/a", "NULL", "None", "nan", "<NA>", "#N/A", "NaN"]
    lines = [f"{n}.png,Is it?,{words[n % 8]},{words[n % 8]},{words[n % 8]},{words[n % 8]}" for n in range(12)]
    found = read(folder, "\n".join(["image,question,answer,language,question_id,modality", *lines]))
    assert sorted(row["answer"] for row in found) == sorted(words[n % 8] for n in range(12))
    assert {(row["language"], row["question_id"], row["modality"]) for row in found} == {(None, None, None)}


def test_row_names_of_r_are_a_column(folder):
    lines = [f'"{n + 1}","{n}.png","Is it?","yes"' for n in range(12)]
    assert len(read(folder, "\n".join(['"image","question","answer"', *lines]))) == 12


def test_delimiter_is_the_one_that_fits_all_rows(folder):
    lines = [f"{n}.png;Liegt etwas vor, und wo?;ja" for n in range(12)]
    names = ["image=Bild", "question=Frage", "answer=Antwort (ja, nein, unklar)"]
    found = read(folder, "\n".join(["Bild;Frage;Antwort (ja, nein, unklar)", *lines]), column_names=names)
    assert {row["answer"] for row in found} == {"ja"}


def test_fields_that_hold_whole_rows_are_told(folder, caplog):
    lines = [f"{n}.png,Is it?,{n} mm" for n in range(12)]
    lines[3], lines[7] = '3.png,Is it?,"3 mm', '7.png,Is it?,7"'
    assert len(read(folder, "\n".join(["image,question,answer", *lines]))) == 8
    assert "rows.csv line 5: a field in quotes holds what look like whole rows; if they are rows" in caplog.text
    caplog.clear()
    lines = [f'{n}.png,"Is it?\nSay yes, or no\nand why",yes' for n in range(12)]
    assert len(read(folder, "\n".join(["image,question,answer", *lines]))) == 12
    assert "whole rows" not in caplog.text


def test_one_object_and_an_empty_split_are_taken(folder):
    (folder / "test.csv").write_text("image,question,answer\n")
    (folder / "validation.json").write_text(json.dumps(rows([11])[0]))
    (folder / "train.json").write_text(json.dumps(rows(range(9))))
    assert sizes(folder) == {"train": 9, "validation": 1}


def test_texts_guarded_for_a_spreadsheet_are_read_as_text(folder):
    cells = ['="1-2"', '"=""007"""', "'-a", "'=5", "'5", "-5"]
    lines = [f"{n}.png,Is it?,{cells[n % 6]}" for n in range(12)]
    found = {row["answer"] for row in read(folder, "\n".join(["image,question,answer", *lines]))}
    assert found == {"1-2", "007", "-a", "=5", "'5", "-5"}


def test_lists_of_pandas_in_cells_are_lists(folder):
    lines = [f"{n}.png,Is it?,\"['>1 cm', '<1 cm', '>1 cm']\",\"['<1 cm', '>1 cm']\"" for n in range(12)]
    [first, *_] = read(folder, "\n".join(["image,question,answer,options", *lines]))
    assert (first["answer"], first["answers"]) == (">1 cm", [">1 cm", "<1 cm", ">1 cm"])
    assert first["choices"] == ["<1 cm", ">1 cm"]
    lines = [f"{n}.png,Is it?,[1]" for n in range(12)]
    assert read(folder, "\n".join(["image,question,answer", *lines]))[0]["answer"] == "[1]"


def test_errors_of_a_spreadsheet_are_no_answers(folder, caplog):
    lines = [f"{n}.png,Is it?,{'#NAME?' if n < 2 else 'yes'}" for n in range(12)]
    assert len(read(folder, "\n".join(["image,question,answer", *lines]))) == 10
    assert "2 x a spreadsheet's error instead of text: rows.csv row 1 (answer: #NAME?; mend the cell's" in caplog.text


@pytest.mark.parametrize(("table", "found"), [("qa.csv", None), ("masks.csv", "masks")])
def test_images_of_one_name_in_two_folders_are_not_taken_at_random(folder, tmp_path, table, found):
    root = tmp_path / "set"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
        for number in range(12):
            shutil.copy(folder / f"{number}.png", root / name)
    (root / table).write_text("image,question,answer\n" + "".join(f"{n}.png,Is it?,yes\n" for n in range(12)))
    if found is None:
        with pytest.raises(
            UserError, match="'images' and 'masks' hold images of the same names; choose one by --image"
        ):
            load_vqa_dataset(str(root))
        assert len(read(root, (root / table).read_text(), table, image_folder=str(root / "masks"))) == 12
    else:
        rows = [row for part in load_vqa_dataset(str(root)).values() for row in part]
        assert {row["image_id"].split("/")[0] for row in rows} == {found}


def test_column_name_in_another_form_of_unicode_is_found(folder):
    lines = [f"{n}.png,Is it?,oui" for n in range(12)]
    text = "\n".join([unicodedata.normalize("NFD", "image,question,R\u00e9ponse"), *lines])
    assert len(read(folder, text, column_names=["answer=R\u00e9ponse"])) == 12


REFUSALS = {
    "a missing file is no Hub id": (None, "data/trian.csv", "there is no such file or folder"),
    "nested records": (
        '[{"image": "0.png", "conversations": [{"from": "human", "value": "Is it?"}]}]',
        "rows.json",
        "write one flat object a row, with the fields image, question and answer.",
    ),
    "another delimiter": (
        "image^question^answer\n0.png^Is it?^yes\n",
        "rows.csv",
        "save the table with commas",
    ),
    "a title": (
        "Data,\nimage,question,answer\n0.png,Is it?,yes\n",
        "rows.csv",
        "remove the lines above the header",
    ),
    "JSON": ('[{"image": "0.png"}]', "rows.csv", "name it .json, or save it as CSV"),
    "a quote": ('image,question,answer\n0.png,Is it?,"5\n1.png,a,b\n', "rows.csv", "rows.csv line 2: a quote opens"),
    "a language": (
        "image,question,answer,language\n0.png,Ist es?,ja,Deutsch\n",
        "rows.csv",
        "the data set has Deutsch (1 rows); add --language all.",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_mend_of_a_refusal_is_the_one_that_works(folder, monkeypatch, name):
    text, file, mend = REFUSALS[name]
    if text is None:
        monkeypatch.chdir(folder)
        with pytest.raises(UserError, match=mend):
            load_vqa_dataset(file)
    else:
        assert mend in refusal(folder, text, file)
