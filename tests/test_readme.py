"""The README: its blocks work when they are pasted into a fresh shell in order, and what it names is there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from processing.data import load_vqa_dataset
from tests.processing.test_hub_dataset import as_zip
from tests.support.app_server import ROOT, free_port
from tests.support.example_rows import load_example_rows
from tests.support.files import contents
from tests.support.hub_models import blip2_files, vilt_files
from tests.support.tiny_vlms import save_tiny_vlm

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PATIENCE = 900  # seconds for all blocks, on a busy machine
# What is cut from the recipes in a copy of the project, so that each run takes seconds.
BUDGET = {"max_steps": 2, "per_device_train_batch_size": 4, "max_train_samples": 24, "eval_strategy": "no"}
BUDGET |= {"max_eval_samples": 8, "max_predict_samples": 8, "disable_tqdm": True}


class Pasted(NamedTuple):
    """What the blocks left.

    Attributes:
        folder: the copy of the project in which they ran.
        output: what they printed.
        repo: the files of the repo that they published.
    """

    folder: Path
    output: str
    repo: dict[str, bytes]


@pytest.fixture
def real_repos(hub, phantoms, dataset, tmp_path):
    """The base models of the published recipes and SLAKE, on the Hub under their names."""
    texts = [text for row in dataset["train"] for text in (row["question"], row["answer"])]
    hub.repos["models/dandelin/vilt-b32-mlm"], _ = vilt_files(dataset["train"]["question"])
    hub.repos["models/Salesforce/blip2-opt-2.7b"], _ = blip2_files("opt", texts, 2026)
    hub.repos["models/Qwen/Qwen3-VL-4B-Instruct"] = contents(save_tiny_vlm("qwen3_vl", tmp_path / "qwen3_vl"))
    rows = {f"{split}.json": (phantoms / f"{split}.json").read_bytes() for split in ("train", "validate", "test")}
    hub.repos["datasets/BoKelvin/SLAKE"] = rows | {"imgs.zip": as_zip(phantoms / "imgs")}


@pytest.fixture
def dataset(phantoms):
    return load_vqa_dataset(str(phantoms))


def borrowed_packages(folder: Path) -> Path:
    """A folder with the packages of this environment, without this project and one that the README does not install.

    PEFT imports bitsandbytes wherever it is, and each of the commands would wait for that.
    """
    folder.mkdir()
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith(("bitsandbytes", "medical_vqa", "__editable__")):
            (folder / package.name).symlink_to(package)
    return folder


@pytest.fixture
def pasted(real_repos, hub, token, tmp_path) -> Pasted:
    """The shell is fresh, and so is the environment that the first block makes; only its packages are borrowed.

    The borrowed ones are those of the environment of this test, since to install them takes minutes. `.ci/run` does.
    """
    folder = tmp_path / "medical-vqa"
    leave_out = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "out*", "images", "coverage*", "mutants")
    shutil.copytree(ROOT, folder, ignore=leave_out)
    for recipe in (folder / "recipes").glob("*.yaml"):
        settings = yaml.safe_load(recipe.read_text()) | BUDGET
        if settings.get("dataset", "").startswith("phantom"):
            settings["dataset"] = "phantom:24"
        recipe.write_text(yaml.safe_dump(settings))
    made = folder / ".made"
    made.touch()
    scripts, port = sysconfig.get_path("scripts"), str(free_port())
    environment = {name: os.environ[name] for name in ("HOME", "LANG", "HF_ENDPOINT", "HF_HOME") if name in os.environ}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "MEDICAL_VQA_"))}
    environment |= {
        "HF_TOKEN": os.environ["HF_TOKEN"],
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{scripts}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(borrowed_packages(tmp_path / "site-packages")),
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "MAKEFLAGS": f" -- BIN={scripts} READY={made}",
        "STREAMLIT_SERVER_HEADLESS": "true",
        "STREAMLIT_SERVER_PORT": port,
    }
    lines = ["set -ex", "set -o pipefail"]
    for kind, text in BLOCKS:
        if kind == "bash":
            lines.append(text)
        elif kind == "python":
            lines += ["python - <<'PYTHON'", text + "PYTHON"]
    output = tmp_path / "output"
    with output.open("w") as stream:
        shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", "\n".join(lines)],
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + PATIENCE
    try:
        while shell.poll() is None and time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health") as answer:
                if answer.status == 200:
                    return Pasted(folder, output.read_text(), hub.files("models/user/name"))
            time.sleep(0.5)
        pytest.fail(f"The blocks ended with {shell.poll()} before the app answered:\n{output.read_text()[-5000:]}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)
        shell.wait()


@pytest.mark.long
def test_blocks_work_when_they_are_pasted_into_a_fresh_shell_in_order(pasted):
    figures = [json.loads(file.read_text()) for file in sorted(pasted.folder.glob("out*/*/all_results.json"))]
    assert len(figures) == 6  # demo, SLAKE by the starter, three models of the Hub, own data
    assert all("eval_exact_match" in run for run in figures)
    for name in ("vilt", "blip2", "qwen"):
        made = pasted.folder / "out" / name
        assert json.loads((made / "run.json").read_text())["dataset"]["id"] == "BoKelvin/SLAKE"
        assert (made / "adapter_model.safetensors").is_file() == (name != "vilt")
    answers = json.loads((pasted.folder / "out" / "own" / "config.json").read_text())["label2id"]
    with (pasted.folder / "answers.csv").open() as table:
        assert table.read().splitlines()[1].split(",")[2] in answers
    assert {"README.md", "model.safetensors", "all_results.json"} <= pasted.repo.keys()


def test_example_rows_of_ones_own_data_load(tmp_path):
    dataset = load_example_rows(README, tmp_path, patient_id="{}")
    assert sum(map(len, dataset.values())) == 12
    assert {row["group"] for row in dataset["train"]} < set("012345")


def test_links_and_pictures_of_the_readme_exist():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert len(targets) > 20
    for target in targets:
        if not target.startswith("https://"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_files_and_folders_that_the_readme_names_exist():
    for line in README.splitlines():
        for name in re.findall(r"`([\w./]+(?:/|\.py|\.yaml|\.txt|\.cfg|\.cff))`", line):
            if not name.startswith(("output", "images", "imgs")):
                assert (ROOT / name).exists(), name


def test_readme_is_a_front_door():
    assert len(README.splitlines()) <= 180


HEADLINES = {  # rows of the README's table and of docs/results.md
    "**starter**": "starter, mean of three seeds",
    "BLIP-2 starter": "BLIP-2 starter, mean of two seeds",
    "LLaVA starter": "LLaVA starter",
    "an MLP over": "MLP over",
    "the most frequent answer": "majority answer",
    "starter, by `make demo`": "`make demo`",
}


@pytest.mark.parametrize("row", HEADLINES)
def test_headline_figures_are_those_of_the_results(row):
    def cells(text: str, start: str) -> list[str]:
        line = next(line for line in text.splitlines() if line.startswith("|") and start in line)
        return [cell.strip(" |*") for cell in line.strip("|").split("|")]

    def rounded(cell: str) -> list[str]:
        return [f"{float(number):.1f}" for number in re.findall(r"\d+\.\d+", cell.partition("(")[0])]

    results = cells((ROOT / "docs" / "results.md").read_text(), HEADLINES[row])
    _, _, exact_match, apart, _ = cells(README, f"| {row}")
    assert rounded(exact_match) == rounded(results[3])
    assert rounded(apart) == rounded(results[5])


def test_tests_that_the_threat_table_names_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
