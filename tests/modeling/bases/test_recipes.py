"""The published recipes on imitations of the repos they name: trained, pushed and asked, online, then offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

import train
from modeling.asking.predictor import Predictor
from tests.modeling.bases.conftest import MLM
from tests.processing.test_hub_dataset import as_zip
from tests.support.app_server import ROOT
from tests.support.hub_models import add_conversion_request, blip2_files, vilt_files

OPT = "Salesforce/blip2-opt-2.7b"
SHORT = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--max_train_samples", "16"]
SHORT += ["--max_eval_samples", "6", "--disable_tqdm", "True"]
OFFLINE = """
import sys
import train
from processing.errors import run_command
from tests.modeling.bases.test_recipes import ask
image, *flags = sys.argv[1:]
sys.argv[1:] = flags
run_command(train.main)
print("ANSWER", ask("user/published", image))
"""


def ask(model: str | Path, image: str) -> tuple[str, float]:
    answer = Predictor.from_pretrained(model, dtype="float32").answer(image, "Is this CT?", top_k=1)
    return answer.answer, round(answer.confidence, 6)


@pytest.fixture
def real_repos(hub, phantoms, dataset, texts) -> None:
    """The base models of the recipes, with the pull request of the conversion bot, and SLAKE."""
    hub.repos[f"models/{MLM}"], weights = vilt_files(dataset["train"]["question"])
    add_conversion_request(hub, MLM, 4, weights)
    hub.repos[f"models/{OPT}"], _ = blip2_files("opt", texts, 2026)
    splits = ("train", "validate", "test")
    files = {f"{split}.json": (phantoms / f"{split}.json").read_bytes() for split in splits}
    hub.repos["datasets/BoKelvin/SLAKE"] = files | {"imgs.zip": as_zip(phantoms / "imgs")}


def predictions(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions_validation.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("family", "base"), [("vilt", MLM), ("blip2", OPT)])
def test_recipe_trains_pushes_and_is_asked_online_and_then_offline(
    real_repos, hub, token, images, tmp_path, family, base
):
    flags = [str(ROOT / "recipes" / f"{family}_slake.yaml"), *SHORT]
    push = ["--push_to_hub", "True", "--hub_model_id", "user/published"]
    train.main([*flags, *push, "--output_dir", str(tmp_path / "online")])
    commit = hub.commit_of(f"models/{base}")
    record = json.loads((tmp_path / "online" / "run.json").read_text())
    assert (record["base_model"], record["base_revision"]) == (base, commit)
    assert record["dataset"]["id"] == "BoKelvin/SLAKE"
    pushed = hub.files("models/user/published")
    assert f"started from {base} at commit {commit}" in pushed["README.md"].decode()
    settings = json.loads(pushed["adapter_config.json" if family == "blip2" else "config.json"])
    if family == "blip2":
        assert (settings["base_model_name_or_path"], settings["revision"]) == (base, commit)
        assert json.loads(pushed["answering.json"])["end_token_id"] == 50118
    else:
        assert settings["base_model"] == f"{base}@{commit}"
    assert not [request for request in hub.requests if "pr%2F" in request or "discussions" in request]
    asked = ask("user/published", images[0])
    assert asked == ask(tmp_path / "online", images[0])

    before = len(hub.requests)
    (tmp_path / "offline.py").write_text(OFFLINE)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", str(tmp_path / "offline.py"), images[0]]
    variables = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": huggingface_hub.constants.HF_HUB_CACHE,
        "PYTHONPATH": str(ROOT),
    }
    command = [*launch, *flags, "--output_dir", str(tmp_path / "offline")]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"ANSWER {asked}"
    assert len(hub.requests) == before
    assert predictions(tmp_path / "offline") == predictions(tmp_path / "online")
    assert json.loads((tmp_path / "offline" / "run.json").read_text())["base_revision"] == commit
