"""Frozen is frozen in training too, also where no features are kept; and what trained so reloads to its answers."""

import json

import pytest
import torch
import transformers

from modeling.asking.predictor import Predictor
from modeling.families import FAMILIES
from modeling.training.parser import parse_arguments
from tests.modeling.blip2.tiny_runs import untrained
from tests.support.tiny_blip2 import tiny_blip2

NO_CACHE = "--feature_cache_gb 0 --fp16 False --disable_tqdm True --save_strategy no --eval_strategy no"
TRAINING = "--max_steps 2 --per_device_train_batch_size 8 --learning_rate 1e-2 --max_eval_samples 8"
LEARNING = {
    "vilt": "--model_name_or_path scratch:tiny",
    "starter": "--model_name_or_path starter",
    "opt": "--model_type blip2",
    "t5": "--model_type blip2",
    "blip2_starter": "--model_type blip2 --model_name_or_path starter --lora_targets language_model "
    "--modules_to_save qformer vision_top",
}
FROZEN = {  # what must not move, beside parameters that are not trained
    "vilt": (),
    "starter": ("text_encoder.", "vision."),
    "opt": ("base_model.model.vision_model.", "base_model.model.language_model."),
    "t5": ("base_model.model.vision_model.", "base_model.model.language_model."),
    "blip2_starter": ("base_model.model.vision_model.vision.",),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group("blip2_starter")) for name in LEARNING]
)
def test_without_kept_features_frozen_parts_stay_bit_for_bit_and_answers_reload(dataset, tmp_path, name):
    flags = [*LEARNING[name].split(), *NO_CACHE.split(), *TRAINING.split(), "--output_dir", str(tmp_path / "out")]
    if name in ("opt", "t5"):
        flags += ["--model_name_or_path", str(tiny_blip2(name, dataset, tmp_path / "base"))]
    _, args = parse_arguments(flags)
    family = FAMILIES[args.model_type]
    transformers.set_seed(0)
    model, processor = family.build_model(args, dataset)
    trainer = family.build_trainer(args, model, processor, dataset)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer.train()
    trainer.save_model()

    trainable = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    after = model.state_dict()
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved
    assert moved <= trainable, "a buffer or a frozen weight"
    assert not [key for key in moved if key.startswith(FROZEN[name]) and ".lora_" not in key]

    rows = dataset["validation"].select(range(8))
    told = family.read_answers(trainer.predict(rows), trainer)
    answers = Predictor.from_pretrained(tmp_path / "out", dtype="float32").answer_batch(
        list(rows["image"]), list(rows["question"]), top_k=1
    )
    assert [answer.answer for answer in answers] == [told[row][0] for row in rows["row"]]
    confidences = [told[row][1] for row in rows["row"]]
    assert [answer.confidence for answer in answers] == pytest.approx(confidences, rel=2e-3)


@pytest.mark.parametrize("kind", ["opt", "t5"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_frozen_networks_drop_nothing_in_training(dataset, tmp_path, kind, recomputed):
    base = tiny_blip2(kind, dataset, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    drops = {"dropout": 0.5, "attention_dropout": 0.5, "dropout_rate": 0.5, "layerdrop": 0.5}
    for part in ("text_config", "vision_config"):
        config[part] |= {drop: share for drop, share in drops.items() if drop in config[part]}
    assert config["text_config"].get("dropout", config["text_config"].get("dropout_rate")) == 0.5
    (base / "config.json").write_text(json.dumps(config))
    trainer = untrained(base, tmp_path / "out", dataset)
    model = trainer.model
    batch = trainer.data_collator([dataset["train"][i] for i in range(4)])
    expected = model.eval()(**batch).loss
    if recomputed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = model.train()(**batch).loss
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    called = []
    modules = model.get_base_model().language_model.named_modules()
    next(module for name, module in modules if name.endswith((".q_proj", ".q"))).register_forward_hook(
        lambda *_: called.append(1)
    )
    model(**batch).loss.backward()
    assert len(called) == (2 if recomputed else 1)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
