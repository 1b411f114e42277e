"""BLIP-2 (Li et al. 2023, https://arxiv.org/abs/2301.12597) as a family: LoRA on the Q-Former, all else frozen.

`modeling.families.Family` says what each function is for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling.blip2.adapter import build_model, check_base, load_trained
from modeling.blip2.heat import blip2_heat
from modeling.blip2.predictor import Blip2Predictor
from modeling.blip2.trainer import Blip2Trainer, build_trainer
from modeling.parts.evidence import Evidence
from modeling.parts.model_files import ModelFiles
from modeling.writing.answering import Answering
from modeling.writing.evidence import find_evidence as find_by_head
from modeling.writing.family import (
    abstention_threshold,
    calibrate,
    describe_run,
    read_answers,
    set_abstention_threshold,
    vocabulary,
)

__all__ = [
    "MAX_CASES",
    "abstention_threshold",
    "build_model",
    "build_trainer",
    "calibrate",
    "check_base",
    "describe_run",
    "find_evidence",
    "heat_maps",
    "load_predictor",
    "read_answers",
    "set_abstention_threshold",
    "vocabulary",
]
MAX_CASES = 60  # each needs a pass back through the language model


def heat_maps(trainer: Blip2Trainer, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """By the gradients of the answers' log-likelihoods."""
    batch = trainer.data_collator.with_image_for_each_row()(rows)
    with trainer.compute_loss_context_manager():
        model: Any = trainer.model
        inputs = trainer._prepare_inputs(batch)  # no public way to the Trainer's device
        return blip2_heat(model.eval().get_base_model(), inputs)


def find_evidence(trainer: Blip2Trainer, rows: Sequence[Mapping[str, Any]]) -> list[Evidence] | list[None]:
    """By the evidence head, where the training had boxes."""
    model: Any = trainer.model
    base = model.eval().get_base_model()
    if base.evidence is None:
        return [None] * len(rows)
    images = trainer.data_collator.images.batch([row["image"] for row in rows])
    inputs = trainer._prepare_inputs(images)  # no public way to the Trainer's device
    places, index = base.places_of_images(**inputs)
    return find_by_head(base, trainer.processing_class.tokenizer, places, index, rows)


def load_predictor(files: ModelFiles, device: torch.device, dtype: torch.dtype) -> Blip2Predictor:
    """An adapter on its base, or a whole model."""
    model, processor = load_trained(files, dtype)
    return Blip2Predictor(model, processor, device, Answering.from_pretrained(files))
