"""Short trainings of tiny BLIP-2 models, and how the stock class is asked."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
import transformers

from modeling.blip2.adapter import build_model
from modeling.blip2.family import build_trainer
from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.blip2.trainer import Blip2Trainer
from modeling.training.arguments import Blip2TrainingArguments
from processing.collators import Blip2Collator
from processing.utils import normalize
from tests.support import short_runs
from tests.support.tiny_blip2 import QUERIES

KINDS = ("opt", "llama", "t5")
EVERYTHING = ["attention", "dense", "projection", "language_model"]


class TinyModel(NamedTuple):
    """Our model without adapter and the stock one with the same weights.

    Attributes:
        kind: one of `KINDS`.
    """

    kind: str
    model: Blip2ForQuestionAnswering
    stock: transformers.Blip2ForConditionalGeneration
    collator: Blip2Collator


def arguments(base: Path | str, folder: Path, **changes: Any) -> Blip2TrainingArguments:
    """In fp32, without dropout, kept features and evidence, with three questions of an image together."""
    options = {
        "fp16": False,
        "questions_per_image": 3,
        "feature_cache_gb": 0,
        "disable_tqdm": True,
        "lora_dropout": 0.0,
        "evidence_weight": 0.0,
    }
    return Blip2TrainingArguments(output_dir=str(folder), model_name_or_path=str(base), **(options | changes))


def starter_arguments(folder: Path, **changes: Any) -> Blip2TrainingArguments:
    """The starter with an adapter on its language model and a Q-Former that trains whole, without evidence."""
    options = {
        "model_name_or_path": "starter",
        "lora_targets": ["language_model"],
        "modules_to_save": ["qformer", "language_projection"],
        "lora_dropout": 0.0,
        "fp16": False,
        "disable_tqdm": True,
        "evidence_weight": 0.0,
    }
    return Blip2TrainingArguments(output_dir=str(folder), **(options | changes))


def untrained(base: Path | str, folder: Path, dataset: datasets.DatasetDict, **changes: Any) -> Blip2Trainer:
    """The trainer of a model before its training."""
    args = arguments(base, folder, **changes)
    return build_trainer(args, *build_model(args, dataset), dataset)


trained = functools.partial(short_runs.trained, untrained)  # the trainer after six steps


def stock_inputs(tiny: TinyModel, row: dict[str, Any], answer: str | None = None) -> dict[str, torch.Tensor]:
    """One question as the public notebooks give it to the stock class.

    Args:
        answer: instead of the row's.
    """
    collator = tiny.collator
    prompt = collator.tokenizer(collator.prompt.replace("{}", row["question"]))["input_ids"]
    ids = [tiny.stock.config.image_token_index] * QUERIES + prompt
    labels = collator.answer_ids(row["answer"] if answer is None else answer)
    if tiny.kind != "t5":
        ids, labels = ids + labels, [-100] * len(ids) + labels
    image = normalize(collator.processor.image_processor, [collator.images.resized[row["image"]]])
    return {
        "pixel_values": image["pixel_values"],
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "labels": torch.tensor([labels]),
    }
