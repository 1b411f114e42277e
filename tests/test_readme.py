"""What the README prints is run: make targets, train.py commands, Python, and the schema of one's own data."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from modeling.training.parser import parse_arguments
from processing.data import load_vqa_dataset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]
COMMANDS += re.findall(r"`(make [^`]+)`", README)


def test_commands_are_there():
    assert sum("train.py" in command for command in COMMANDS) >= 3
    assert {"make demo", "make test"} <= {command.partition("#")[0].strip() for command in COMMANDS}


@pytest.mark.parametrize("command", [command for command in COMMANDS if "train.py" in command])
def test_train_commands_are_accepted(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command.replace("$SLAKE_DIR", "slake").replace("$VQA_RAD_DIR", "rad"), comments=True)
    parse_arguments([*words[words.index("train.py") + 1 :], "--output_dir", str(tmp_path)])


MODULES = {command.split()[2] for command in COMMANDS if command.startswith("python -m")}


def test_command_lines_and_benchmarks_are_there():
    lines = {"metrics.compare", "metrics.protocols", "modeling.predictor", "modeling.probe", "modeling.publish"}
    lines.add("spaces_app.publish")
    benchmarks = {f"benchmarks.{name}" for name in ("starter_training", "vilt_training", "blip2_training", "app_load")}
    assert lines | benchmarks == MODULES


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python -m")])
def test_command_lines_and_benchmarks_know_their_flags(command, monkeypatch, capsys):
    words = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [words[2], "--help"])
    monkeypatch.delitem(sys.modules, words[2], raising=False)  # else runpy warns that it runs it a second time
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(words[2], run_name="__main__")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in words if word.startswith("--"))


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make")])
def test_make_targets_exist(command):
    words = shlex.split(command.replace("$SLAKE_DIR", "slake"), comments=True)
    done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_example_rows_of_ones_own_data_load(tmp_path):
    [rows] = [json.loads(text) for kind, text in BLOCKS if kind == "json"]
    rows = [{**row, "image": f"{i}{row['image']}"} for i in range(6) for row in rows]
    for i, row in enumerate(rows):
        file = tmp_path / row["image"]
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (i // 2 * 40, 0, 0)).save(file)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    dataset = load_vqa_dataset(str(tmp_path / "rows.json"))
    assert sum(map(len, dataset.values())) == 12
    assert set(dataset["train"]["answer_type"]) == {"OPEN", "CLOSED"}


def test_python_of_the_readme_runs(phantoms, tmp_path, monkeypatch, capsys):
    import train

    flags = ["--model_name_or_path", "scratch:tiny", "--max_steps", "2", "--disable_tqdm", "True"]
    train.main([*flags, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "out")])
    Image.new("L", (80, 60)).save(tmp_path / "x.png")
    (tmp_path / "metrics").symlink_to(ROOT / "metrics")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    snippets = [text for kind, text in BLOCKS if kind == "python"]
    assert len(snippets) == 2
    for text in snippets:
        exec(compile(text, "README.md", "exec"), {})
    answers = json.loads((tmp_path / "out" / "config.json").read_text())["label2id"]
    assert capsys.readouterr().out.strip().rpartition(" ")[0] in answers


def test_pictures_of_the_readme_exist():
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture


REPORTS = {"starter, seed 44": "vilt_starter", "BLIP-2 starter": "blip2_starter"}


@pytest.mark.parametrize("row", REPORTS)
def test_figures_of_the_starters_on_slake_are_those_of_their_reports(row):
    folder = ROOT / "docs" / "reports" / REPORTS[row]
    report = json.loads((folder / "report.json").read_text())["validation"]
    kinds = {(entry["group"], entry["value"]): entry for entry in report["figures"]}
    everything = kinds["all", ""]
    cells = [f"{everything['questions']:,}"]
    cells += ["{:.2f} ({:.2f} to {:.2f})".format(*everything[name]) for name in ("exact_match", "f1")]
    apart = kinds.get(("near neighbour in training", "none"))
    text = "{:.2f} ({:.2f} to {:.2f}) ({:,})"
    cells.append(text.format(*apart["exact_match"], apart["questions"]) if apart else "-")
    cells += ["{:.2f}".format(kinds["answer_type", kind]["exact_match"][0]) for kind in ("OPEN", "CLOSED")]
    [line] = [line for line in README.splitlines() if f"| {row} |" in line]
    assert [cell.strip() for cell in line.strip("|").split("|")][2:] == cells
    for name in re.findall(r"\(([\w.]+)\)", (folder / "report.md").read_text()):
        assert not name.endswith((".png", ".jpg")) or (folder / name).is_file()


def test_tests_that_the_threat_table_names_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"


def test_files_and_folders_that_the_readme_names_exist():
    """A name may be relative to a folder that its line names too."""
    for line in README.splitlines():
        names = re.findall(r"`([\w./]+(?:/|\.py|\.yaml|\.txt|\.cfg))`", line)
        folders = [ROOT, *(ROOT / name for name in names if name.endswith("/"))]
        for name in names:
            if not name.startswith(("output", "scans", "recipe.yaml")):
                assert any((folder / name).exists() for folder in folders), name
