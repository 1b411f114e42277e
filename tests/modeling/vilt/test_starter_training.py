"""How the ViLT starter trains: what is frozen, how images and questions vary, which questions it trains on."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from datasets import DatasetDict
from torch.utils.data import DataLoader

import train
from modeling.parts.kept_features import BATCH_SIZE
from modeling.vilt import trainer as trainer_module
from modeling.vilt.checkpoints import check_base
from modeling.vilt.family import build_trainer
from processing.errors import UserError
from processing.images import open_image
from processing.wordings import key, training_wordings
from tests.modeling.vilt.arguments import starter_arguments


def test_frozen_parts_stay_as_they_were_and_the_rest_trains(starter, dataset, tmp_path):
    model, processor = starter
    args = starter_arguments(
        tmp_path, max_steps=2, per_device_train_batch_size=8, disable_tqdm=True, save_strategy="no"
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    build_trainer(args, model, processor, dataset).train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} >= {"vision_top", "encoder", "classifier", "question_projection"}
    assert changed <= trained  # the statistics of batch normalisation among the fixed ones
    assert not [name for name in trained if name.startswith(("text_encoder.", "vision."))]
    assert len(changed) > 0.9 * len(trained)


def test_box_questions_are_trained_on_and_change_nothing_else(starter, dataset, tmp_path):
    model, processor = starter
    labels = dict(model.config.label2id)
    plain = build_trainer(starter_arguments(tmp_path), model, processor, dataset)
    more = build_trainer(starter_arguments(tmp_path, box_questions=True), model, processor, dataset)
    assert plain.train_dataset.to_list() == dataset["train"].to_list()
    assert len(more.train_dataset) > 1.5 * len(dataset["train"])
    assert more.eval_dataset.to_list() == dataset["validation"].to_list()
    made = more.train_dataset[len(dataset["train"])]
    batch = more.data_collator([made])
    assert batch["labels"][0, labels[made["answer"]]] == 1
    assert batch["text_states"].shape[1] == batch["input_ids"].shape[1]
    assert model.config.label2id == labels
    evaluation = build_trainer(
        starter_arguments(tmp_path, box_questions=True, do_train=False), model, processor, dataset
    )
    assert len(evaluation.train_dataset) == len(dataset["train"])


def test_questions_in_other_words_are_trained_on_and_never_evaluated_on(starter, dataset, tmp_path):
    model, processor = starter
    dataset = DatasetDict({split: rows.select(range(min(96, len(rows)))) for split, rows in dataset.items()})
    args = starter_arguments(tmp_path, other_words=1.0, implied_questions=True, per_device_train_batch_size=32)
    trainer = build_trainer(args, model, processor, dataset)
    training = {row["row"]: row for row in trainer.train_dataset}
    assert len(training) > 1.3 * len(dataset["train"])

    def asked(loader):
        texts = {}
        for batch in loader:
            assert batch["text_states"].shape[1] == batch["input_ids"].shape[1]
            for number, ids in zip(batch["row"].tolist(), batch["input_ids"], strict=True):
                texts[number] = key(processor.tokenizer.decode(ids, skip_special_tokens=True))
        return texts

    first = asked(trainer.get_train_dataloader())
    changed = [number for number, text in first.items() if text != key(training[number]["question"])]
    assert len(changed) > 0.9 * len(training)
    number = changed[0]
    assert first[number] in {key(text) for text in training_wordings(training[number]["question"])}
    trainer.training_collator.set_epoch(1)
    second = asked(trainer.get_train_dataloader())
    assert sum(second[number] != first[number] for number in first) > 0.7 * len(first)
    evaluated = asked(trainer.get_eval_dataloader())
    assert evaluated == {row["row"]: key(row["question"]) for row in dataset["validation"]}


def test_training_transforms_images_and_drops_tokens_but_evaluation_does_not(starter, collate, dataset):
    model, _ = starter
    batch = collate([dataset["train"][0]])
    with torch.no_grad():
        evaluated = [model.eval()(**batch).logits for _ in range(2)]
        trained = [model.train()(**batch).logits for _ in range(2)]
        for name in ("word_dropout", "max_rotation", "max_scaling", "max_shift"):
            setattr(model.config, name, 0.0)
        without_augmentation = model(**batch).logits
    assert torch.equal(*evaluated)
    assert (trained[0] - trained[1]).abs().max() > 1e-3
    torch.testing.assert_close(without_augmentation, evaluated[0], atol=2e-3, rtol=2e-3)


def test_images_are_not_transformed_for_a_frozen_network(starter, dataset, tmp_path, monkeypatch):
    model, processor = starter
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))  # other tests keep other batches
    # The images that were kept as one batch: another number of them rounds otherwise on some processors.
    first = {row["image"]: row for row in reversed(list(dataset["train"]))}
    rows = [first[image] for image in list(dict.fromkeys(dataset["train"]["image"]))[:BATCH_SIZE]]
    batch = build_trainer(starter_arguments(tmp_path), model, processor, dataset).data_collator(rows)
    trainer = build_trainer(starter_arguments(tmp_path, vision_learning_rate=0), model, processor, dataset)
    model.config.word_dropout = 0.0
    with torch.no_grad():
        plain = model.eval()(**batch).logits
        torch.testing.assert_close(model.train()(**batch).logits, plain)
        patches = model.patches(image_embeds=batch["image_embeds"])
    kept = trainer.data_collator(rows)  # the whole network ran once an image
    assert "image_embeds" not in kept
    torch.testing.assert_close(kept["image_patches"], patches, atol=1e-5, rtol=1e-5)
    model.vision_top.requires_grad_(True)
    with torch.no_grad():
        assert (model(**batch).logits - plain).abs().max() > 1e-3


def test_evaluating_again_reads_kept_features_to_the_same_answers(phantoms, dataset, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--dataset", str(phantoms), "--disable_tqdm", "True", "--do_predict", "True"]
    flags += ["--max_eval_samples", "24", "--max_predict_samples", "24"]
    quick = ["--num_train_epochs", "1", "--save_strategy", "no", "--per_device_train_batch_size", "32"]
    train.main([*flags, *quick, "--model_name_or_path", "starter", "--output_dir", str(first)])
    caplog.clear()
    train.main([*flags, "--model_name_or_path", str(first), "--do_train", "False", "--output_dir", str(second)])
    images = {*dataset["train"]["image"], *dataset["validation"]["image"][:24], *dataset["test"]["image"][:24]}
    assert f"Image features: 0 computed, {len(images)} read" in caplog.text
    figures = [json.loads((folder / "all_results.json").read_text()) for folder in (first, second)]
    assert figures[0]["eval_exact_match"] == figures[1]["eval_exact_match"]
    predictions = [(folder / "predictions_test.jsonl").read_text() for folder in (first, second)]
    assert predictions[0] == predictions[1]


def test_starter_can_not_be_evaluated_untrained(tmp_path):
    with pytest.raises(UserError, match="nothing to evaluate"):
        check_base(starter_arguments(tmp_path, do_train=False))


def test_features_and_states_are_computed_on_the_device_of_the_run(starter, dataset, tmp_path, monkeypatch):
    moves = []

    def record(module, device, *_, **__):  # there is no GPU to move to
        moves.append((type(module).__name__, torch.device(device).type))
        return module

    args = starter_arguments(tmp_path, feature_cache_gb=1)
    monkeypatch.setattr(type(args), "device", torch.device("cuda"))
    monkeypatch.setattr(torch.nn.Module, "to", record)
    monkeypatch.setattr(trainer_module, "ViltTrainer", lambda *_, **__: SimpleNamespace(training_collator=None))
    build_trainer(args, *starter, dataset)
    assert moves == [("FrozenEfficientNet", "cuda"), ("FrozenEfficientNet", "cpu"), ("BertModel", "cuda")]


def test_workers_compute_on_the_cpu_what_is_not_kept(starter, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))  # without the features of other tests
    model, processor = starter
    rows = dataset["train"].select(range(3))
    args = starter_arguments(tmp_path, feature_cache_gb=1e-9, dataloader_num_workers=1)
    trainer = build_trainer(args, model, processor, dataset)
    pixels = processor.image_processor([open_image(rows["image"][0])], return_tensors="pt")["pixel_values"]
    expected = model.vision(pixels)[0]
    model.to("meta")  # as the Trainer moves it to a GPU, where a fork can't compute
    batch = next(iter(DataLoader(rows, 3, collate_fn=trainer.data_collator, num_workers=1)))
    torch.testing.assert_close(batch["image_embeds"][0], expected)
