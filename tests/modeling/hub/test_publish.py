"""Publishing a trained model, by the real client to a Hub on loopback."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image

import train
from modeling import publish as publishing
from modeling.hub.card import model_card
from modeling.hub.client import Destination
from modeling.publish import publish
from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.modeling.hub.pushing import push, run
from tests.modeling.hub.samples import MODEL, REPO
from tests.support.app_server import ROOT
from tests.support.files import contents
from tests.support.hub.cards import check_card
from tests.support.tiny_blip2 import tiny_blip2
from tests.support.tiny_vlms import save_tiny_vlm

pytestmark = pytest.mark.usefixtures("token", "waits")


def test_what_goes_up_is_the_model_and_what_explains_it(hub, run_folder):
    push(run_folder)
    assert set(hub.repos[REPO]) == {
        ".gitattributes",
        "README.md",
        "all_results.json",
        "config.json",
        "loss.png",
        "metrics.png",
        "model.safetensors",
        "processor_config.json",
        "question_words.json",
        "recipe.yaml",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
        # not what shows images of the data: errors.html and pointing_*.jpg
        "report/report.json",
        "report/report.md",
        "report/reliability_validation.png",
        "report/reliability_test.png",
        "report/risk_validation.png",
        "report/risk_test.png",
    }
    assert hub.repos[REPO]["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
    assert len(hub.commits(REPO)) == 2


def test_predictions_go_up_on_request(hub, run_folder):
    publishing.main([str(run_folder), "--repo_id", MODEL, "--predictions"])
    assert {"predictions_validation.jsonl", "predictions_test.jsonl"} <= set(hub.repos[REPO])


def test_no_uploaded_byte_holds_a_token_or_a_path_of_this_machine(hub, run_folder, phantoms):
    publish(run_folder, Destination(MODEL, token="hf_write"), predictions=True)
    secret = [
        "hf_write",
        str(run_folder),
        str(run_folder.parent),
        str(phantoms),
        str(ROOT),
        str(Path.home()),
        "training_args",
    ]
    for name, content in hub.repos[REPO].items():
        found = [text for text in secret if text.encode() in content]
        assert not found, f"{name} holds {found}"


def test_training_pushes_at_its_end_and_saves_no_token(hub, phantoms, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")  # the flag's alone
    flags = ["--push_to_hub", "--hub_model_id", MODEL, "--hub_token", "hf_write", "--hub_private_repo", "True"]
    run("--dataset", phantoms, "--output_dir", tmp_path, *flags)
    assert REPO in hub.private
    assert hub.repos[REPO]["model.safetensors"] == (tmp_path / "model.safetensors").read_bytes()
    assert next(commit.title for commit in hub.commits(REPO)) == publishing.MESSAGE
    assert len(hub.commits(REPO)) == 2, "the Trainer must not push by itself"
    assert not any(b"hf_write" in content for content in contents(tmp_path).values())


def test_pushing_again_sends_nothing_and_a_change_alone(hub, run_folder):
    push(run_folder)
    uploads = hub.count("PUT", "/storage/")
    push(run_folder)
    assert (hub.count("PUT", "/storage/"), len(hub.commits(REPO))) == (uploads, 2)
    reports = json.loads((run_folder / "report" / "report.json").read_text())
    reports["test"]["figures"][0]["exact_match"] = [1.25, 1.0, 2.0]
    (run_folder / "report" / "report.json").write_text(json.dumps(reports))
    push(run_folder)
    assert (hub.count("PUT", "/storage/"), len(hub.commits(REPO))) == (uploads, 3)
    assert b"| Exact Match | 1.25 | 1.00 to 2.00 |" in hub.repos[REPO]["README.md"]


def test_model_files_of_an_earlier_push_that_no_longer_fit_go(hub, run_folder):
    push(run_folder)
    hub.repos[REPO] |= {"adapter_config.json": b"{}", "notes.md": b"mine"}
    push(run_folder)
    assert "adapter_config.json" not in hub.repos[REPO]
    assert hub.repos[REPO]["notes.md"] == b"mine"


def test_private_repo_is_loaded_back_byte_for_byte_with_the_token_only(hub, run_folder, tmp_path, monkeypatch):
    push(run_folder, private=True)
    assert REPO in hub.private
    loaded = Path(snapshot_download(MODEL, cache_dir=tmp_path / "cache"))
    assert (loaded / "model.safetensors").read_bytes() == (run_folder / "model.safetensors").read_bytes()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download(MODEL, cache_dir=tmp_path / "empty")


def test_pull_request_leaves_main_alone(hub, run_folder):
    push(run_folder)
    before = hub.commit_of(REPO)
    (run_folder / "all_results.json").write_text("{}")
    assert "discussions/1" in push(run_folder, create_pr=True)
    assert hub.commit_of(REPO) == before
    assert hub.files(REPO, "refs/pr/1")["all_results.json"] == b"{}"


def test_branch_is_made_and_main_stays_empty(hub, run_folder):
    push(run_folder, revision="trial")
    assert "model.safetensors" in hub.files(REPO, "trial")
    assert "model.safetensors" not in hub.repos[REPO]


def test_folder_without_a_finished_run_is_told(hub, tmp_path):
    with pytest.raises(UserError, match=r"run\.json: can't be read; give the --output_dir"):
        publishing.main([str(tmp_path), "--repo_id", MODEL])
    assert not hub.repos


def test_card_of_the_push_passes_the_hubs_check_and_names_the_repo(hub, run_folder):
    push(run_folder)
    card = hub.repos[REPO]["README.md"].decode()
    assert f'Predictor.from_pretrained("{MODEL}")' in card
    model_card(run_folder, MODEL).validate()


ROUND_TRIPS = {
    "starter": ["--model_name_or_path", "starter"],
    "adapter": ["--model_type", "blip2", "--model_name_or_path", "lab/blip2", "--lora_targets", "dense", "projection"],
}


@pytest.mark.parametrize("kind", ROUND_TRIPS)
def test_published_model_answers_the_same_in_a_fresh_process_with_an_empty_cache(hub, phantoms, tmp_path, kind):
    base = tiny_blip2("llama", load_vqa_dataset(str(phantoms)), tmp_path / "base")
    hub.repos["models/lab/blip2"] = {**contents(base), "README.md": b"---\nlicense: mit\n---\n"}
    out = tmp_path / "out"
    flags = ["--max_steps", "8", "--learning_rate", "5e-3", "--eval_strategy", "no", "--save_strategy", "no"]
    flags += [*ROUND_TRIPS[kind], "--dataset", phantoms, "--output_dir", out, "--disable_tqdm", "True"]
    push_flags = ["--push_to_hub", "True", "--hub_model_id", MODEL]
    train.main(list(map(str, [*flags, *push_flags])))
    expected = [json.loads(line) for line in (out / "predictions_validation.jsonl").read_text().splitlines()]
    assert len({row["prediction"] for row in expected}) > 1
    shutil.rmtree(out)
    shutil.rmtree(base)

    rows = json.loads((phantoms / "validate.json").read_text())
    asked, answered = phantoms / f"asked_{kind}.csv", tmp_path / "answered.csv"
    lines = [{"image": f"imgs/{row['img_name']}", "question": row["question"]} for row in rows]
    with asked.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "question"])
        writer.writeheader()
        writer.writerows(lines)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "MEDICAL_VQA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "modeling.predictor", MODEL, "--csv", asked, "--out", answered]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    asked.unlink()
    assert done.returncode == 0, done.stderr
    with answered.open(newline="") as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == [row["prediction"] for row in expected]
    card = hub.repos[REPO]["README.md"].decode()
    assert check_card(card, "model") == ([], [])
    assert ("base_model: lab/blip2" in card) == (kind == "adapter")


@pytest.mark.parametrize("family", ["blip2", "vlm"])
def test_adapter_over_a_folder_is_refused_before_training_but_its_merged_model_goes(hub, phantoms, tmp_path, family):
    if family == "blip2":
        base = tiny_blip2("llama", load_vqa_dataset(str(phantoms)), tmp_path / "base")
    else:
        base = save_tiny_vlm("llava", tmp_path / "base")
    flags = ["--model_type", family, "--model_name_or_path", base, "--max_steps", "2", "--disable_tqdm", "True"]
    flags += ["--dataset", phantoms, "--output_dir", tmp_path / "out", "--push_to_hub", "--hub_model_id", MODEL]
    with pytest.raises(UserError, match="an adapter over a folder can't be published"):
        train.main(list(map(str, flags)))
    assert not (tmp_path / "out").exists()
    train.main(list(map(str, [*flags, "--merge_adapter", "True"])))
    assert {"config.json", "model.safetensors", "answering.json"} <= set(hub.repos[REPO])
    assert not {name for name in hub.repos[REPO] if name.startswith("adapter")}
    assert all(str(tmp_path).encode() not in content for content in hub.repos[REPO].values())


def test_use_in_the_card_works_as_printed(hub, run_folder, tmp_path, monkeypatch, capsys):
    push(run_folder)
    (code,) = re.findall(r"```python\n(.*?)```", hub.repos[REPO]["README.md"].decode(), re.DOTALL)
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    answer, _, confidence = capsys.readouterr().out.strip().rpartition(" ")
    assert answer in json.loads((run_folder / "config.json").read_text())["label2id"]
    assert 0 < float(confidence) <= 1
