"""train.py as a user runs it, on a tiny model and a small phantom set."""

import csv
import json
import logging
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import train
from modeling.training.checkpoints import Interrupted
from modeling.vilt.trainer import ViltTrainer
from processing.errors import UserError, run_command
from tests.support.app_server import ROOT
from tests.support.killed import Killed

pytestmark = pytest.mark.xdist_group("train")  # one worker trains `trained`

QUICK = ["--model_name_or_path", "scratch:tiny", "--num_train_epochs", "2", "--per_device_train_batch_size", "16"]
QUICK += ["--learning_rate", "3e-3", "--logging_steps", "5", "--disable_tqdm", "True"]


def run(*flags: object) -> None:
    """A run that takes seconds."""
    train.main([*QUICK, *map(str, flags)])


def results(folder: Path) -> dict:
    return json.loads((folder / "all_results.json").read_text())


def predictions(folder: Path, split: str = "validation") -> list[dict]:
    return [json.loads(line) for line in (folder / f"predictions_{split}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(phantoms, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run("--dataset", phantoms, "--output_dir", folder, "--do_predict")
    return folder


def test_run_leaves_everything_that_a_reader_needs(trained):
    assert {path.name for path in trained.iterdir()} >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "processor_config.json",
        "question_words.json",
        "all_results.json",
        "trainer_state.json",
        "loss.png",
        "metrics.png",
        "predictions_validation.jsonl",
        "predictions_test.jsonl",
        "report",
    }
    assert {path.name for path in (trained / "report").iterdir()} == {
        "report.md",
        "report.json",
        "errors.html",
        "reliability_validation.png",
        "reliability_test.png",
        "risk_validation.png",
        "risk_test.png",
        "pointing_validation.jpg",
        "pointing_test.jpg",
    }
    report = json.loads((trained / "report" / "report.json").read_text())
    for split, prefix in (("validation", "eval"), ("test", "test")):
        everything = report[split]["figures"][0]
        assert everything["exact_match"][0] == pytest.approx(results(trained)[f"{prefix}_exact_match"], abs=0.01)
        baseline = everything["baselines"]["most frequent answer to the question"]
        assert baseline == pytest.approx(results(trained)[f"{prefix}_majority_exact_match"], abs=0.01)
        assert report[split]["wrong"] == sum(row["prediction"] != row["answer"] for row in predictions(trained, split))
        assert 0 < report[split]["grounding"][0]["questions"] < everything["questions"]


def test_figures_can_be_recomputed_from_the_predictions(trained, phantoms):
    for split, file, prefix in (("validation", "validate.json", "eval"), ("test", "test.json", "test")):
        rows = predictions(trained, split)
        expected = json.loads((phantoms / file).read_text())
        assert [row["id"] for row in rows] == [row["qid"] for row in expected]
        assert [row["answer"] for row in rows] == [row["answer"] for row in expected]
        columns = {
            "id",
            "image_id",
            "question",
            "answer",
            "answer_type",
            "language",
            "overlap",
            "prediction",
            "confidence",
            "evidence",
            "evidence_contradicts",
        }
        assert rows[0].keys() == columns
        assert [row["answer_type"] for row in rows] == [row["answer_type"] for row in expected]
        exact = 100 * sum(row["answer"].lower() == row["prediction"].lower() for row in rows) / len(rows)
        assert results(trained)[f"{prefix}_exact_match"] == pytest.approx(exact)
        assert results(trained)[f"{prefix}_total"] == len(rows)
        assert all(0 <= row["confidence"] <= 1 for row in rows)


def test_baseline_stands_beside_the_figures(trained):
    figures = results(trained)
    assert figures["eval_majority_exact_match"] > 20
    assert {"eval_open_exact_match", "eval_closed_exact_match", "eval_f1", "train_loss"} <= figures.keys()


def test_training_lowers_the_loss(trained):
    history = json.loads((trained / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0] / 2


def test_evaluating_the_folder_again_gives_the_same_figures(trained, phantoms, tmp_path):
    again = ["--do_train", "False", "--do_predict", "True", "--model_name_or_path", trained]
    run("--dataset", phantoms, "--output_dir", tmp_path, *again)
    first, second = results(trained), results(tmp_path)
    same = [name for name in second if name.endswith(("exact_match", "f1", "total", "loss"))]
    assert len(same) > 20
    assert {name: second[name] for name in same} == {name: first[name] for name in same}
    assert predictions(tmp_path) == predictions(trained)
    assert predictions(tmp_path, "test") == predictions(trained, "test")


def test_same_seed_gives_the_same_weights_and_another_seed_does_not(trained, phantoms, tmp_path):
    def weights(folder: Path) -> dict:
        return load_file(folder / "model.safetensors")

    run("--dataset", phantoms, "--output_dir", tmp_path / "same", "--do_predict")
    run("--dataset", phantoms, "--output_dir", tmp_path / "other", "--seed", 1, "--do_eval", "False")
    first, same, other = weights(trained), weights(tmp_path / "same"), weights(tmp_path / "other")
    assert all(bool((first[name] == same[name]).all()) for name in first)
    assert any(bool((first[name] != other[name]).any()) for name in first)
    assert predictions(tmp_path / "same") == predictions(trained)


def test_interrupted_run_resumes_from_its_checkpoint_to_the_same_end(trained, phantoms, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)

    class StopAfterFirstCheckpoint(ViltTrainer):
        def _save_checkpoint(self, *args, **kwargs):
            super()._save_checkpoint(*args, **kwargs)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("modeling.vilt.trainer.ViltTrainer", StopAfterFirstCheckpoint)
        with pytest.raises(Killed):
            run("--dataset", phantoms, "--output_dir", tmp_path, "--do_predict")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-16"]
    run("--dataset", phantoms, "--output_dir", tmp_path, "--do_predict")
    assert f"The run resumes from {tmp_path / 'checkpoint-16'}." in caplog.text
    assert predictions(tmp_path) == predictions(trained)
    assert results(tmp_path)["eval_loss"] == results(trained)["eval_loss"]


def test_ctrl_c_ends_training_in_one_sentence_that_names_the_checkpoint(phantoms, tmp_path, monkeypatch, capsys):
    class InterruptedAfterCheckpoint(ViltTrainer):
        def _save_checkpoint(self, *args, **kwargs):
            super()._save_checkpoint(*args, **kwargs)
            raise KeyboardInterrupt

    monkeypatch.setattr("modeling.vilt.trainer.ViltTrainer", InterruptedAfterCheckpoint)
    flags = [*QUICK, "--dataset", str(phantoms), "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    with pytest.raises(SystemExit) as ended:
        run_command(train.main)
    assert ended.value.code == 130
    sentence = f"error: Stopped by Ctrl-C; the same command resumes from {tmp_path / 'checkpoint-16'}.\n"
    assert capsys.readouterr().err.endswith(sentence)


def test_ctrl_c_says_how_a_run_that_saves_no_checkpoint_would(phantoms, tmp_path, monkeypatch):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("modeling.vilt.trainer.ViltTrainer.training_step", pressed)
    sentence = r"Stopped by Ctrl-C; the same command starts anew, as it saves none \(--save_strategy epoch would\)."
    with pytest.raises(Interrupted, match=sentence):
        run("--dataset", phantoms, "--output_dir", tmp_path, "--save_strategy", "no")


def test_a_run_says_that_it_replaces_an_earlier_one(trained, phantoms, tmp_path, caplog):
    (tmp_path / "run.json").write_bytes((trained / "run.json").read_bytes())
    run(
        "--dataset",
        phantoms,
        "--output_dir",
        tmp_path,
        "--max_steps",
        1,
        "--save_strategy",
        "no",
        "--do_eval",
        "False",
    )
    assert f"{tmp_path} holds the model of an earlier run, which this run replaces." in caplog.text


def test_checkpoints_of_another_run_are_refused(trained, phantoms):
    with pytest.raises(UserError, match=r"checkpoint-\d+ is from another run \(its label2id differs\)"):
        run("--dataset", phantoms, "--output_dir", trained, "--max_train_samples", 20)


def test_early_stopping_ends_the_run_and_keeps_the_best_model(phantoms, tmp_path):
    stopping = ["--early_stopping_patience", 2, "--load_best_model_at_end", "True"]
    run("--dataset", phantoms, "--output_dir", tmp_path, "--num_train_epochs", 9, "--learning_rate", 0, *stopping)
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["epoch"] == 3  # the first is the best, two more bring nothing
    assert state["best_model_checkpoint"].endswith("checkpoint-16")


def test_sample_limits_are_kept(phantoms, tmp_path):
    limits = ("--max_train_samples", 20, "--max_eval_samples", 7, "--max_predict_samples", 5, "--do_predict")
    run("--dataset", phantoms, "--output_dir", tmp_path, "--num_train_epochs", 1, *limits)
    assert results(tmp_path)["train_samples"] == 20
    assert results(tmp_path)["eval_total"] == 7
    assert results(tmp_path)["test_total"] == 5


def test_csv_of_ones_own_trains_and_bad_rows_are_listed(tmp_path):
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "question", "answer"])
        for i in range(20):
            Image.new("RGB", (70, 50), (250, i, 0) if i % 2 else (0, i, 250)).save(tmp_path / f"{i}.png")
            writer.writerow([f"{i}.png", "What colour is it?", "red" if i % 2 else "blue"])
        writer.writerow(["gone.png", "What colour is it?", "red"])
    out = tmp_path / "out"
    run("--dataset", tmp_path / "mine.csv", "--column_names", "image=picture", "--output_dir", out, "--do_predict")
    [skipped] = [json.loads(line) for line in (out / "skipped_rows.jsonl").read_text().splitlines()]
    assert (skipped["where"], skipped["problem"]) == ("mine.csv row 21", "missing image")
    assert results(out)["eval_total"] == results(out)["test_total"] == 2
    assert [row["id"] for row in predictions(out)] == [16, 17]  # no id of its own: the number of the row


def test_opposite_answers_are_told_apart_from_the_table_to_the_report(tmp_path, caplog):
    rows = []
    for i in range(40):
        Image.new("RGB", (70, 50), (250, i, 0) if i % 2 else (0, i, 250)).save(tmp_path / f"{i}.png")
        row = {"image": str(tmp_path / f"{i}.png"), "question": "HER2?", "answer": "HER2+" if i % 2 else "HER2-"}
        rows.append(row | {"split": "validation" if i < 8 else "train", "question_id": i // 2})
    (tmp_path / "mine.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    run("--dataset", tmp_path / "mine.json", "--output_dir", out)
    assert caplog.text.count("can't tell 1 pair of answers apart: 'HER2+' and 'HER2-'") == 1
    assert json.loads((out / "config.json").read_text())["label2id"] == {"HER2+": 0, "HER2-": 1}
    answered = predictions(out)
    right = sum(row["prediction"] == row["answer"] for row in answered)
    figures = results(out)
    assert (figures["eval_exact_match"], figures["eval_accuracy"]) == (100, 100 * right / 8)
    assert figures["eval_majority_accuracy"] == 50
    report = json.loads((out / "report" / "report.json").read_text())["validation"]
    assert report["figures"][0]["accuracy"][0] == 100 * right / 8
    assert "| validation | Accuracy |" in (out / "README.md").read_text()
    assert [row["id"] for row in answered] == ["0", "0-2", "1", "1-2", "2", "2-2", "3", "3-2"]
    assert [row["image_id"] for row in answered] == [f"{i}.png" for i in range(8)]
    written = [
        "predictions_validation.jsonl",
        "report/report.json",
        "report/report.md",
        "report/errors.html",
        "README.md",
    ]
    assert not [name for name in written if str(tmp_path) in (out / name).read_text()]


def test_ids_of_predictions_are_all_different(tmp_path):
    rows = []
    for i in range(24):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i}.png")
        row = {"image": f"{i}.png", "question": "?", "answer": "yes", "split": "train" if i < 16 else "validation"}
        rows.append(row | {"question_id": {17: 16, 18: "", 19: 19, 20: None}.get(i)})
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    run("--dataset", tmp_path / "mine.json", "--output_dir", tmp_path / "out", "--max_steps", 1)
    assert [row["id"] for row in predictions(tmp_path / "out")] == ["row-16", "16", 18, "19", 20, 21, 22, 23]


def test_rows_without_an_answer_are_scored_as_squad_v2_does(phantoms, tmp_path):
    for split in ("train", "validate"):
        rows = json.loads((phantoms / f"{split}.json").read_text())
        for row in rows[::3]:
            row["answer"] = ""
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    (tmp_path / "imgs").symlink_to(phantoms / "imgs")
    run("--dataset", tmp_path, "--output_dir", tmp_path / "out", "--allow_no_answer", "--num_train_epochs", 1)
    figures = results(tmp_path / "out")
    assert figures["eval_NoAns_total"] + figures["eval_HasAns_total"] == figures["eval_total"]
    assert "eval_best_f1_thresh" in figures


def test_test_split_that_is_not_there(phantoms, tmp_path, caplog):
    (tmp_path / "imgs").symlink_to(phantoms / "imgs")
    for split in ("train", "validate"):
        (tmp_path / f"{split}.json").write_bytes((phantoms / f"{split}.json").read_bytes())
    flags = ("--dataset", tmp_path, "--output_dir", tmp_path / "out", "--do_predict", "--num_train_epochs", 1)
    run(*flags)
    assert "The data set has no test split, so --do_predict has nothing to evaluate." in caplog.text
    with pytest.raises(UserError, match="no test split; use --do_eval True"):
        run(*flags, "--do_eval", "False")


def test_evaluation_without_a_validation_split_says_what_to_do(trained, tmp_path):
    rows = []
    for i in range(2):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "question": "?", "answer": "yes", "split": "test"})
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    flags = ("--do_train", "False", "--model_name_or_path", trained, "--dataset", tmp_path / "mine.json")
    with pytest.raises(UserError, match="mine.json: no validation split; use --do_predict True for the test split.$"):
        run(*flags, "--output_dir", tmp_path / "out")


def test_wrong_checkpoint_to_resume_from(phantoms, tmp_path):
    with pytest.raises(UserError, match="--resume_from_checkpoint .*nowhere: there is no such folder"):
        run("--dataset", phantoms, "--output_dir", tmp_path, "--resume_from_checkpoint", tmp_path / "nowhere")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="there is one core only")
@pytest.mark.parametrize(("threads", "world_size", "lifted"), [("1", "1", True), ("2", "1", False), ("1", "2", False)])
def test_the_one_thread_of_accelerate_launch_is_lifted_for_a_single_process(threads, world_size, lifted, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    before = torch.get_num_threads()
    torch.set_num_threads(int(threads))
    try:
        train.use_all_cores()
        assert (torch.get_num_threads() > int(threads)) == lifted
    finally:
        torch.set_num_threads(before)


def test_accelerate_launch_with_the_gpu_config_trains_here_and_prints_the_table(phantoms, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_config.yaml"]
    command += ["train.py", "recipes/vilt_scratch_phantom.yaml", *QUICK, "--report_to", "tensorboard"]
    command += ["--dataset", str(phantoms), "--output_dir", str(tmp_path / "out")]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # its threads wait without computing
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    table = done.stdout.split("questions      EM")[1].split("\n\n")[0].splitlines()
    lines = [line.rsplit(None, 5) for line in table[1:]]
    assert [line[0].rstrip() for line in lines] == ["validation", "  majority answer", "test", "  majority answer"]
    summary = done.stdout.strip().split("\n\n")[0].splitlines()
    assert [line[:12].rstrip() for line in summary if line[0] != " "] == [
        "Model",
        "Parameters",
        "Data",
        "Answers",
        "Batch",
        "Steps",
        "Device",
        "Precision",
        "Output",
    ]
    written = done.stdout + done.stderr
    assert max(len(line) for line in written.splitlines() if str(tmp_path) not in line) <= 80
    told = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("Heat maps: ")]
    assert re.fullmatch(
        r"(Using \d+ threads .*\n)?No GPU here: using \w+( autocast)? instead of FP16.", "\n".join(told)
    )
    figures = results(tmp_path / "out")
    assert lines[0][2] == f"{figures['eval_exact_match']:.2f}"
    assert str(tmp_path / "out") in done.stdout
    assert list((tmp_path / "out").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name_or_path", "scratch:tiny", "--dataset", ""], "error: --dataset is empty; name a data set"),
        (
            ["--model_name_or_path", "scratch:tiny", "--dataset", "nowhere"],
            "error: --dataset nowhere: there is no such file or folder",
        ),
        (["--learning_rat", "1"], "error: Unknown argument --learning_rat; did you mean --learning_rate?"),
    ],
)
def test_bad_input_is_one_sentence_without_a_traceback(flags, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    with pytest.raises(SystemExit) as raised:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    assert raised.value.code not in (0, None)
    written = capsys.readouterr().err
    assert message in written
    assert "Traceback" not in written
