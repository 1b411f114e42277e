"""modeling.blip2.alignment: the Q-Former trains before the language model comes in."""

import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file
from transformers import set_seed

from modeling.blip2.adapter import build_model
from modeling.blip2.alignment import _AlignmentTrainer
from modeling.blip2.family import build_trainer
from processing.collators import ViltCollator
from processing.errors import UserError
from tests.modeling.blip2.tiny_runs import starter_arguments
from tests.support.tiny_blip2 import tiny_blip2

pytestmark = pytest.mark.xdist_group("blip2_starter")  # one worker loads it


def first_stage_arguments(folder, **changes):
    """One step after the first stage, which trains all that it can."""
    whole = ["qformer", "vision_top", "language_projection"]
    options = {"modules_to_save": whole, "evidence_weight": 0.5, "max_steps": 1, "eval_strategy": "no"}
    return starter_arguments(folder, **(options | changes))


def test_alignment_trains_the_qformer_and_evidence_and_leaves_the_language_model_alone(dataset, tmp_path, monkeypatch):
    args = first_stage_arguments(
        tmp_path,
        alignment_epochs=1,
        box_questions=True,
        other_words=1.0,
        learning_rate=0.0,
        qformer_learning_rate=0.0,
        alignment_batch_size=16,
        per_device_train_batch_size=4,
        save_strategy="no",
    )
    torch.manual_seed(0)
    rows = DatasetDict(train=dataset["train"].select(range(24)), validation=dataset["validation"].select(range(4)))
    peft_model, processor = build_model(args, rows)
    trainer = build_trainer(args, peft_model, processor, rows)
    asked, sizes = [], []

    class Recording(ViltCollator):
        def __call__(self, rows):
            asked.extend(rows)
            sizes.append(len(rows))
            return super().__call__(rows)

    monkeypatch.setattr("modeling.blip2.alignment.ViltCollator", Recording)
    monkeypatch.setattr("modeling.parts.kept_states.MAX_QUESTIONS", 200)  # fewer wordings, whose states take long
    before = {name: p.detach().clone() for name, p in peft_model.named_parameters()}
    trainer.train()
    now = dict(peft_model.named_parameters())
    changed = {name.split(".modules_to_save.")[0] for name in now if not torch.equal(now[name], before[name])}
    parts = {"qformer", "vision_model.vision_top", "evidence"}
    assert changed == {f"base_model.model.{part}" for part in parts}
    known = set(dataset["train"]["question"])
    assert sum(row["question"] not in known for row in asked) > len(asked) / 2, "in other words"
    assert any(row["row"] < 0 for row in asked), "questions that boxes answer"
    assert max(sizes) == 16, "a batch of the first stage"
    trainer.save_model()
    kept = load_file(tmp_path / "adapter_model.safetensors")
    assert sum("vision_top" in name for name in kept) > 10, "what was aligned is saved with the adapter"


def test_an_interrupted_first_stage_resumes_to_the_same_end(dataset, tmp_path, monkeypatch):
    rows = DatasetDict(train=dataset["train"].select(range(8)), validation=dataset["validation"].select(range(4)))
    step = _AlignmentTrainer.training_step
    steps = []

    def counted(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    def train(folder):
        args = first_stage_arguments(folder, alignment_epochs=2, per_device_train_batch_size=4, save_strategy="epoch")
        set_seed(0)
        trainer = build_trainer(args, *build_model(args, rows), rows)
        trainer.train()
        trainer.save_model()
        return load_file(folder / "adapter_model.safetensors")

    whole = train(tmp_path / "whole")
    monkeypatch.setattr(_AlignmentTrainer, "training_step", counted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped")
    resumed = train(tmp_path / "stopped")
    assert steps == [0, 1, 2, 3, 2, 3], "the second epoch alone is repeated"
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not (tmp_path / "stopped" / "first_stage").exists()


def test_what_the_first_stage_trains_goes_on_at_the_rate_of_what_is_trained(dataset, tmp_path):
    args = first_stage_arguments(tmp_path, alignment_epochs=1, learning_rate=1e-3, qformer_learning_rate=2e-5)
    trainer = build_trainer(args, *build_model(args, dataset), dataset)
    names = {id(p): name.split(".")[2] for name, p in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    rates = {(names[id(p)], group["lr"]) for group in groups for p in group["params"]}
    trained = {("qformer", 2e-5), ("vision_model", 2e-5), ("evidence", 2e-5)}
    assert rates == trained | {("language_projection", 1e-3), ("language_model", 1e-3)}


def test_alignment_needs_a_starter_whose_qformer_trains(dataset, tmp_path):
    with pytest.raises(ValueError, match="--alignment_epochs needs --modules_to_save qformer"):
        starter_arguments(tmp_path, alignment_epochs=1, modules_to_save=["language_projection"])
    base = tiny_blip2("opt", dataset, tmp_path / "base")
    args = starter_arguments(tmp_path, model_name_or_path=str(base), alignment_epochs=1, modules_to_save=["qformer"])
    with pytest.raises(UserError, match="only the starter needs it"):
        build_model(args, dataset)
