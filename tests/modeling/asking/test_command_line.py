"""python -m modeling.predictor: one image or a table of questions."""

import csv
import json
import runpy
import shutil
import sys

import pytest

from modeling.asking.command_line import main
from modeling.asking.tables import ANSWER_COLUMNS
from processing.errors import UserError

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models


def test_error_of_the_command_line_is_one_line(hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sys, "argv", ["predictor", "user/unknown", "--image", "x.png", "--question", "CT?"])
    with pytest.raises(SystemExit, match="^1$"):
        runpy.run_module("modeling.predictor", run_name="__main__")
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: user/unknown: not in the cache, and HF_HUB_OFFLINE is set; load it once with")
    assert hub.requests == []


def test_command_line_prints_answers_and_alternatives(runs, vilt, images, capsys):
    question = "Is this a CT scan?"
    main([str(runs("vilt")), "--image", images[0], "--question", question, "--top_k", "3", "--dtype", "float32"])
    lines = capsys.readouterr().out.splitlines()
    answer = vilt.answer(images[0], question, top_k=3)
    assert lines[0] == f"{answer.answer}  (confidence {round(answer.confidence * 100)} %)"
    others, seen = lines[1 : 1 + len(answer.alternatives)], lines[1 + len(answer.alternatives) :]
    assert [line.strip().split("  ")[0] for line in others] == [other.answer for other in answer.alternatives]
    assert not answer.evidence.contradicts, "which would have a line of its own"
    boxes = [f"  seen: {box.label} ({box.probability * 100:.0f} %), " for box in answer.evidence.boxes]
    assert [line[: len(box)] for line, box in zip(seen, boxes, strict=True)] == boxes


def test_command_line_says_which_question_is_unlike_the_training(runs, images, capsys):
    asked = ["--question", "Is this a CT scan?", "--question", "Which drug should I give?", "--top_k", "1"]
    main([str(runs("vilt")), "--image", images[0], *asked])
    lines = capsys.readouterr().out.splitlines()
    note = "  the model was trained on few or no questions like this one; its answer may be wrong"
    assert [line for line in lines if "trained" in line] == [note]
    assert lines.index(note) == lines.index("Which drug should I give?") + 2  # after the answer


@pytest.mark.parametrize("name", ["vilt", "smolvlm"])
def test_table_is_answered_and_bad_rows_say_why(runs, images, trained_predictor, tmp_path, capsys, name):
    for number in range(2):
        shutil.copy(images[number], tmp_path / f"{number}.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    asked_and_reasons = [  # image, question and note, and why there is no answer
        (("0.jpg", "Is this a CT scan?", "a, b"), None),
        (("gone.jpg", "Is this a CT scan?", ""), "does not exist"),
        ((f"../{tmp_path.name}/../secret.jpg", "Is this a CT scan?", ""), "leaves the folder"),
        (("1.jpg", "Which organ is shown?", ""), None),
        (("bad.jpg", "Which organ is shown?", ""), "not a known image"),
        (("", "Which organ is shown?", ""), "is empty"),
        (("0.jpg", " ", ""), "question is empty"),
        (("0.jpg", "Which drug should I give?", "é"), None),
    ]
    asked, reasons = zip(*asked_and_reasons, strict=True)
    with open(tmp_path / "in.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "question", "note"), *asked])
    out = tmp_path / "new" / "out.csv"
    main([str(runs(name)), "--csv", str(tmp_path / "in.csv"), "--out", str(out), "--dtype", "float32"])
    assert "5 rows have an error" in capsys.readouterr().out
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "question", "note", *ANSWER_COLUMNS]
    assert [row["unlike_training"] for row in rows] == [""] * 7 + ["yes"]
    assert [(row["image"], row["question"], row["note"]) for row in rows] == list(asked)
    for row, reason in zip(rows, reasons, strict=True):
        if reason is None:
            assert row["error"] == ""
        else:
            assert reason in row["error"]
    for index in (0, 3, 7):
        answer = trained_predictor(name).answer(tmp_path / rows[index]["image"], rows[index]["question"])
        assert rows[index]["prediction"] == answer.answer
        assert float(rows[index]["confidence"]) == pytest.approx(answer.confidence, abs=1e-4)
        assert [box["label"] for box in json.loads(rows[index]["evidence"])] == [
            box.label for box in answer.evidence.boxes
        ]
    assert not [path for path in out.parent.iterdir() if path != out]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,text\na.png,b\n", "no column 'question' .found: 'image', 'text'.; name yours by --column_names"),
        ("", "there is no row; write a line for each question"),
        (
            "image,question,prediction\na.png,b,c\n",
            "it has a column prediction already, which the answers need; rename it",
        ),
        ("image,question\na.png\n", "1 fields where the header has 2"),
    ],
)
def test_table_that_can_not_be_read_is_refused(runs, tmp_path, content, message):
    (tmp_path / "in.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        main([str(runs("vilt")), "--csv", str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv")])
    assert not (tmp_path / "out.csv").exists()


def test_names_of_columns_without_a_table_are_refused():
    with pytest.raises(UserError, match="^--column_names is for a --csv; see --help.$"):
        main(["model", "--image", "x.png", "--question", "CT?", "--column_names", "image=scan"])


@pytest.mark.parametrize(
    "flags", [[], ["--image", "x"], ["--csv", "x"], ["--question", "x", "--csv", "a", "--out", "b"]]
)
def test_incomplete_command_line_shows_what_to_give(flags):
    with pytest.raises(UserError, match="^Give --image and --question, or --csv and --out; see --help.$"):
        main(["model", *flags])
