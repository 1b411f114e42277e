"""modeling.asking.loading: models of a folder, of the Hub or its cache, and those that are refused."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from modeling.asking.predictor import Predictor
from processing.errors import UserError
from tests.support.app_server import ROOT
from tests.support.tiny_blip2 import tiny_blip2

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models


def upload(hub, folder: Path, name: str = "user/model") -> str:
    """Puts the files of a folder into a repo of the Hub; the repo's name."""
    hub.repos[f"models/{name}"] = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    return name


def test_private_repo_needs_a_token_and_revisions_are_kept_apart(runs, hub, images, monkeypatch):
    name = upload(hub, runs("vilt"))
    first = hub.commit_of(f"models/{name}")
    config = json.loads(hub.repos[f"models/{name}"]["config.json"])
    config["id2label"] = {number: f"new {label}" for number, label in config["id2label"].items()}
    config["label2id"] = {label: int(number) for number, label in config["id2label"].items()}
    hub.repos[f"models/{name}"]["config.json"] = json.dumps(config).encode()
    hub.private.add(f"models/{name}")
    with pytest.raises(UserError, match=r"user/model: the Hub has no such model, or it is private; .*hf auth login"):
        Predictor.from_pretrained(name)
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    old, new = (
        Predictor.from_pretrained(name, revision=revision).answer(images[0], "CT?") for revision in (first, None)
    )
    assert new.answer == f"new {old.answer}"
    with pytest.raises(UserError, match="user/model: the model has no revision v9; name a branch, tag or commit"):
        Predictor.from_pretrained(name, revision="v9")


def test_only_what_the_model_needs_is_downloaded(runs, hub):
    name = upload(hub, runs("vilt"), "user/large")
    extra = ("pytorch_model.bin", "loss.png", "onnx/model.safetensors", "checkpoint-1/config.json")
    hub.repos[f"models/{name}"] |= dict.fromkeys(extra, b"{}")
    Predictor.from_pretrained(name)
    fetched = [request.split("/resolve/")[1] for request in hub.requests if "/resolve/" in request]
    assert fetched
    assert not [path for path in fetched if path.partition("/")[2] in extra]


@pytest.fixture
def adapter_of_the_hub(runs, dataset, hub, tmp_path):
    """An adapter whose base is an older revision of a repo that holds another model now."""
    base = json.loads((runs("opt") / "adapter_config.json").read_text())["base_model_name_or_path"]
    upload(hub, Path(base), "user/base")
    commit = hub.commit_of("models/user/base")
    upload(hub, tiny_blip2("llama", dataset, tmp_path / "other"), "user/base")  # main holds another model now
    name = upload(hub, runs("opt"), "user/adapter")
    config = json.loads(hub.repos["models/user/adapter"]["adapter_config.json"])
    config |= {"base_model_name_or_path": "user/base", "revision": commit}
    hub.repos["models/user/adapter"]["adapter_config.json"] = json.dumps(config).encode()
    return name


def test_adapter_fetches_its_base_and_offline_all_comes_from_the_cache(runs, hub, images, adapter_of_the_hub):
    questions = ["Is this CT?", "Which organ is shown?"]
    expected = Predictor.from_pretrained(runs("opt")).answer_batch(images[0], questions, top_k=2)
    assert Predictor.from_pretrained(adapter_of_the_hub).answer_batch(images[0], questions, top_k=2) == expected
    before = len(hub.requests)
    command = [sys.executable, "-m", "modeling.predictor", adapter_of_the_hub, "--image", images[0], "--top_k", "2"]
    command += ["--json", "--question", questions[0], "--question", questions[1]]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=offline, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [{"question": q, **asdict(answer)} for q, answer in zip(questions, expected, strict=True)]
    assert json.loads(done.stdout) == json.loads(json.dumps(answers))
    assert len(hub.requests) == before


def with_pickled_weights(folder: Path, target: Path) -> Path:
    """A copy of a model's folder whose weights are pickled ones."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "merged"))
    for name in ("pytorch_model.bin", "adapter_model.bin"):
        torch.save({}, target / name)
    return target


@pytest.mark.parametrize("name", ["vilt", "opt"])
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_pickled_weights_are_refused_unread(runs, hub, tmp_path, monkeypatch, name, place):
    folder = with_pickled_weights(runs(name), tmp_path / "pickled")
    model = upload(hub, folder) if place == "hub" else folder
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UserError, match=r"no weights as safetensors, and pickled ones \(.bin, .pt\) are not loaded"):
        Predictor.from_pretrained(model)
    assert not [request for request in hub.requests if ".bin" in request]


def test_another_kind_of_model_is_named(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a model of type 'bert'; choose a ViLT, a starter, a BLIP-2 or a "):
        Predictor.from_pretrained(tmp_path)


def test_folder_without_a_model_and_missing_ones_are_refused(tmp_path, hub, monkeypatch):
    with pytest.raises(UserError, match=r"there is no model \(no config.json\)"):
        Predictor.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="there is no such folder, and it is no Hub id"):
        Predictor.from_pretrained(tmp_path / "gone")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^out/gone: the folder out is here and has no gone; check the path, or, for"):
        Predictor.from_pretrained("out/gone")
    assert hub.requests == []
    with pytest.raises(UserError, match="out/gone: the Hub has no such model"):
        Predictor.from_pretrained("out/gone", revision="main")
    with pytest.raises(UserError, match="user/gone: the Hub has no such model"):
        Predictor.from_pretrained("user/gone")
    hub.repos["models/user/empty"] = {"README.md": b"# soon"}
    with pytest.raises(UserError, match="user/empty: there is no model"):
        Predictor.from_pretrained("user/empty")
    with pytest.raises(UserError, match="a folder has no revision v1"):
        Predictor.from_pretrained(tmp_path, revision="v1")


def test_gated_model_and_hub_trouble_are_explained(runs, hub):
    name = upload(hub, runs("vilt"), "user/gated")
    hub.fail("GET", "user/gated", status=403, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(UserError, match="user/gated: the model is gated; accept its terms"):
        Predictor.from_pretrained(name)
    for trouble, told in (
        ({"status": 500}, "the Hub answers with status 500"),
        ({"drop": True}, "not in the cache, and the Hub can't be reached"),
    ):
        for request in ("/api/models/user/gated", "/storage/.*user/gated"):
            hub.fail("GET", request, times=99, **trouble)
            with pytest.raises(UserError, match=f"user/gated: {told}"):
                Predictor.from_pretrained(name)
            hub.reset()
            upload(hub, runs("vilt"), name)


def test_model_that_was_not_fine_tuned_is_refused(runs, tmp_path):
    shutil.copytree(runs("vilt"), tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
    save_file(kept, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="it has no trained answers"):
        Predictor.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_model_is_one_sentence(runs, tmp_path, file):
    shutil.copytree(runs("vilt"), tmp_path / "m")
    (tmp_path / "m" / file).write_bytes(b"{torn")
    with pytest.raises(UserError, match=r"damaged; save or download|can't be loaded") as error:
        Predictor.from_pretrained(tmp_path / "m")
    assert "\n" not in str(error.value)


def test_code_that_a_model_brings_is_not_run(runs, tmp_path, monkeypatch):
    shutil.copytree(runs("starter"), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(UserError, match="it needs code of its own, which is never run"):
        Predictor.from_pretrained(tmp_path / "m")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"{torn", b"[]", b'{"prompt": "no place"}', b'{"num_beams": "x"}', b'{"x": 1}'])
def test_damaged_answering_file_is_refused(runs, tmp_path, content):
    shutil.copytree(runs("opt"), tmp_path / "m")
    (tmp_path / "m" / "answering.json").write_bytes(content)
    with pytest.raises(UserError, match="answering.json: it does not say how to ask the model"):
        Predictor.from_pretrained(tmp_path / "m")
