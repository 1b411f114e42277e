"""--model_revision: a base at a branch, tag or commit, and the same base wherever the run is taken up again."""

import json
from pathlib import Path

import pytest
import torch

import train
from modeling.asking.predictor import Predictor
from modeling.blip2.adapter import open_base
from modeling.hub.card import model_card
from modeling.vilt.checkpoints import build_model
from processing.errors import UserError
from tests.modeling.bases.conftest import MLM
from tests.modeling.vilt.arguments import arguments
from tests.support.hub_models import blip2_files, pickled

OPT = "Salesforce/blip2-opt-2.7b"
QUICK = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--max_train_samples", "12", "--fp16", "False"]
QUICK += ["--max_eval_samples", "4", "--disable_tqdm", "True", "--feature_cache_gb", "0"]


def run(family: str, name: object, folder: Path, phantoms: Path, *flags: object) -> Path:
    start = ["--model_type", family, "--model_name_or_path", name, "--dataset", phantoms, "--output_dir", folder]
    train.main([*map(str, start), *QUICK, *map(str, flags)])
    return folder


def read(file: Path) -> dict:
    return json.loads(file.read_text())


@pytest.fixture
def two_commits(hub, texts) -> tuple[str, str]:
    """The commits of a BLIP-2 whose main has moved to other weights, and its branch and its tag the older one has."""
    hub.repos[f"models/{OPT}"], _ = blip2_files("opt", texts, 2026)
    old = hub.commit_of(f"models/{OPT}")
    history = hub.history(f"models/{OPT}")
    history.refs["refs/tags/v1"] = history.refs["refs/heads/before"] = history.refs["refs/heads/main"]
    hub.repos[f"models/{OPT}"] = blip2_files("opt", texts, 2026)[0] | {"README.md": b"another commit"}
    return old, hub.commit_of(f"models/{OPT}")


def test_branch_tag_and_commit_name_the_same_base(two_commits):
    old, new = two_commits
    assert {open_base(OPT, revision).model.commit for revision in ("v1", "before", old)} == {old}
    assert open_base(OPT).model.commit == new != old


def test_revision_of_vilt_gives_its_weights_and_stands_in_its_config(mlm, hub, dataset, tmp_path):
    old, first = hub.commit_of(f"models/{MLM}"), mlm["vilt.layernorm.weight"].clone()
    weights = {key: value + 1 for key, value in mlm.items()}

    hub.repos[f"models/{MLM}"]["pytorch_model.bin"] = pickled(weights)
    for revision, expected, commit in ((old, first, old), (None, first + 1, hub.commit_of(f"models/{MLM}"))):
        args = arguments(tmp_path, model_name_or_path=MLM, model_revision=revision)
        model, _ = build_model(args, dataset)
        assert torch.equal(model.vilt.layernorm.weight, expected)
        assert model.config.base_model == f"{MLM}@{commit}"


def test_run_predictor_evaluation_and_resumption_take_the_commit_of_the_training(two_commits, hub, phantoms, tmp_path):
    old, new = two_commits
    folder = run("blip2", OPT, tmp_path / "out", phantoms, "--model_revision", "v1")
    assert read(folder / "adapter_config.json")["revision"] == old
    assert read(folder / "run.json")["base_revision"] == old
    assert f"started from {OPT} at commit {old}." in str(model_card(folder))
    hub.requests.clear()
    image = sorted(phantoms.glob("imgs/*/source.jpg"))[0]
    Predictor.from_pretrained(folder).answer(image, "Is this CT?", top_k=1)
    run("blip2", folder, tmp_path / "again", phantoms, "--do_train", "False")
    # Without --model_revision the run would begin with main.
    run("blip2", OPT, tmp_path / "out", phantoms, "--max_steps", "3")
    assert read(folder / "trainer_state.json")["global_step"] == 3
    assert read(folder / "adapter_config.json")["revision"] == old
    assert not [request for request in hub.requests if new in request]
    with pytest.raises(UserError, match=r"is from another run \(its revision differs\)"):
        run("blip2", OPT, tmp_path / "out", phantoms, "--model_revision", "main")


def test_vilt_resumes_from_the_commit_of_its_checkpoint(mlm, hub, phantoms, tmp_path):
    old = hub.commit_of(f"models/{MLM}")
    folder = run("vilt", MLM, tmp_path / "out", phantoms)
    hub.repos[f"models/{MLM}"]["README.md"] = b"moved"
    run("vilt", MLM, tmp_path / "out", phantoms)
    assert read(folder / "run.json")["base_revision"] == old
    assert read(folder / "config.json")["base_model"] == f"{MLM}@{old}"
    with pytest.raises(UserError, match=r"is from another run \(its base_model differs\)"):
        run("vilt", MLM, tmp_path / "out", phantoms, "--model_revision", "main")


def test_adapter_of_an_older_version_without_a_commit_loads_its_base_from_main(two_commits, hub, tmp_path):
    _, new = two_commits
    config = {"peft_type": "LORA", "base_model_name_or_path": OPT, "target_modules": ["query"], "revision": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    base = open_base(str(tmp_path))
    assert (base.model.commit, base.adapter.revision) == (new, new)
