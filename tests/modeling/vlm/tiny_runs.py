"""Short trainings of tiny image-text-to-text models."""

import functools
from pathlib import Path
from typing import Any

import datasets

from modeling.training.arguments import VlmTrainingArguments
from modeling.vlm.family import build_model, build_trainer
from modeling.vlm.trainer import VlmTrainer
from tests.support import short_runs


def untrained(base: Path, folder: Path, dataset: datasets.DatasetDict, **changes: Any) -> VlmTrainer:
    """The trainer of a model before its training, in fp32, with four questions of an image together, no evidence."""
    options = {"fp16": False, "questions_per_image": 4, "lora_dropout": 0.0, "disable_tqdm": True}
    options |= {"evidence_weight": 0.0}
    args = VlmTrainingArguments(output_dir=str(folder), model_name_or_path=str(base), **(options | changes))
    return build_trainer(args, *build_model(args, dataset), dataset)


trained = functools.partial(short_runs.trained, untrained)  # the trainer after six steps
