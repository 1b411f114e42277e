"""modeling.parts.loading: no file of a model has another file read, or code of the Hub run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling.asking.predictor import Predictor
from modeling.blip2.adapter import build_model
from modeling.parts.loading import load_config
from processing.errors import UserError
from tests.modeling.blip2.tiny_runs import arguments
from tests.support.tiny_blip2 import tiny_blip2

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def base(dataset, tmp_path_factory) -> Path:
    return tiny_blip2("opt", dataset, tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def model(base, tmp_path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(base, tmp_path / "model"))


def change_config(model: Path, part: str | None = None, **changes: object) -> None:
    config = json.loads((model / "config.json").read_text())
    (config if part is None else config[part]).update(changes)
    (model / "config.json").write_text(json.dumps(config))


def refusal(model: str | Path, dataset, monkeypatch) -> str:
    """What a predictor and a training say to a model, of which neither unpickles anything."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    said = []
    for ask in (Predictor.from_pretrained, lambda name: build_model(arguments(name, Path("out")), dataset)):
        with pytest.raises(UserError) as error:
            ask(str(model))
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    return said[0]


SHARDS = {
    "weights.txt": "names 'weights.txt', which is no safetensors file beside it",
    "../outside.safetensors": "names '../outside.safetensors', which is no safetensors file beside it",
    "/outside.safetensors": "names '/outside.safetensors', which is no safetensors file beside it",
    "part/../model.safetensors": "names 'part/../model.safetensors', which is no safetensors file beside it",
    "..\\outside.safetensors": "names '..\\\\outside.safetensors', which is no safetensors file beside it",
    ".safetensors": "names '.safetensors', which is no safetensors file beside it",
    None: "is damaged",
}


@pytest.mark.parametrize("shard", SHARDS, ids=str)
def test_an_index_names_nothing_but_safetensors_beside_it(model, dataset, monkeypatch, tmp_path, shard):
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(tmp_path / "outside.safetensors")
    torch.save(weights, model / "weights.txt")
    save_file({"x": torch.zeros(1)}, model / "other.safetensors")
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}))
    said = refusal(model, dataset, monkeypatch)
    assert said == f"{model}: its {INDEX} {SHARDS[shard]}; save or download the model again."


@pytest.mark.parametrize(
    "content", ["{torn", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"x": "a.safetensors"}}']
)
def test_a_damaged_index_is_one_sentence(model, dataset, monkeypatch, content):
    (model / "model.safetensors").rename(model / "other.safetensors")
    (model / INDEX).write_text(content)
    assert f"its {INDEX} is damaged; save or download the model again." in refusal(model, dataset, monkeypatch)


def test_a_model_in_shards_loads_and_a_missing_one_is_named(model, dataset, images, tmp_path, monkeypatch):
    expected = Predictor.from_pretrained(model).answer(images[0], "CT?")
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    shards = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(weights)}
    for shard in set(shards.values()):
        part = {name: value for name, value in weights.items() if shards[name] == shard}
        save_file(part, model / shard, {"format": "pt"})
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert Predictor.from_pretrained(model).answer(images[0], "CT?") == expected
    (model / "model-00001-of-00002.safetensors").unlink()
    assert "model-00001-of-00002.safetensors" in refusal(model, dataset, monkeypatch)


def test_a_config_names_no_weights_of_its_own(model, dataset, images, monkeypatch):
    expected = Predictor.from_pretrained(model).answer(images[0], "CT?")
    torch.save(load_file(model / "model.safetensors"), model / "adapter_model.bin")
    change_config(model, transformers_weights="adapter_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    assert Predictor.from_pretrained(model).answer(images[0], "CT?") == expected


@pytest.mark.parametrize("part", [None, "text_config"])
@pytest.mark.parametrize("option", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_kernel_that_a_config_names_is_not_fetched(model, images, monkeypatch, part, option):
    expected = Predictor.from_pretrained(model).answer(images[0], "CT?")
    change_config(model, part, **{option: "evil/kernel"})
    fetched = []
    monkeypatch.setattr(
        "transformers.integrations.hub_kernels.get_kernel", lambda name, *_, **__: fetched.append(name)
    )
    monkeypatch.setattr("transformers.modeling_utils.is_kernels_available", lambda *_, **__: True)
    assert Predictor.from_pretrained(model).answer(images[0], "CT?") == expected
    assert not fetched
    assert "evil" not in repr(load_config(model))


def test_the_plain_attention_that_a_config_names_stays(model):
    change_config(model, attn_implementation="eager")
    assert load_config(model)._attn_implementation == "eager"


@pytest.mark.parametrize("method", ["gptq", "awq", "torchao", "compressed-tensors"])
def test_a_quantized_model_whose_package_is_missing_is_one_sentence(model, dataset, monkeypatch, method):
    settings = {"quant_method": method, "bits": 4, "quant_type": "Int8WeightOnlyConfig"}
    change_config(model, quantization_config=settings)
    said = refusal(model, dataset, monkeypatch)
    assert said.startswith(f"{model}: it needs a package that is not installed (")
    assert said.endswith("); install it, or choose another model.")
