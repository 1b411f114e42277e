"""processing.sources.tables: the forms in which programs and spreadsheets write one table."""

import csv
import io
import json
from pathlib import Path

import pytest

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.sources.csv_tables import CsvTable
from tests.processing.conftest import rows_of


@pytest.fixture
def rows(table):
    """Twelve good rows, with a comma, a semicolon, quotes and a line break in their text."""
    file = table(
        {"answer": "1,5 cm"}, {"answer": "left; lower"}, {"question": 'Is it "new"?'}, {"question": "Is\nit?"}
    )
    rows = json.loads(file.read_text())
    file.unlink()
    return rows


def answers_of(file):
    found = {row["image_id"]: (row["question"], row["answer"]) for row in rows_of(load_vqa_dataset(str(file)))}
    return [found[f"{i}.png"] for i in range(len(found))]


def expected(rows):
    return [(" ".join(row["question"].split()), row["answer"]) for row in rows]


def as_csv(rows, **options):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0], **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def by_line(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


JSON_FORMS = {
    "JSON Lines named .json": (".json", by_line),
    "with empty lines and \\r\\n": (".json", lambda rows: "\ufeff" + by_line(rows).replace("\n", "\r\n\r\n")),
    "a list named .jsonl": (".jsonl", lambda rows: json.dumps(rows, indent=2)),
    "JSON Lines": (".jsonl", by_line),
    "ndjson": (".ndjson", by_line),
    "NDJSON": (".NDJSON", by_line),
    "one object after the other": (".json", lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows)),
    "data": (".json", lambda rows: json.dumps({"data": rows})),
    "version and data": (".json", lambda rows: json.dumps({"version": "1.0", "info": {"by": "me"}, "data": rows})),
    "columns of pandas": (
        ".json",
        lambda rows: json.dumps({name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}),
    ),
    "columns as lists": (".json", lambda rows: json.dumps({name: [row[name] for row in rows] for name in rows[0]})),
}


@pytest.mark.parametrize("form", JSON_FORMS)
def test_forms_of_json_give_the_same_rows(rows, tmp_path, form):
    suffix, write = JSON_FORMS[form]
    file = tmp_path / f"t{suffix}"
    file.write_bytes(write(rows).encode())
    assert answers_of(file) == expected(rows)


def test_an_object_of_splits_has_them(rows, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"train": rows[:7], "Val": rows[7:9], "testing": rows[9:]}))
    dataset = load_vqa_dataset(str(tmp_path / "t.json"))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 7, "validation": 2, "test": 3}


CSV_FORMS = {
    "commas": (".csv", "utf-8", {}, ""),
    "German Excel": (".csv", "utf-8-sig", {"delimiter": ";"}, ""),
    "all quoted": (".csv", "utf-8", {"delimiter": ";", "quoting": csv.QUOTE_ALL}, ""),
    "tabs": (".csv", "utf-8", {"delimiter": "\t"}, ""),
    "tsv": (".tsv", "utf-8", {"delimiter": "\t"}, ""),
    "TSV with commas": (".TSV", "utf-8", {}, ""),
    "bars": (".csv", "utf-8", {"delimiter": "|"}, ""),
    "sep=;": (".csv", "utf-8-sig", {"delimiter": ";"}, "sep=;\r\n"),
    '"sep=;"': (".csv", "utf-8", {"delimiter": ";"}, '"sep=;"\n'),
    "SEP=;, old Mac": (
        ".csv",
        "utf-8",
        {"delimiter": ";", "lineterminator": "\r", "quoting": csv.QUOTE_ALL},
        "SEP=;\r",
    ),
    "sep=:": (".csv", "utf-8", {"delimiter": ":"}, "sep=:\n"),
    "sep=tab": (".csv", "utf-8", {"delimiter": "\t"}, "sep=\t\r\n"),
    "Unicode text of Excel": (".csv", "utf-16", {"delimiter": "\t"}, ""),
    "UTF-16, big end first": (".tsv", "utf-16-be", {"delimiter": "\t"}, "\ufeff"),
    "UTF-32": (".csv", "utf-32", {}, ""),
    "Unix lines": (".csv", "utf-8", {"lineterminator": "\n"}, ""),
}


@pytest.mark.parametrize("form", CSV_FORMS)
def test_forms_of_csv_give_the_same_rows(rows, tmp_path, form):
    suffix, encoding, options, before = CSV_FORMS[form]
    file = tmp_path / f"t{suffix}"
    file.write_bytes((before + as_csv(rows, **options)).encode(encoding))
    assert answers_of(file) == expected(rows)


def test_a_comma_in_the_header_does_not_hide_semicolons(rows, tmp_path):
    text = as_csv([row | {"note, long": "x"} for row in rows], delimiter=";").replace('"note, long"', "note, long")
    (tmp_path / "t.csv").write_text(text)
    assert answers_of(tmp_path / "t.csv") == expected(rows)


def test_columns_of_other_names_are_mapped_in_every_form(rows, tmp_path):
    (tmp_path / "t.csv").write_text(as_csv(rows, delimiter=";").replace("image;question", "Bild;Frage", 1))
    dataset = load_vqa_dataset(str(tmp_path / "t.csv"), column_names=["image=Bild", "question=Frage"])
    assert len(rows_of(dataset)) == 12


def test_names_of_columns_may_differ_in_case_and_white_space(rows, tmp_path):
    (tmp_path / "t.csv").write_text(as_csv(rows).replace("image,question,answer", "Image , QUESTION, Answer", 1))
    assert answers_of(tmp_path / "t.csv") == expected(rows)
    (tmp_path / "t.csv").write_text("IMAGE,Image,question,answer\na.png,b.png,q,yes\n")
    with pytest.raises(UserError, match="the columns 'IMAGE' and 'Image' are nearly the same; keep one"):
        load_vqa_dataset(str(tmp_path / "t.csv"))


def test_empty_columns_at_the_right_are_no_columns(rows, tmp_path):
    (tmp_path / "t.csv").write_text("image;question;answer;;\n" + "".join(f"{i}.png;q;yes;;\n" for i in range(12)))
    assert answers_of(tmp_path / "t.csv") == [("q", "yes")] * 12


def test_splits_may_lie_in_files_of_any_form(rows, tmp_path):
    (tmp_path / "TRAIN.TSV").write_text(as_csv(rows[:8], delimiter="\t"))
    (tmp_path / "test.ndjson").write_text(by_line(rows[8:]))
    dataset = load_vqa_dataset(str(tmp_path))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 7, "validation": 1, "test": 4}


ONE = '"image": "0.png", "question": "q"'
BAD_FILES = {
    "answers.csv": ("image,question,answer,answer\n0.png,q,yes,no\n", "2 columns are named 'answer'; give each"),
    "spaces.csv": ("image,question,answer,answer \n0.png,q,yes,no\n", "2 columns are named 'answer'"),
    "notes.csv": ("image;question;answer;note;note\n0.png;q;yes;a;b\n", "2 columns are named 'note'"),
    "nameless.csv": ("image,question,answer,,\n0.png,q,yes,a,b\n", "2 columns have no name; give each its own name"),
    "answers.jsonl": (f'{{{ONE}, "answer": "yes", "answer": "no"}}', "row 1: two fields are named 'answer'; keep one"),
    "second.json": (
        f'[{{{ONE}, "answer": "yes"}}, {{{ONE}, "answer": "yes", "answer": "no"}}]',
        "second.json row 2: two fields are named 'answer'",
    ),
    "twice.json": (f'{{"data": [{{{ONE}}}], "data": [{{{ONE}}}]}}', "two fields are named 'data'; keep one of them"),
    "coco.json": (
        '{"images": [{"id": 1}], "annotations": [{"id": 1}]}',
        "got dict .of 'images', 'annotations'.; save",
    ),
    "scalar.json": ("5", "expected a JSON list of rows, got int"),
    "text.json": ('"rows"', "expected a JSON list of rows, got str"),
    "blank.json": (" \n", "it is empty; write the rows into it"),
    "blank.jsonl": ("", "it is empty; write the rows into it"),
    "line.json": (f'{{{ONE}, "answer": "yes"}}\n{{oops}}\n', "not valid JSON at line 2, column 2"),
    "latin.csv": (
        "image;question;answer\n0.png;q;é\n".encode("cp1252"),
        "not UTF-8 text .byte 30.; save it as UTF-8, in",
    ),
    "latin.json": (f'[{{{ONE}, "answer": "é"}}]'.encode("cp1252"), "not UTF-8 text .byte 48.; save it as UTF-8[.]"),
    "no-mark.csv": ("image\tquestion\tanswer\n".encode("utf-16-le"), "perhaps UTF-16, as it holds the character NUL"),
    "odd.tsv": (b"\xff\xfei\0m", "not UTF-16 text .byte 4"),
    "book.csv": (b"PK\x03\x04\x14\0", "an Excel workbook or a zip file and no text; save the table as CSV UTF-8"),
    "book.xlsx": (b"PK\x03\x04\x14\0", "unknown kind of table; save it as a .json, .jsonl, .csv or .tsv file"),
    "rows.csv": (b"\x1f\x8b\x08\0", "compressed by gzip; unpack it first"),
    "short.csv": (
        "image;question;answer\n0.png;a; b\n0.png;q\n",
        "row 2: 2 fields where the header has 3; fill in those that are missing",
    ),
    "short.tsv": (
        "image\tquestion\tanswer\n0.png\n",
        "row 1: 1 fields where the header has 3; fill in those that are missing",
    ),
    "quote.tsv": (
        'image\tquestion\tanswer\n0.png\t"q\tyes\n',
        "quote.tsv line 2: a quote opens in this row and is never",
    ),
    "json.csv": ('[\n {"image": "0.png"}]', "JSON and not CSV; name it .json"),
    "lines.tsv": ('{"image": "0.png"}\n', "JSON and not CSV; name it .json"),
    "csv.json": (
        "image,question,answer\n0.png,q,yes\n",
        "not valid JSON at line 1, column 1 .*if it is a CSV file, name it",
    ),
    "path.json": ('[{"image": "images\\00.png"}]', r"Invalid .+escape.*; write / instead of . in paths"),
    "after.csv": (
        'sep=;\nimage;question;answer\n0.png;"q;yes\n',
        "after.csv line 3: a quote opens in this row and is never",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_table_that_is_not_certain_is_one_clear_sentence(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        load_vqa_dataset(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_an_object_in_a_field_may_repeat_a_name_that_nobody_reads(rows, tmp_path):
    (tmp_path / "t.jsonl").write_text(by_line(rows).replace('"image":', '"meta": {"a": 1, "a": 2}, "image":'))
    assert answers_of(tmp_path / "t.jsonl") == expected(rows)


def test_a_header_of_one_column_is_not_cut():
    assert list(CsvTable("question\nIs it; or not | so?\n", Path("q.csv"))) == [{"question": "Is it; or not | so?"}]
    assert list(CsvTable("a;b\tc,d;e\n1,2\n", Path("q.csv"))) == [{"a;b\tc": "1", "d;e": "2"}]
