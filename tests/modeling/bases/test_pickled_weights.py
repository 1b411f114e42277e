"""modeling.parts.pickled_weights: a base with a pickle alone is converted once, and nothing but tensors is read."""

import hashlib
import io
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file

from modeling.asking.predictor import Predictor
from modeling.parts.model_files import ModelFiles, open_model
from modeling.vilt.checkpoints import build_model, check_base
from processing.errors import UserError
from tests.modeling.bases.conftest import MLM, VQA, converted
from tests.modeling.vilt.arguments import arguments
from tests.support.hub_models import add_conversion_request, pickled, to_json
from tests.support.killed import Killed


def test_pickle_alone_is_converted_once_and_serves_offline(mlm, hub, dataset, tmp_path, offline, monkeypatch):
    add_conversion_request(hub, MLM, 4, mlm)  # the weights there are zeros
    args = arguments(tmp_path, model_name_or_path=MLM)
    model, _ = build_model(args, dataset)
    state = model.state_dict()
    shared = [key for key in mlm if key in state]
    new = {name for name in state if name.startswith(("classifier.", "evidence."))}
    assert set(shared) == state.keys() - new
    assert all(torch.equal(state[key], mlm[key]) for key in shared)
    asked = [
        request for request in hub.requests if "pr%2F4" in request or "refs/pr" in request or "discuss" in request
    ]
    assert not asked
    commit = hub.commit_of(f"models/{MLM}")
    content = hub.repos[f"models/{MLM}"]["pytorch_model.bin"]
    digest = hashlib.sha256(hashlib.sha256(content).hexdigest().encode()).hexdigest()
    assert converted() == [f"dandelin--vilt-b32-mlm-{commit}-{digest[:16]}"]

    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read again"))
    offline()
    before = len(hub.requests)
    again, _ = build_model(arguments(tmp_path, model_name_or_path=MLM), dataset)
    assert all(torch.equal(again.state_dict()[key], mlm[key]) for key in shared)
    assert len(hub.requests) == before


def test_evaluation_and_predictor_of_a_pickled_model_that_was_converted(vqa, hub, dataset, images, tmp_path):
    """`Predictor` itself reads no pickle, but what a run has made of one."""
    with pytest.raises(UserError, match=r"no weights as safetensors, and pickled ones \(.bin, .pt\) are not loaded"):
        Predictor.from_pretrained(VQA)
    assert converted() == []
    build_model(arguments(tmp_path, model_name_or_path=VQA, do_train=False), dataset)
    assert len(converted()) == 1
    assert Predictor.from_pretrained(VQA).answer(images[0], "Is this CT?").answer in ("yes", "no", "2")


@pytest.fixture
def sharded(tmp_path, vqa):
    """A folder with the pickled weights in two shards; one tensor is a view, two are one."""
    keys = sorted(vqa)
    vqa[keys[0]] = torch.stack([vqa[keys[0]]] * 2, dim=-1)[..., 0]  # every other number of its memory
    vqa["extra"] = vqa[keys[1]]
    parts = {"pytorch_model-00001-of-00002.bin": [*keys[:5], "extra"], "pytorch_model-00002-of-00002.bin": keys[5:]}
    places = {key: file for file, names in parts.items() for key in names}
    (tmp_path / "pytorch_model.bin.index.json").write_bytes(to_json({"metadata": {}, "weight_map": places}))
    for file, names in parts.items():
        (tmp_path / file).write_bytes(pickled({key: vqa[key] for key in names}))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    return tmp_path


def test_shards_with_views_and_shared_tensors_keep_all_names_and_values(sharded, vqa):
    folder = ModelFiles("base", sharded).weights(read_pickled=True)
    found = {}
    for number in (1, 2):
        found |= load_file(folder / f"model-{number:05}-of-00002.safetensors")
    assert found.keys() == vqa.keys()
    assert all(torch.equal(found[key], vqa[key]) for key in vqa)
    assert (folder / "generation_config.json").read_text() == '{"eos_token_id": 7}'
    assert ModelFiles("base", sharded).weights(read_pickled=True) == folder
    (sharded / "pytorch_model-00002-of-00002.bin").write_bytes(pickled({"another": torch.ones(1)}))
    assert ModelFiles("base", sharded).weights(read_pickled=True) != folder


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def old_format(content: object) -> bytes:
    """A file of before PyTorch 1.6."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


BAD = {
    "code": lambda mark: pickled({"x": torch.ones(2), "y": Evil(f"touch {mark}")}),
    "code in the old format": lambda mark: old_format({"x": torch.ones(2), "y": Evil(f"touch {mark}")}),
    "code alone": lambda mark: pickle.dumps(Evil(f"touch {mark}")),
    "a number among tensors": lambda _: pickled({"x": torch.ones(2), "epoch": 3}),
    "a list": lambda _: pickled([torch.ones(2)]),
    "nothing": lambda _: pickled({}),
    "a training's dictionary": lambda _: pickled({"state_dict": {"x": torch.ones(2)}}),
    "a number that fills the memory": lambda _: pickled({"x": torch.ones(1).expand(10**12)}),
    "a cut off file": lambda _: pickled({"x": torch.ones(1000)})[:-900],
    "no pickle": lambda _: b"<html>not found</html>",
    "an empty file": lambda _: b"",
}


@pytest.mark.parametrize("kind", BAD)
def test_anything_but_tensors_is_refused_in_a_sentence_and_leaves_nothing(mlm, hub, dataset, tmp_path, kind):
    hub.repos[f"models/{MLM}"]["pytorch_model.bin"] = BAD[kind](tmp_path / "ran")
    with pytest.raises(UserError, match=f"{MLM}: pytorch_model.bin can't be read as tensors alone") as error:
        build_model(arguments(tmp_path, model_name_or_path=MLM), dataset)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    assert converted() == []


def test_tensors_of_the_old_format_are_converted(tmp_path, vqa):
    (tmp_path / "pytorch_model.bin").write_bytes(old_format(vqa))
    folder = ModelFiles("base", tmp_path).weights(read_pickled=True)
    assert torch.equal(load_file(folder / "model.safetensors")["vilt.layernorm.weight"], vqa["vilt.layernorm.weight"])


def test_download_that_is_damaged_is_not_converted(mlm, hub, tmp_path):
    files = open_model(MLM)
    files.fetch(["pytorch_model.bin"])
    file = (files.root / "pytorch_model.bin").resolve()
    file.write_bytes(file.read_bytes()[:-4] + b"torn")
    with pytest.raises(UserError, match="pytorch_model.bin is damaged .*; remove .* and download it again"):
        files.weights(read_pickled=True)
    assert converted() == []


def test_killed_conversion_leaves_nothing_that_is_taken_for_whole(mlm, monkeypatch, dataset, tmp_path):
    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("modeling.parts.pickled_weights.save_file", killed)
        with pytest.raises(Killed):
            open_model(MLM).weights(read_pickled=True)
    assert converted() == []
    assert len(list(open_model(MLM).weights(read_pickled=True).iterdir())) == 1


def test_safetensors_are_taken_where_a_repo_has_both(blip2, hub):
    weights = blip2("opt", "user/both")
    folder = open_model("user/both").weights(read_pickled=True)
    fetched = {request.split("/")[-1] for request in hub.requests if "/resolve/" in request}
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} <= fetched
    assert not [name for name in fetched if name.endswith(".bin")]
    assert load_file(folder / "model-00002-of-00002.safetensors").keys() < weights.keys()


def test_no_weights_at_all_is_a_sentence(mlm, hub, tmp_path, dataset):
    del hub.repos[f"models/{MLM}"]["pytorch_model.bin"]
    args = arguments(tmp_path, model_name_or_path=MLM)
    check_base(args)
    with pytest.raises(UserError, match=f"{MLM}: it has no weights, model.safetensors or pytorch_model.bin"):
        build_model(args, dataset)
