"""Data sets with options, in the layouts of PMC-VQA and OmniMedVQA, are trained on, evaluated, reported and asked."""

import csv
import json
from pathlib import Path

import pytest

import train
from modeling.asking.command_line import main as ask
from modeling.asking.predictor import Predictor
from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.support.hub_data_sets import omni_med_vqa, pmc_vqa
from tests.support.tiny_blip2 import tiny_blip2
from tests.support.tiny_vlms import save_tiny_vlm

COMMON = ["--max_steps", "3", "--disable_tqdm", "True", "--fp16", "False", "--use_cpu", "True", "--logging_steps", "1"]
COMMON += ["--per_device_eval_batch_size", "3"]


def write(files, folder) -> Path:
    for name, content in files.items():
        if not name.endswith("_2.csv"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


def predictions(run, split):
    return [json.loads(line) for line in (run / f"predictions_{split}.jsonl").read_text().splitlines()]


def results(run):
    return json.loads((run / "all_results.json").read_text())


def test_vilt_learns_from_pmc_vqa_and_is_judged_by_choice_accuracy(tmp_path, capsys):
    """Two or one of the four options of a test row are answers of training rows, of the last row only a wrong one."""
    files = pmc_vqa().files
    files["test.csv"] = files["test.csv"].replace(b"Yes", b"hyaline cartilage")
    data = write(files, tmp_path / "data")
    best = ["--metric_for_best_model", "choice_accuracy", "--load_best_model_at_end", "True"]
    best += ["--eval_strategy", "steps", "--eval_steps", "3", "--save_strategy", "steps", "--save_steps", "3"]
    flags = ["--model_name_or_path", "scratch:tiny", "--do_predict", "True", *best]
    run = tmp_path / "run"
    train.main([*COMMON, *flags, "--dataset", str(data), "--output_dir", str(run)])
    assert "CLOSED EM  choice" in capsys.readouterr().out
    dataset = load_vqa_dataset(str(data))
    known = set(dataset["train"]["answer"])
    rows, lines = dataset["test"], predictions(run, "test")
    assert [len(known & set(row["choices"])) for row in rows] == [2, 2, 1, 1]
    for row, line in zip(rows, lines, strict=True):
        assert line["prediction"] in known & set(row["choices"])
        assert line["answer"] == row["answer"] in row["choices"]
    assert lines[3]["prediction"] == "2"
    right = [line["prediction"] == line["answer"] for line in lines]
    figures = results(run)
    assert figures["test_choice_accuracy"] == pytest.approx(100 * sum(right) / 4)
    assert figures["test_choice_total"] == 4
    assert figures["test_choice_out_of_vocabulary"] == 1
    report = json.loads((run / "report" / "report.json").read_text())["test"]["choices"]
    assert [entry["value"] for entry in report] == ["all", "A", "B", "C", "D"]
    assert report[0]["out_of_vocabulary"] == 1
    value = f"{figures['test_choice_accuracy']:.2f}"
    assert f"| test | Choice accuracy | {value} | - | 4 | - |" in (run / "README.md").read_text()
    answers = Predictor.from_pretrained(run, dtype="float32").answer_batch(
        list(rows["image"]), list(rows["question"]), 1, list(rows["choices"])
    )
    assert [answer.answer for answer in answers] == [line["prediction"] for line in lines]
    expected = [line["confidence"] for line in lines]
    assert [answer.confidence for answer in answers] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("family", ["blip2", "vlm"])
def test_models_that_write_answer_omnimedvqa_among_its_options_and_so_does_the_command_line(tmp_path, capsys, family):
    """The rows of four options have two right ones here, as if two people had answered."""
    files = omni_med_vqa()
    entries = json.loads(files["ACRIMA.json"])
    for entry in entries:
        if "option_D" in entry:
            entry["gt_answer"] = [entry["gt_answer"], "A" if entry["gt_answer"] == "CT" else "CT", entry["gt_answer"]]
    files["ACRIMA.json"] = json.dumps(entries).encode()
    data = write(files, tmp_path / "data")
    dataset = load_vqa_dataset(str(data / "ACRIMA.json"))
    base = tmp_path / "base"
    base = tiny_blip2("opt", dataset, base) if family == "blip2" else save_tiny_vlm("llava", base)
    flags = [
        "--model_type",
        family,
        "--model_name_or_path",
        str(base),
        "--do_predict",
        "True",
        "--eval_strategy",
        "no",
    ]
    run = tmp_path / "run"
    train.main([*COMMON, *flags, "--dataset", str(data / "ACRIMA.json"), "--output_dir", str(run)])
    rows, lines = dataset["test"], predictions(run, "test")
    assert {len(row["choices"]) for row in rows} == {2, 4}
    assert all(line["prediction"] in row["choices"] for row, line in zip(rows, lines, strict=True))
    for row, line in zip(rows, lines, strict=True):
        other = "Fundus photography" if row["answer"] == "CT" else "CT"
        assert row["answers"] == ([row["answer"], other, row["answer"]] if len(row["choices"]) == 4 else None)
        assert line.get("answers") == row["answers"]
    right = [line["prediction"] in line.get("answers", [line["answer"]]) for line in lines]
    assert results(run)["test_choice_accuracy"] == pytest.approx(100 * sum(right) / len(rows))
    assert "test_choice_out_of_vocabulary" not in results(run)
    capsys.readouterr()

    with open(data / "asked.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "question", *(f"option_{letter}" for letter in "ABCD")])
        for row in rows:
            writer.writerow([row["image_id"], row["question"], *row["choices"]] + [""] * (4 - len(row["choices"])))
    model = [str(run), "--dtype", "float32"]
    ask([*model, "--csv", str(data / "asked.csv"), "--out", str(data / "out.csv")])
    with open(data / "out.csv", newline="", encoding="utf-8") as file:
        answered = list(csv.DictReader(file))
    assert [row["prediction"] for row in answered] == [line["prediction"] for line in lines]
    capsys.readouterr()
    ask([*model, "--image", rows[0]["image"], "--question", rows[0]["question"], "--choices", *rows[0]["choices"]])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(f"{lines[0]['prediction']}  (confidence {100 * lines[0]['confidence']:.0f} %)")
    assert len(shown) == len(rows[0]["choices"])


@pytest.mark.parametrize(
    "choices", [["lung"], ["lung", "The lung."], "lung", ["A: lung", "B: "], ["lung", 2]], ids=str
)
def test_fewer_than_two_choices_are_a_sentence(choices):
    with pytest.raises(UserError, match="are not two or more different texts; give a list of them"):
        Predictor(None).answer("x.png", "Which?", choices=choices)


def test_metric_of_choices_needs_rows_with_choices(phantoms, tmp_path):
    flags = ["--model_name_or_path", "scratch:tiny", "--metric_for_best_model", "choice_accuracy"]
    flags += ["--load_best_model_at_end", "True", "--eval_strategy", "epoch", "--save_strategy", "epoch"]
    with pytest.raises(UserError, match="choice_accuracy: no validation row is of this kind; choose from exact_match"):
        train.main([*flags, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "run")])
