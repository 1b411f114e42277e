"""Short trainings of tiny image-text-to-text models."""

from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from modeling.training.arguments import VlmTrainingArguments
from modeling.vlm.family import build_model, build_trainer
from modeling.vlm.trainer import VlmTrainer


def untrained(base: Path, folder: Path, dataset: datasets.DatasetDict, **changes: Any) -> VlmTrainer:
    """The trainer of a model before its training, in fp32, with four questions of an image together, no evidence."""
    options = {"fp16": False, "questions_per_image": 4, "lora_dropout": 0.0, "disable_tqdm": True}
    options |= {"evidence_weight": 0.0}
    args = VlmTrainingArguments(output_dir=str(folder), model_name_or_path=str(base), **(options | changes))
    return build_trainer(args, *build_model(args, dataset), dataset)


def trained(base: Path, folder: Path, dataset: datasets.DatasetDict, **changes: Any) -> VlmTrainer:
    """The trainer of a model after six steps."""
    options = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "eval_strategy": "no",
    }
    transformers.set_seed(1)
    trainer = untrained(base, folder, dataset, **(options | changes))
    trainer.train(resume_from_checkpoint=changes.get("resume_from_checkpoint"))
    return trainer


def weights(trainer: VlmTrainer) -> dict[str, torch.Tensor]:
    """Copies of what trains."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
