"""modeling.blip2.trainer: how an adapter trains, resumes and is evaluated."""

import json
import logging

import pytest
import torch

import train
from modeling.blip2.adapter import build_model
from modeling.blip2.family import build_trainer
from modeling.parts.model_files import open_model
from modeling.writing.answering import Answering
from processing.errors import UserError
from tests.modeling.blip2.tiny_runs import EVERYTHING, arguments, trained, untrained
from tests.support.short_runs import weights


def test_accumulated_batches_give_the_adapter_of_one_large_batch(bases, dataset, tmp_path):
    plain = {"max_steps": 2, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}
    one = trained(bases["opt"], tmp_path / "a", dataset, **plain)
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    two = trained(bases["opt"], tmp_path / "b", dataset, **plain, **halves)
    assert any(weight.abs().max() > 1e-3 for name, weight in weights(one).items() if "lora_B" in name)
    for name, weight in weights(one).items():
        torch.testing.assert_close(weights(two)[name], weight, atol=1e-6, rtol=1e-4)


def test_gradient_checkpointing_gives_the_same_adapter(bases, dataset, tmp_path):
    plain = trained(bases["llama"], tmp_path / "a", dataset, max_steps=3)
    checkpointed = trained(bases["llama"], tmp_path / "b", dataset, max_steps=3, gradient_checkpointing=True)
    assert any(weight.abs().max() > 0 for name, weight in weights(plain).items() if "lora_B" in name)
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(checkpointed)[name], weight, atol=1e-5, rtol=1e-4)


def test_resumed_run_ends_with_the_same_adapter(bases, dataset, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3, "lora_dropout": 0.1, "other_words": 0.5}
    whole = trained(bases["opt"], tmp_path / "a", dataset, **saving)
    checkpoint = str(tmp_path / "a" / "checkpoint-3")
    resumed = trained(bases["opt"], tmp_path / "b", dataset, **saving, resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == 6
    for name, weight in weights(whole).items():
        assert torch.equal(weights(resumed)[name], weight)


def test_kept_features_give_the_loss_of_pixels_without_the_encoder(bases, dataset, rows, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    losses = []
    for gigabytes in (1, 0):
        trainer = untrained(bases["opt"], tmp_path, dataset, feature_cache_gb=gigabytes)
        model, batch = trainer.model, trainer.data_collator(rows)
        assert ("image_embeds" in batch) == ("pixel_values" not in batch) == bool(gigabytes)
        assert (model.get_base_model().vision_model is None) == bool(gigabytes)
        with torch.no_grad():
            losses.append(model.eval()(**batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert "Image features: 28 computed" in caplog.text or "Image features: 0 computed, 28 read" in caplog.text


def test_written_and_chosen_answers_are_evaluated_and_again_to_the_same_figures(bases, phantoms, dataset, tmp_path):
    flags = ["--model_type", "blip2", "--dataset", str(phantoms), "--disable_tqdm", "True", "--fp16", "False"]
    flags += ["--answer_candidates", "train", "--do_predict", "True"]
    first, second = tmp_path / "first", tmp_path / "second"
    options = ["--num_train_epochs", "1", "--lora_targets", *EVERYTHING, "--prompt", "Asked: {} It is"]
    train.main([*flags, *options, "--model_name_or_path", str(bases["opt"]), "--output_dir", str(first)])
    figures = json.loads((first / "all_results.json").read_text())
    assert {"eval_exact_match", "eval_f1", "eval_generated_exact_match", "test_generated_f1"} <= figures.keys()
    train.main([*flags, "--do_train", "False", "--model_name_or_path", str(first), "--output_dir", str(second)])
    again = json.loads((second / "all_results.json").read_text())
    assert again["eval_exact_match"] == figures["eval_exact_match"]
    for split in ("validation", "test"):
        predictions = [(folder / f"predictions_{split}.jsonl").read_text() for folder in (first, second)]
        assert predictions[0] == predictions[1]
        assert {json.loads(line)["prediction"] for line in predictions[0].splitlines()} <= set(
            dataset["train"]["answer"]
        )
    assert Answering.from_pretrained(open_model(str(second))) == Answering()  # evaluation alone leaves no model


def test_a_tiny_model_learns_its_rows_by_heart(bases, dataset, tmp_path):
    few = dataset["train"].select(range(8))
    splits = type(dataset)({"train": few, "validation": few})
    options = {"max_steps": 150, "lora_targets": EVERYTHING, "learning_rate": 0.01, "lora_alpha": 16}
    trainer = trained(bases["llama"], tmp_path, splits, **options)
    assert trainer.evaluate()["eval_exact_match"] == 100.0


def test_checkpoint_of_another_adapter_is_refused(bases, phantoms, tmp_path):
    flags = ["--model_type", "blip2", "--model_name_or_path", str(bases["opt"]), "--dataset", str(phantoms)]
    flags += ["--disable_tqdm", "True", "--max_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    flags += ["--output_dir", str(tmp_path / "out"), "--do_eval", "False"]
    train.main(flags)
    train.main(flags)
    with pytest.raises(UserError, match=r"checkpoint-\d is from another run \(its r differs\)"):
        train.main([*flags, "--lora_r", "4"])


def test_several_gpus_in_one_process_are_refused(bases, dataset, tmp_path, monkeypatch):
    args = arguments(bases["opt"], tmp_path)
    built = build_model(args, dataset)
    monkeypatch.setattr(type(args), "n_gpu", 2)
    with pytest.raises(UserError, match="accelerate launch --multi_gpu"):
        build_trainer(args, *built, dataset)


def test_answers_too_long_to_be_met_are_counted(bases, dataset, tmp_path, caplog):
    untrained(bases["opt"], tmp_path, dataset, max_new_tokens=2)
    assert "validation answers are longer than --max_new_tokens 2: they can't be met." in caplog.text
    trainer = untrained(bases["opt"], tmp_path, dataset)
    lengths = [len(trainer.data_collator.answer_ids(answer)) for answer in dataset["train"]["answer"]]
    assert trainer.args.max_new_tokens == max(lengths)
