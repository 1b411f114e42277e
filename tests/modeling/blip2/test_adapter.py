"""modeling.blip2.adapter and base: where the adapter sits, what is saved of it, and bases that do not fit."""

import json
import shutil

import pytest
import torch
import transformers

from modeling.asking.predictor import Predictor
from modeling.blip2.adapter import build_model
from modeling.training.arguments import Blip2TrainingArguments
from modeling.writing.answering import Answering, decode_with
from processing.errors import UserError
from tests.modeling.blip2.tiny_runs import EVERYTHING, KINDS, arguments, trained, untrained


def adapted(model) -> set[str]:
    """The names of the layers that have an adapter."""
    names = {name.removeprefix("base_model.model.") for name, _ in model.named_modules()}
    return {name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")}


def test_adapter_sits_on_the_query_key_and_value_of_the_qformer(bases, dataset, tmp_path):
    model, _ = build_model(arguments(bases["opt"], tmp_path), dataset)
    places = [(0, "attention"), (0, "crossattention"), (1, "attention")]
    layers = [f"qformer.encoder.layer.{i}.{part}.attention" for i, part in places]
    assert adapted(model) == {f"{layer}.{name}" for layer in layers for name in ("query", "key", "value")}
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 32, 0.0)
    assert Blip2TrainingArguments(output_dir=str(tmp_path)).lora_dropout == 0.1


def test_folder_of_a_whole_model_is_not_looked_for_on_the_hub(bases, dataset, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(bases["opt"].parent)
    build_model(arguments("opt", tmp_path), dataset)
    assert not hub.requests


def test_only_a_starter_has_an_upper_half_of_its_image_network(bases, dataset, tmp_path):
    with pytest.raises(UserError, match="--modules_to_save vision_top: .* has none; only the starter has."):
        build_model(arguments(bases["opt"], tmp_path, modules_to_save=["vision_top"]), dataset)


@pytest.mark.parametrize(
    ("kind", "target", "some", "count"),
    [
        ("opt", "dense", "qformer.encoder.layer.1.output_query.dense", 7),
        ("opt", "projection", "language_projection", 1),
        ("opt", "language_model", "language_model.model.decoder.layers.0.self_attn.out_proj", 12),
        ("llama", "language_model", "language_model.model.layers.1.mlp.gate_proj", 14),
        ("t5", "language_model", "language_model.decoder.block.1.layer.1.EncDecAttention.q", 32),
    ],
)
def test_lora_targets_choose_more(bases, dataset, tmp_path, kind, target, some, count):
    names = adapted(build_model(arguments(bases[kind], tmp_path, lora_targets=[target]), dataset)[0])
    assert some in names
    assert len(names) == count


def test_the_published_recipe_trains_matrices_of_the_qformer_alone(bases, dataset, tmp_path):
    model, _ = build_model(arguments(bases["opt"], tmp_path), dataset)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("base_model.model.qformer.") for name in trained)
    assert sum(trained.values()) == 9 * 8 * (32 + 32)


def test_adapter_is_fp32_over_a_half_precision_base(bases, dataset, tmp_path):
    args = arguments(bases["opt"], tmp_path)
    args.fp16 = True  # as on a GPU
    model, _ = build_model(args, dataset)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.get_base_model().language_model.dtype == torch.float16
    assert model.get_base_model().query_tokens.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_reloads_to_the_same_answers(bases, dataset, tmp_path, kind):
    trainer = trained(bases[kind], tmp_path / "a", dataset, lora_targets=EVERYTHING, learning_rate=0.1)
    trainer.save_model()
    tokens = trainer.predict(dataset["validation"]).predictions[0]
    reloaded = untrained(tmp_path / "a", tmp_path / "b", dataset, do_train=False)
    assert (reloaded.predict(dataset["validation"]).predictions[0] == tokens).all()
    base = untrained(bases[kind], tmp_path / "c", dataset)
    assert (base.predict(dataset["validation"]).predictions[0] != tokens).any()


@pytest.mark.parametrize("kind", KINDS)
def test_merged_model_is_a_stock_one_with_the_adapters_answers(bases, dataset, tmp_path, kind):
    options = {"lora_targets": EVERYTHING, "learning_rate": 0.1, "merge_adapter": True, "feature_cache_gb": 1}
    trainer = trained(bases[kind], tmp_path / "a", dataset, **options)
    trainer.save_model()
    tokens = trainer.predict(dataset["validation"]).predictions[0]
    merged = tmp_path / "a" / "merged"
    _, report = transformers.Blip2ForConditionalGeneration.from_pretrained(merged, output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"]
    reloaded = untrained(merged, tmp_path / "b", dataset, do_train=False)
    assert (reloaded.predict(dataset["validation"]).predictions[0] == tokens).all()


def test_another_kind_of_model_is_named(dataset, tmp_path):
    transformers.BertConfig(hidden_size=32).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="a model of type 'bert', not BLIP-2; choose Salesforce/blip2-opt-2.7b"):
        build_model(arguments(tmp_path / "bert", tmp_path), dataset)


def test_adapter_for_another_base_is_refused_with_the_name_of_the_base(bases, dataset, tmp_path):
    trained(bases["opt"], tmp_path / "a", dataset, max_steps=1, lora_targets=["language_model"]).save_model()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(bases["llama"])
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit its base model .*llama"):
        build_model(arguments(tmp_path / "a", tmp_path, do_train=False), dataset)


def test_missing_base_is_named(dataset, tmp_path, hub):
    with pytest.raises(UserError, match="nobody/nothing: the Hub has no such model"):
        build_model(arguments("nobody/nothing", tmp_path), dataset)


def test_quantization_without_bitsandbytes_says_what_to_install(bases, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling.training.arguments.is_bitsandbytes_available", lambda: False)
    with pytest.raises(UserError, match="--quantization 4bit: needs bitsandbytes"):
        build_model(arguments(bases["opt"], tmp_path, quantization="4bit"), dataset)


def test_model_of_a_quantized_base_is_asked_whole_without_bitsandbytes_and_says_so(
    bases, tmp_path, monkeypatch, caplog
):
    folder = shutil.copytree(bases["opt"], tmp_path / "model")
    Answering(quantization="8bit").save(folder)
    monkeypatch.setattr("modeling.writing.adapter.is_bitsandbytes_available", lambda: False)
    predictor = Predictor.from_pretrained(folder, dtype="float32")
    assert {p.dtype for p in predictor.model.language_model.parameters()} == {torch.float32}
    assert f"{folder}: trained over a base in 8bit, which needs bitsandbytes; without it the base is in float32" in (
        caplog.text
    )


def test_padding_of_other_processes_is_not_read_as_tokens(bases, dataset, tmp_path):
    _, processor = build_model(arguments(bases["opt"], tmp_path), dataset)
    ids = processor.tokenizer(" Left Lung", add_special_tokens=False)["input_ids"]
    assert decode_with(processor, [1])([[*ids, 1, 0, -100]]) == ["Left Lung"]
