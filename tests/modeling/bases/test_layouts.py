"""The base models of the Hub in the layouts that they have and had: configs, tokenizers, sizes of images, shards."""

import json

import pytest
import torch

from modeling.blip2.adapter import build_model as build_blip2
from modeling.blip2.adapter import open_base
from modeling.blip2.base import load_base, max_length
from modeling.parts.model_files import open_model
from modeling.vilt.checkpoints import build_model, load_checkpoint
from modeling.writing.answering import end_tokens
from processing.errors import UserError
from tests.modeling.bases.conftest import MLM, VQA
from tests.modeling.blip2.tiny_runs import arguments as blip2_arguments
from tests.modeling.vilt.arguments import arguments
from tests.support.hub_models import IMAGE_TOKEN, NEW_LINE, to_json, vilt_files

OPT, T5 = "Salesforce/blip2-opt-2.7b", "Salesforce/blip2-flan-t5-xl"


@pytest.mark.parametrize("tokenizer_json", [True, False])
def test_vilt_of_2022_has_one_number_for_its_size_and_a_vocabulary_as_text(hub, dataset, tmp_path, tokenizer_json):
    questions = dataset["train"]["question"]
    hub.repos[f"models/{MLM}"], _ = vilt_files(questions, tokenizer_json=tokenizer_json)
    model, processor = build_model(arguments(tmp_path, model_name_or_path=MLM), dataset)
    assert processor.image_processor.size["shortest_edge"] == 384
    assert model.config.image_size == 384
    tokens = processor.tokenizer.convert_ids_to_tokens(processor.tokenizer("IS this?")["input_ids"])
    assert tokens == ["[CLS]", "is", "this", "?", "[SEP]"]


def test_vilt_with_trained_answers_keeps_them_to_evaluate_and_gets_new_ones_to_train(vqa, dataset, tmp_path):
    own, _ = build_model(arguments(tmp_path, model_name_or_path=VQA, do_train=False), dataset)
    assert own.config.id2label == {0: "yes", 1: "no", 2: "2"}
    assert torch.equal(own.classifier[3].weight, vqa["classifier.3.weight"])
    new, _ = build_model(arguments(tmp_path, model_name_or_path=VQA), dataset)
    assert set(new.config.label2id) == set(dataset["train"]["answer"])
    assert torch.equal(new.vilt.pooler.dense.weight, vqa["vilt.pooler.dense.weight"])


def test_vilt_without_answers_can_not_be_evaluated(mlm, dataset, tmp_path):
    with pytest.raises(UserError, match=r"it has no trained answers \(classifier.0.bias is missing\); train it first"):
        build_model(arguments(tmp_path, model_name_or_path=MLM, do_train=False), dataset)


@pytest.mark.parametrize("year", [2023, 2026])
@pytest.mark.parametrize(("kind", "name"), [("opt", OPT), ("opt", "Salesforce/blip2-opt-6.7b"), ("t5", T5)])
def test_blip2_of_today_and_of_2023_load_with_all_their_weights(blip2, hub, kind, name, year):
    weights = blip2(kind, name, year)
    files = open_base(name).model
    assert not [request for request in hub.requests if ".safetensors" in request and ".json" not in request]
    model, processor = load_base(files, torch.float32)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    vocabulary = {("opt", 2023): 50272, ("opt", 2026): 50304, ("t5", 2023): 32128, ("t5", 2026): 32128}
    assert model.get_input_embeddings().weight.shape[0] == vocabulary[kind, year]
    image_token = {"opt": IMAGE_TOKEN, "t5": 32100}[kind]
    assert model.config.image_token_index == (image_token if year == 2026 else None)
    assert processor.num_query_tokens == model.config.num_query_tokens == 8
    assert (processor.image_processor.size["height"], processor.image_processor.size["width"]) == (224, 224)
    tokenizer = processor.tokenizer
    ids = tokenizer("Question: Is this CT? Answer:")["input_ids"]
    if kind == "opt":
        assert (ids[0], ids[-1]) == (2, tokenizer.convert_tokens_to_ids(":"))  # it begins with </s>
        assert tokenizer.convert_ids_to_tokens(NEW_LINE) == "Ċ"
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (1, 2)
        assert end_tokens(model, tokenizer) == [NEW_LINE, 2]
        assert max_length(model) == 2048 - 8
    else:
        assert ids[-1] == 1
        assert end_tokens(model, tokenizer) == [1]
        assert max_length(model) is None


def drop(weights: dict[str, bytes], key: str, hub, name: str) -> None:
    """Takes a tensor out of the index of a repo's shards, and out of its shard."""
    from safetensors.torch import load, save

    files = hub.repos[f"models/{name}"]
    index = json.loads(files["model.safetensors.index.json"])
    shard = index["weight_map"].pop(key)
    tensors = load(files[shard])
    weights["gone"] = tensors.pop(key)
    files[shard] = save(tensors, {"format": "pt"})
    files["model.safetensors.index.json"] = to_json(index)


def test_blip2_that_lacks_a_weight_never_trains_from_a_random_one(blip2, hub, dataset, tmp_path):
    weights = blip2("opt", OPT)
    for key in ("qformer.layernorm.weight", "language_projection.bias"):
        drop(weights, key, hub, OPT)
    told = r"its weights are not those of the blip-2 model in its config.json \(missing: language_projection.bias, "
    with pytest.raises(UserError, match=told + r"qformer.layernorm.weight\); choose another, or download it again"):
        build_blip2(blip2_arguments(OPT, tmp_path), dataset)


def change(hub, name: str, **changes: object) -> None:
    """Changes the config of a repo."""
    config = json.loads(hub.repos[f"models/{name}"]["config.json"])
    for key, value in changes.items():
        part, _, inner = key.partition("__")
        if inner:
            config[part][inner] = value
        else:
            config[part] = value
    hub.repos[f"models/{name}"]["config.json"] = to_json(config)


def test_config_of_another_size_is_told_by_the_first_weights_of_another_shape(blip2, hub, dataset, tmp_path):
    blip2("opt", OPT)
    change(hub, OPT, vision_config__intermediate_size=48)
    told = (
        r"of another shape: vision_model.encoder.layers.0.mlp.fc1.bias, vision_model.encoder.layers.0.mlp.fc1.weight"
    )
    with pytest.raises(UserError, match=told + ", vision_model.encoder.layers.0.mlp.fc2.weight and 3 more"):
        build_blip2(blip2_arguments(OPT, tmp_path), dataset)


@pytest.mark.parametrize("layers", [1, 3])
def test_vilt_of_another_depth_than_its_weights_is_refused(mlm, hub, dataset, tmp_path, layers):
    change(hub, MLM, num_hidden_layers=layers)
    kind = "unknown: vilt.encoder.layer.1" if layers == 1 else "missing: vilt.encoder.layer.2"
    with pytest.raises(UserError, match=rf"{MLM}: its weights are not those of the vilt model .*{kind}.* and 13 more"):
        build_model(arguments(tmp_path, model_name_or_path=MLM), dataset)


def test_weights_under_other_names_are_refused_and_those_that_transformers_renames_are_not(vqa, dataset, tmp_path):
    from safetensors.torch import save_file

    from tests.support.hub_models import write_files

    files, weights = vilt_files(dataset["train"]["question"], ("yes", "no", "2"))
    del files["pytorch_model.bin"], weights["vilt.embeddings.text_embeddings.position_ids"]
    folder = write_files(tmp_path / "m", files)
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in weights.items()
    }
    assert old.keys() != weights.keys()
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    model, _ = load_checkpoint(open_model(str(folder)))
    key = "vilt.embeddings.text_embeddings.LayerNorm.weight"
    assert torch.equal(model.state_dict()[key], weights[key])
    save_file(
        {f"module.{key}": value for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match=r"missing: .* and \d+ more; unknown: module\.classifier\.0\.bias, "):
        load_checkpoint(open_model(str(folder)))
