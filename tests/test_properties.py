"""Whatever a user's rows, tables, recipes and answers hold: a result of the promised form, or one sentence."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from metrics.report import make_report
from metrics.vqa import all_scores, score_answers, score_each
from modeling.training.arguments import TRAINING_ARGUMENTS
from modeling.training.parser import parse_arguments
from processing.data import SCHEMA, load_vqa_dataset
from processing.errors import UserError
from processing.sources.tables import parse_csv

few = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=12)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)
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


def told(error: UserError) -> str:
    """The sentence of an error, checked to be one for people."""
    text = str(error)
    assert text.strip()
    assert "Traceback" not in text
    assert "\0" not in text
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with six small images."""
    folder = tmp_path_factory.mktemp("rows")
    for i in range(6):
        Image.new("RGB", (20, 16), (40 * i, 20, 90)).save(folder / f"{i}.png")
    return folder


# Rows ----------------------------------------------------------------------------------------------------------------


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
        told(error)
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


# Tables --------------------------------------------------------------------------------------------------------------


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
    assert "rows.csv" in told(raised.value)


# Recipes -------------------------------------------------------------------------------------------------------------

keys = sorted({name for cls in TRAINING_ARGUMENTS.values() for name in cls.__dataclass_fields__})


@few
@given(st.dictionaries(st.sampled_from(keys), anything, max_size=3) | anything)
@example({"model_type": ["vilt"]})
@example({"deepspeed": "nowhere.json"})
@example({"lr_scheduler_kwargs": "no"})
def test_any_recipe_is_taken_or_told_in_a_sentence(folder, recipe):
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    try:
        parse_arguments([str(file), "--output_dir", str(folder / "out")])
    except UserError as error:
        told(error)


@few
@given(st.binary() | st.text(alphabet="ab:[]{}&*!- \n\t'\"").map(str.encode))
def test_any_bytes_as_a_recipe_are_taken_or_told_in_a_sentence(folder, data):
    file = folder / "recipe.yaml"
    file.write_bytes(data)
    try:
        parse_arguments([str(file), "--output_dir", str(folder / "out")])
    except UserError as error:
        told(error)


# Answers -------------------------------------------------------------------------------------------------------------

answers = st.text(alphabet="aeT 左肺.,'-\n", max_size=12) | st.sampled_from(["the", "yes", "Left lung", ""])
questions = st.lists(
    st.tuples(answers, answers, st.sampled_from(["OPEN", "CLOSED", None]), st.sampled_from(["en", "zh", None])),
    min_size=1,
    max_size=12,
)


@few
@given(questions)
def test_figures_of_any_answers_lie_between_0_and_100_and_agree(asked):
    rows = [
        {"answer": gold, "answer_type": kind, "language": language, "image_id": str(i % 3), "row": i, "question": "?"}
        | dict.fromkeys(("content_type", "modality", "location"))
        for i, (gold, _, kind, language) in enumerate(asked)
    ]
    predictions = [prediction for _, prediction, _, _ in asked]
    scores = all_scores(rows, predictions)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores[:, 0] <= scores[:, 1]).all()  # an exact match has an F1 of 1
    figures = score_answers(rows, predictions)
    assert 0 <= figures["exact_match"] <= figures["f1"] <= 100
    report = make_report(score_each(rows, predictions, [0.5] * len(rows)), {}, [], {})
    assert json.loads(json.dumps(report, allow_nan=False)) == report
