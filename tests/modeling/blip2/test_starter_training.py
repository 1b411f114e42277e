"""How the BLIP-2 starter trains, and its adapter over a rebuilt base."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from modeling.asking.predictor import Predictor
from modeling.blip2.adapter import build_model, load_trained, merge
from modeling.blip2.base import load_base
from modeling.blip2.family import build_trainer, find_evidence, read_answers
from modeling.blip2.starter import blip2_starter_checkpoint, blip2_starter_folders
from modeling.parts.efficientnet import moved
from modeling.parts.evidence import moved_masks
from modeling.parts.model_files import ModelFiles, open_model
from modeling.training.summary import describe_parameters, parts_of
from modeling.writing.evidence import loss_of_evidence
from processing.errors import UserError
from tests.modeling.blip2.tiny_runs import starter_arguments
from tests.support.short_runs import weights

PARTS = {"qformer", "language_projection", "language_model"}
pytestmark = pytest.mark.xdist_group("blip2_starter")  # one worker loads it


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """The folder of a short run, its trainer, and the parameters before it."""
    folder = tmp_path_factory.mktemp("trained")
    args = starter_arguments(
        folder,
        max_steps=2,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        qformer_learning_rate=2e-4,
        evidence_weight=0.5,
        warmup_steps=0,
        save_strategy="no",
        eval_strategy="no",
    )
    torch.manual_seed(0)
    peft_model, processor = build_model(args, dataset)
    trainer = build_trainer(args, peft_model, processor, dataset)
    before = {name: p.detach().clone() for name, p in peft_model.named_parameters()}
    trainer.train()
    trainer.save_model()
    return folder, trainer, before


@pytest.fixture(scope="module")
def predicted(trained, dataset):
    """A few rows, and what the trainer predicts of them."""
    _, trainer, _ = trained
    rows = dataset["validation"].select(range(8))
    return rows, trainer.predict(rows)


def test_qformer_projection_and_adapter_train_at_their_rates_and_the_rest_stays(trained):
    _, trainer, before = trained
    now = dict(trainer.model.named_parameters())
    changed = {name for name in now if not torch.equal(now[name], before[name])}
    assert {name.split(".")[2] for name in changed} == {*PARTS, "evidence"}
    assert all(".modules_to_save." in name or ".lora_" in name for name in changed)
    rates = {group["initial_lr"]: len(group["params"]) for group in trainer.optimizer.param_groups if group["params"]}
    assert set(rates) == {1e-3, 2e-4}
    trainable = {name: p for name, p in now.items() if p.requires_grad}
    whole = [p for group in trainer.optimizer.param_groups if group["initial_lr"] == 2e-4 for p in group["params"]]
    assert len(whole) == sum(".qformer.modules_to_save." in name for name in trainable)
    assert {p.dtype for p in trainable.values()} == {torch.float32}


def test_evidence_and_queries_see_the_same_moves(trained, dataset):
    _, trainer, _ = trained
    base = trainer.model.train().get_base_model()
    batch = trainer.training_collator([dataset["train"][i] for i in range(6)])
    targets, features, embeddings = batch.pop("evidence"), batch["image_embeds"], base.get_input_embeddings()
    top = base.vision_model.vision_top.requires_grad_(True)  # images of a frozen network don't move
    with torch.no_grad():
        torch.manual_seed(0)
        states, moves = base.vision_states(image_embeds=features)
        assert moves.shape == (len(features), 2, 3)
        torch.testing.assert_close(states, base.vision_model(moved(features, moves)))
        assert base.vision_maps(states).shape == (len(features), 592, 14, 14)
        still = {**targets, "masks": moved_masks(targets["masks"], moves[targets["images"]])}
        places = base.evidence_places(states)
        evidence = loss_of_evidence(base, places, None, still, embeddings)
        assert abs(evidence - loss_of_evidence(base, places, None, targets, embeddings)) > 1e-3
        losses = []
        for more in ({}, {"evidence": targets}):
            torch.manual_seed(0)
            losses.append(base(**batch, **more).loss)
    torch.testing.assert_close(losses[1] - losses[0], evidence, atol=1e-4, rtol=1e-4)
    trainer.model.eval()
    assert base.vision_states(image_embeds=features)[1] is None
    top.requires_grad_(False)


@torch.no_grad()
def test_queries_see_what_is_detected_by_the_texts_of_labels_in_any_order(trained, dataset):
    _, trainer, _ = trained
    base = trainer.model.eval().get_base_model()
    batch = trainer.data_collator([dataset["train"][i] for i in range(6)])
    states, _ = base.vision_states(image_embeds=batch["image_embeds"])
    places = base.evidence_places(states)
    labels, tokens = base.evidence.labels, base.evidence.detections(places)
    assert len(labels) == len(base.config.evidence_labels) > 4
    assert tokens.shape == (len(states), 4, 384)
    with_them, without = base.query_states(states, places), base.query_states(states)
    assert with_them.shape == without.shape == (len(states), 16, 384)
    assert (with_them - without).abs().max() > 1e-2
    head = base.evidence.modules_to_save["default"]
    try:
        head.labels = labels.flip(0)
        torch.testing.assert_close(head.detections(places), tokens, atol=1e-4, rtol=1e-4)
        head.labels = labels[:-1]
        assert (head.detections(places) - tokens).abs().max() > 1e-3
    finally:
        head.labels = labels


def test_adapter_reloads_over_a_rebuilt_base_to_the_same_answers(trained, predicted, dataset, tmp_path):
    folder, trainer, _ = trained
    rows, output = predicted
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "starter"
    assert not [path.name for path in folder.iterdir() if path.name == "model.safetensors"]
    args = starter_arguments(
        tmp_path, model_name_or_path=str(folder), do_train=False, max_new_tokens=trainer.args.max_new_tokens
    )
    reloaded = build_trainer(args, *build_model(args, dataset), dataset)
    again = reloaded.predict(rows).predictions
    assert (output.predictions[0] == again[0]).all()
    assert find_evidence(reloaded, list(rows)) == find_evidence(trainer, list(rows))
    assert output.predictions[1] == pytest.approx(again[1], rel=1e-4)


def test_training_goes_on_from_an_adapter(trained, dataset, tmp_path):
    folder, trainer, _ = trained
    options = {"max_steps": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "eval_strategy": "no"}
    options |= {"save_strategy": "no", "evidence_weight": 0.5}
    args = starter_arguments(tmp_path, model_name_or_path=str(folder), **options)
    second = build_trainer(args, *build_model(args, dataset), dataset)
    before = weights(trainer)
    assert weights(second).keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in weights(second).items())
    second.train()
    second.save_model()
    moved = {name for name, weight in weights(second).items() if not torch.equal(weight, before[name])}
    assert {name.split(".")[2] for name in moved} == {*PARTS, "evidence"}
    configs = [(place / "adapter_config.json").read_text() for place in (folder, tmp_path)]
    assert configs[0] == configs[1]


def test_predictor_answers_as_the_trainer_does(trained, predicted):
    folder, trainer, _ = trained
    rows, output = predicted
    expected = read_answers(output, trainer)
    predictor = Predictor.from_pretrained(folder, dtype="float32")
    answers = predictor.answer_batch(list(rows["image"]), list(rows["question"]), top_k=1)
    assert [answer.answer for answer in answers] == [expected[row][0] for row in rows["row"]]
    confidences = [expected[row][1] for row in rows["row"]]
    assert [answer.confidence for answer in answers] == pytest.approx(confidences, rel=1e-3)


def test_merged_model_answers_and_finds_as_the_adapter_does(trained, dataset):
    folder, trainer, _ = trained
    trainer.answering.save(folder / "merged")
    merge(str(folder), trainer.args)
    rows = dataset["validation"].select(range(4))
    adapter, merged = (
        Predictor.from_pretrained(place, dtype="float32").answer_batch(list(rows["image"]), list(rows["question"]))
        for place in (folder, folder / "merged")
    )
    for one, other in zip(adapter, merged, strict=True):
        assert other.answer == one.answer
        assert other.confidence == pytest.approx(one.confidence, rel=1e-3)
        assert np.allclose(other.evidence.cells, one.evidence.cells, atol=1e-3)


def test_adapter_over_another_build_of_the_base_is_refused(trained, dataset, tmp_path):
    folder, _, _ = trained
    config = json.loads((folder / "adapter_config.json").read_text())
    config["revision"] = "blip2-0123456789ab"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit its base model \(trained on blip2-0123456789ab, this version"):
        build_model(starter_arguments(tmp_path, model_name_or_path=str(tmp_path), do_train=False), dataset)


@pytest.mark.parametrize(("assembly", "layers"), [(-2, 3), (-1, 6)])
def test_adapter_over_an_older_base_loads_over_that_one(assembly, layers, tmp_path):
    older = list(blip2_starter_folders())[assembly]
    model, _ = load_base(ModelFiles("starter", blip2_starter_checkpoint(older)), torch.float32)
    assert len(model.qformer.encoder.layer) == layers
    config = LoraConfig(r=1, target_modules="language_projection", revision=older.name, init_lora_weights=False)
    adapter = get_peft_model(model, config)
    adapter.save_pretrained(tmp_path, save_embedding_layers=False)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(saved | {"base_model_name_or_path": "starter"}))
    loaded, _ = load_trained(open_model(str(tmp_path)), torch.float32)
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, prefix = adapter.eval().get_base_model().image_prefix(pixels), loaded.eval().image_prefix(pixels)
    assert prefix.shape == (1, 16, 576)  # no token of text comes first
    torch.testing.assert_close(prefix, expected)


def test_what_is_trained_whole_is_counted_once(trained, dataset, tmp_path):
    model, _ = build_model(starter_arguments(tmp_path), dataset)
    parts = describe_parameters(parts_of(model), model).partition(": ")[2].split(", ")
    base = model.get_base_model()
    size = sum(p.numel() for p in base.qformer.modules_to_save["default"].parameters())
    assert f"qformer {size:,} (trained)" in parts
    [vision] = [part for part in parts if part.startswith("vision model")]
    assert vision == f"vision model {sum(p.numel() for p in base.vision_model.parameters()):,}"


def test_heat_map_of_a_trained_adapter_leaves_its_answers_as_they_were(trained, dataset):
    folder, _, _ = trained
    predictor = Predictor.from_pretrained(folder)
    row = dataset["validation"][0]
    before = predictor.answer(row["image"], row["question"])
    heat = predictor.heat_map(row["image"], row["question"], "Left Lung")
    assert heat.shape == (7, 7)
    assert heat.sum() == pytest.approx(1, abs=1e-5)
    assert heat.max() > 1.2 / 49  # two steps of training teach it little
    assert predictor.answer(row["image"], row["question"]) == before


def test_an_adapter_goes_on_with_data_that_have_other_labels(trained, dataset, tmp_path):
    def renamed(row):
        return {"boxes": [box | {"label": f"Upper {box['label'][0]}"} for box in row["boxes"] or []]}

    folder, trainer, _ = trained
    others = dataset.map(renamed, load_from_cache_file=False, features=dataset["train"].features)
    args = starter_arguments(tmp_path, model_name_or_path=str(folder), evidence_weight=0.5)
    model, _ = build_model(args, others)
    labels = model.get_base_model().config.evidence_labels
    assert len(labels) != len(trainer.answering.evidence_labels)
    assert all(label.startswith("Upper ") for label in labels)
    before = weights(trainer)
    now = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert now.keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in now.items())
