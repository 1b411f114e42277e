"""Image-text-to-text models of transformers as a family: LoRA on the language model, all else frozen.

`modeling.families.Family` says what each function is for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling.parts.evidence import Evidence
from modeling.parts.model_files import ModelFiles
from modeling.vlm.adapter import build_model, check_base, load_trained
from modeling.vlm.architectures import ARCHITECTURES
from modeling.vlm.heat import find_evidence as vlm_evidence
from modeling.vlm.heat import vlm_heat
from modeling.vlm.predictor import VlmPredictor
from modeling.vlm.trainer import VlmTrainer, build_trainer
from modeling.writing.answering import Answering
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
    "MODEL_TYPES",
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
MODEL_TYPES = tuple(ARCHITECTURES)
MAX_CASES = 60  # each needs a pass back through the language model


def heat_maps(trainer: VlmTrainer, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """By the gradients of the answers' log-likelihoods."""
    batch = trainer.data_collator.with_image_for_each_row()(rows)
    inputs = trainer._prepare_inputs(batch)  # no public way to the Trainer's device
    model: Any = trainer.model
    return vlm_heat(model.eval().get_base_model().reader, inputs)


def find_evidence(trainer: VlmTrainer, rows: Sequence[Mapping[str, Any]]) -> list[Evidence] | list[None]:
    """By the evidence head, where the training had boxes."""
    model: Any = trainer.model
    base = model.eval().get_base_model()
    if base.evidence is None:
        return [None] * len(rows)
    inputs = trainer._prepare_inputs(trainer.data_collator.prompts(rows))  # no public way to the Trainer's device
    del inputs["row"]
    return vlm_evidence(base.reader, trainer.processing_class.tokenizer, inputs, rows)


def load_predictor(files: ModelFiles, device: torch.device, dtype: torch.dtype) -> VlmPredictor:
    """An adapter on its base, or a whole model."""
    model, processor = load_trained(files, dtype)
    return VlmPredictor(model, processor, device, Answering.from_pretrained(files))
