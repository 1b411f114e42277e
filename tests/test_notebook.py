"""The notebook runs from top to bottom, and what is kept in its file is small and names no machine."""

import json
import re
import shlex
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from modeling.training.parser import parse_arguments
from tests.support.app_server import ROOT, free_port
from tests.support.notebook import NOTEBOOK, SETTING, kernel, printed, run_all

pytestmark = pytest.mark.xdist_group("notebook")  # one worker runs it

TINY = {
    "DATASET": "phantom:20",
    "RECIPE": "vilt_scratch_phantom",
    "MORE_FLAGS": "--model_name_or_path scratch:tiny --max_steps 4 --logging_steps 2 --save_strategy no",
}
KEPT = nbformat.read(NOTEBOOK, as_version=4)
CODE_CELLS = {cell.id: cell for cell in KEPT.cells if cell.cell_type == "code"}
LARGEST = 600_000  # bytes of the file


def kinds(cell: Any) -> set[str]:
    """The kinds of what a cell shows, such as text/html."""
    return {kind for output in cell.outputs for kind in output.get("data", ())}


class Run:
    """A run of the whole notebook, whose kernel still takes cells."""

    def __init__(self, client: Any, folder: Path) -> None:
        self.client = client
        self.cells = run_all(client)
        self.output = folder / "output" / "notebook"

    def again(self, name: str, before: str) -> str:
        """Runs a cell once more, after some code, and returns what it printed."""
        self.client.nb.cells.append(nbformat.v4.new_code_cell(f"{before}\n{CODE_CELLS[name].source}"))
        return printed(self.client.execute_cell(self.client.nb.cells[-1], len(self.client.nb.cells) - 1))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The notebook, run on 20 phantoms with four steps of a tiny model."""
    folder = tmp_path_factory.mktemp("notebook")
    settings = {SETTING + name: value for name, value in TINY.items()} | {"CUDA_VISIBLE_DEVICES": ""}
    with kernel(folder, settings) as client:
        yield Run(client, folder)


def test_every_cell_runs_and_shows_what_the_kept_one_shows(run):
    assert [cell.execution_count for cell in run.cells.values() if cell.cell_type == "code"] == list(
        range(1, len(CODE_CELLS) + 1)
    )
    for name, kept in CODE_CELLS.items():
        assert kinds(run.cells[name]) == kinds(kept), name
        assert bool(printed(run.cells[name])) == bool(printed(kept)), name


def test_counts_and_baseline_are_those_of_the_data(run):
    from metrics.vqa import majority_answers, score_answers
    from processing.data import load_vqa_dataset

    dataset = load_vqa_dataset(TINY["DATASET"])
    counts = re.findall(r"(train|validation|test) +(\d+) +(\d+)", run.cells["data"].outputs[0].data["text/plain"])
    assert {split: (int(rows), int(images)) for split, rows, images in counts} == {
        split: (len(rows), len(set(rows["image"]))) for split, rows in dataset.items()
    }
    rows = dataset["validation"]
    expected = score_answers(rows, majority_answers(dataset["train"], rows))["exact_match"]
    assert f"Exact Match {expected:.2f} % of {len(rows)} validation" in printed(run.cells["baseline"])


def test_figures_are_those_of_the_run(run):
    figures = json.loads((run.output / "all_results.json").read_text())
    shown = run.cells["figures"].outputs[0].data["text/plain"]
    table = re.findall(r"(validation|test) +(model|most)[^\d,]*(, no near)?[^\d]*? +([\d.]+) +([\d.]+)$", shown, re.M)
    assert len(table) == 6
    kinds = {"model": "", "most": "majority_"}
    for split, who, apart, exact_match, f1 in table:
        prefix = {"validation": "eval", "test": "test"}[split] + "_" + ("no_neighbour_" if apart else kinds[who])
        assert float(exact_match) == round(figures[f"{prefix}exact_match"], 2)
        assert float(f1) == round(figures[f"{prefix}f1"], 2)


def test_wrong_answers_are_counted_as_in_the_report(run):
    report = json.loads((run.output / "report" / "report.json").read_text())["test"]
    total = len((run.output / "predictions_test.jsonl").read_text().splitlines())
    assert printed(run.cells["errors"]).startswith(f"{report['wrong']} of {total} answers are wrong.")


def test_the_answer_is_one_of_the_vocabulary(run):
    question, answer, *_ = printed(run.cells["ask"]).splitlines()
    assert question == "Which part of the body does this image belong to?"
    text, confidence = re.fullmatch(r"(.+) \((\d+)%\)", answer).groups()
    assert text in json.loads((run.output / "config.json").read_text())["label2id"]
    assert 0 < int(confidence) <= 100


def test_blip2_is_left_out_without_a_gpu(run):
    assert printed(run.cells["blip2"]).startswith("BLIP-2 is left out: it needs a GPU")
    assert not run.output.with_name("notebook-blip2").exists()


@pytest.mark.usefixtures("token")
def test_nothing_is_published_before_the_setting_asks_for_it(run, hub):
    text = run.again("publish", "os.environ['HF_TOKEN'] = 'hf_write'")
    assert text == printed(run.cells["publish"]) == "Not published: PUBLISH is empty in the settings.\n"
    assert hub.requests == []
    run.again("publish", "PUBLISH = 'user/notebook'")
    weights = (run.output / "model.safetensors").read_bytes()
    assert hub.repos["models/user/notebook"]["model.safetensors"] == weights
    assert "models/user/notebook" in hub.private


def test_app_starts_when_the_setting_asks_for_it(run):
    assert printed(run.cells["app"]) == "medical-vqa app output/notebook\n"
    port = free_port()
    text = run.again("app", f"START_APP, os.environ['GRADIO_SERVER_PORT'] = 'here', '{port}'")
    assert "The app is running." in text
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=60) as answer:
        assert json.load(answer)["title"] == "Medical VQA"


def test_blip2_command_is_accepted(tmp_path):
    [command] = re.findall(r"!accelerate (launch (?:.+\\\n)*.+)", CODE_CELLS["blip2"].source)
    values = {"CODE": str(ROOT), "DATASET": "phantom:20", "OUTPUT": str(tmp_path / "out"), "blip2_steps": ""}
    [values["batch"]] = re.findall(r'batch = "(.+)" if', CODE_CELLS["blip2"].source)
    words = shlex.split(command.replace("\\\n", " ").format(**values))
    _, args = parse_arguments(words[words.index(str(ROOT / "train.py")) + 1 :])
    assert args.model_name_or_path == "Salesforce/blip2-opt-2.7b"
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 64  # the published recipe's
    assert args.output_dir == str(tmp_path / "out-blip2")


def test_kept_outputs_are_of_one_run_and_name_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert text == nbformat.writes(KEPT) + "\n"
    nbformat.validate(KEPT)
    assert len(text.encode()) < LARGEST
    assert [cell.execution_count for cell in CODE_CELLS.values()] == list(range(1, len(CODE_CELLS) + 1))
    assert [name for name, cell in CODE_CELLS.items() if not cell.outputs] == ["settings"]
    for name, cell in CODE_CELLS.items():
        assert not cell.metadata, name
        for output in cell.outputs:
            assert output.output_type in ("stream", "display_data", "execute_result"), name
            assert output.get("name", "stdout") == "stdout", name
            texts = [value for kind, value in output.get("data", {}).items() if "text" in kind]
            for text in (output.get("text", ""), *texts):
                assert not re.search(r"(?<![\w.<*~])/[\w.-]+/|\b[A-Z]:\\|[Ww]arning|\d%\|", text), name


def test_kept_figures_are_worth_showing():
    shown = CODE_CELLS["figures"].outputs[0].data["text/plain"]
    figures = dict(re.findall(r"test +(model|most)[^,]*, (?:without)?[^\d]*?([\d.]+) +[\d.]+$", shown, re.M))
    assert float(figures["model"]) > 85 > 60 > float(figures["most"])
