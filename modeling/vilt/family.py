"""ViLT (Kim et al. 2021, https://arxiv.org/abs/2102.03334) as a family: a classifier over an answer vocabulary.

`modeling.families.Family` says what each function is for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Trainer
from transformers.trainer_utils import PredictionOutput

from metrics.calibration import best_temperature
from metrics.choices import own_spelling
from modeling.parts.evidence import Evidence
from modeling.parts.model_files import ModelFiles
from modeling.parts.vocabulary import labels_of
from modeling.vilt import evidence as vilt_evidence
from modeling.vilt.checkpoints import AnyVilt, build_model, check_base, load_checkpoint
from modeling.vilt.confidence import calibrated_confidences
from modeling.vilt.heat import vilt_heat
from modeling.vilt.predictor import ViltPredictor
from modeling.vilt.trainer import ViltTrainer, build_trainer

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
MAX_CASES = 250


def describe_run(model: AnyVilt) -> dict[str, Any]:
    """The kind and size of the model, its base on the Hub and its vocabulary."""
    config = model.config.to_dict()
    names = ("model_type", "label2id", "hidden_size", "num_hidden_layers", "base_model", "evidence_labels")
    return {name: config.get(name) for name in names}


def vocabulary(trainer: Trainer) -> dict[str, int]:
    """The labels of the model's head."""
    return trainer.model.config.label2id


def read_answers(output: PredictionOutput, trainer: ViltTrainer) -> dict[int, tuple[str, float]]:
    """The chosen answers, with their probability at the model's temperature; options in the row's spelling."""
    config = trainer.model.config
    labels, confidences, _ = output.predictions
    columns = zip(output.label_ids, labels, calibrated_confidences(confidences, config), strict=True)
    return {
        int(row): (own_spelling(trainer.gold[int(row)], config.id2label[int(label)]), float(confidence))
        for row, label, confidence in columns
    }


def calibrate(output: PredictionOutput, trainer: Trainer, correct: Mapping[int, float]) -> None:
    """Fits the temperature, which the model's config keeps."""
    known = np.array([int(row) in correct for row in output.label_ids])
    right = np.array([correct[int(row)] for row in output.label_ids[known]])
    trainer.model.config.answer_temperature = best_temperature(output.predictions[1][known], right)
    _save_config(trainer)


def set_abstention_threshold(trainer: Trainer, threshold: float) -> None:
    """The model's config keeps it."""
    trainer.model.config.answer_threshold = threshold
    _save_config(trainer)


def abstention_threshold(trainer: Trainer) -> float:
    """The config's, 0 where it has none."""
    return getattr(trainer.model.config, "answer_threshold", 0.0)


def _save_config(trainer: Trainer) -> None:
    if trainer.args.should_save:
        trainer.model.config.save_pretrained(trainer.args.output_dir)


def heat_maps(trainer: Trainer, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """By the gradients of the answers' logits."""
    return vilt_heat(trainer.model.eval(), *_batch(trainer, rows))


def find_evidence(trainer: Trainer, rows: Sequence[Mapping[str, Any]]) -> list[Evidence] | list[None]:
    """By the evidence head, where the training had boxes."""
    if getattr(trainer.model, "evidence", None) is None:
        return [None] * len(rows)
    return vilt_evidence.find_evidence(trainer.model.eval(), *_batch(trainer, rows), rows)


def _batch(trainer: Any, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Rows as the model takes them, and the labels of their answers."""
    batch = trainer._prepare_inputs(trainer.data_collator.prompts(rows))  # no public way to the Trainer's device
    del batch["row"]
    label2id = trainer.model.config.label2id
    labels = labels_of((row["answer"] for row in rows), label2id) | label2id  # options may be spelled otherwise
    return batch, [labels[row["answer"]] for row in rows]


def load_predictor(files: ModelFiles, device: torch.device, dtype: torch.dtype) -> ViltPredictor:
    """A ViLT or its starter."""
    return ViltPredictor(*load_checkpoint(files), device, dtype)
