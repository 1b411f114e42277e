"""Whatever a user's rows and tables hold: clean splits, or one sentence."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from processing.answers import answer_identity
from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.good_rows import SCHEMA
from processing.image_paths import ImageFolder
from processing.problems import Problem
from processing.sources.csv_tables import CsvTable
from processing.storage import csv_text
from tests.support.strategies import anything, check_message, few

names = [*(f"{i}.png" for i in range(6)), "nowhere.png", "../0.png", "/etc/passwd", ".", "0.png\0", "a\nb.png"]
images = st.sampled_from(names[:6]) | st.sampled_from(names) | anything
splits = st.sampled_from(["train", "VAL", "dev", "testing", " test "]) | anything
rows = st.fixed_dictionaries(
    {"image": images, "question": st.sampled_from(["Is it?", "左肺?"]) | anything},
    optional={
        "answer": st.sampled_from(["yes", "Left Lung", "", 3, 2.5]) | anything,
        "split": splits,
        "language": st.sampled_from(["en", "zh"]) | anything,
        **dict.fromkeys(("question_id", "image_id", "answer_type", "modality", "content_type", "location"), anything),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with six small images."""
    folder = tmp_path_factory.mktemp("rows")
    for i in range(6):
        Image.new("RGB", (20, 16), (40 * i, 20, 90)).save(folder / f"{i}.png")
    return folder


@few
@given(st.lists(rows, max_size=14) | anything, st.sampled_from(["en", "all"]), st.booleans(), st.booleans())
def test_rows_of_json_become_clean_splits_or_a_sentence(folder, table, language, no_answer, drop):
    file = folder / "rows.json"
    file.write_text(json.dumps(table), encoding="utf-8")
    options = {
        "skipped_rows_file": folder / "skipped.jsonl",
        "language": language,
        "allow_no_answer": no_answer,
        "leaks": "drop" if drop else "refuse",
    }
    try:
        dataset = load_vqa_dataset(str(file), **options)
    except UserError as error:
        check_message(error)
        return
    seen: dict[str, str] = {}
    for split, members in dataset.items():
        assert members.features.keys() == SCHEMA.keys()
        for row in members:
            assert Path(row["image"]).parent == folder
            assert seen.setdefault(row["image"], split) == split
            assert row["question"].strip() == row["question"] != ""
            assert row["answer"] or no_answer
            assert row["answer_type"] in (None, "OPEN", "CLOSED")
    count = sum(map(len, dataset.values()))
    assert 0 < count <= len(table)


@few
@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), min_size=1, max_size=6))
def test_what_a_csv_writer_writes_is_read_back(table):
    header, *rest = table
    if header[0].strip() == header[1].strip():
        header[1] += "2"
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rest])
    assert [list(row.values()) for row in list(CsvTable(text.getvalue(), Path("t.csv")))] == rest


@few
@given(st.binary() | st.text(alphabet='ab,"\n\r;\0').map(str.encode))
def test_any_bytes_as_csv_are_rows_or_a_sentence(folder, data):
    file = folder / "rows.csv"
    file.write_bytes(data)
    with pytest.raises(UserError) as raised:  # none of these has an image column
        load_vqa_dataset(str(file))
    assert "rows.csv" in check_message(raised.value)


parts = st.sampled_from(["0.png", "0.PNG", " 0.png", "..", ".", "", "sub", "SUB", "up", "UP", "C:", "~", "/", "\0"])
paths = st.lists(parts | st.text(max_size=3), max_size=5)


@few
@given(paths, st.sampled_from(["/", "\\"]))
def test_whatever_a_name_says_its_file_lies_in_the_folder(folder, parts, separator):
    if not (folder / "up").is_symlink():
        (folder / "up").symlink_to(folder.parent)
        (folder / "sub").mkdir()
        Image.new("RGB", (9, 9)).save(folder / "sub" / "0.png")
        Image.new("RGB", (9, 9)).save(folder.parent / "0.png")
    found = ImageFolder(folder).find(separator.join(parts))
    if isinstance(found, Problem):
        assert len(found.detail) < 250
        assert "\0" not in found.detail
    else:
        assert not Path(found).is_absolute()
        assert (folder / found).resolve().is_relative_to(folder.resolve())
        assert (folder / found).exists()


@few
@given(st.lists(st.text(alphabet="=+-@\t\r\n1.5e,;\"' a＝") | st.text(), min_size=1, max_size=5))  # noqa: RUF001
def test_no_cell_of_a_written_csv_begins_like_a_formula(cells):
    columns = [str(i) for i in range(len(cells))]
    text = csv_text(columns, [dict(zip(columns, cells, strict=True))])
    [_, row] = csv.reader(io.StringIO(text, newline=""))
    for cell, written in zip(cells, row, strict=True):
        assert written in (cell, f"'{cell}")
        if written[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "＝"):  # noqa: RUF001
            assert math.isfinite(float(written))


@few
@given(st.text(), st.text())
def test_identity_of_answers_is_stable_and_counts_every_digit_and_sign(one, other):
    assert answer_identity(answer_identity(one)) == answer_identity(one)
    kept = [[c for c in answer_identity(text) if c.isdigit() or c in "+-<>=%/"] for text in (one, other)]
    if answer_identity(one) == answer_identity(other):
        assert kept[0] == kept[1]
