"""Image-text-to-text models of transformers as a family: LoRA on the language model, all else frozen.

`modeling.families.Family` says what each function is for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling.parts.evidence import Evidence
from modeling.parts.model_files import ModelFiles
from modeling.training.arguments import VlmTrainingArguments
from modeling.vlm.adapter import build_model, check_base, load_trained
from modeling.vlm.heat import find_evidence as vlm_evidence
from modeling.vlm.heat import vlm_heat
from modeling.vlm.predictor import VlmPredictor
from modeling.vlm.trainer import VlmTrainer, build_trainer
from modeling.writing.answering import ANSWERING_FILE, Answering
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


def heat_maps(trainer: VlmTrainer, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """By the gradients of the answers' log-likelihoods."""
    collator = trainer.data_collator.with_image_for_each_row()
    model: Any = trainer.model
    reader = model.eval().get_base_model().reader
    # one by one, as the attention to an image's many tokens is kept; there is no public way to the Trainer's device
    return [vlm_heat(reader, trainer._prepare_inputs(collator([row])))[0] for row in rows]


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
    is_trained = files.find(ANSWERING_FILE) is not None
    answering = Answering.from_pretrained(files) if is_trained else Answering(VlmTrainingArguments.prompt)
    return VlmPredictor(model, processor, device, answering)
