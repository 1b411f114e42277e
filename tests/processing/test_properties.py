"""Whatever a user's rows and tables hold: clean splits, or one sentence."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from processing.data import SCHEMA, load_vqa_dataset
from processing.errors import UserError
from processing.sources.csv_tables import parse_csv
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
        "drop_leaking_rows": drop,
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
    if header[0] == header[1]:
        header[1] += "2"
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rest])
    assert [list(row.values()) for row in parse_csv(text.getvalue(), Path("t.csv"))] == rest


@few
@given(st.binary() | st.text(alphabet='ab,"\n\r;\0').map(str.encode))
def test_any_bytes_as_csv_are_rows_or_a_sentence(folder, data):
    file = folder / "rows.csv"
    file.write_bytes(data)
    with pytest.raises(UserError) as raised:  # none of these has an image column
        load_vqa_dataset(str(file))
    assert "rows.csv" in check_message(raised.value)
