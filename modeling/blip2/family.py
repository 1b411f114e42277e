"""BLIP-2 (Li et al. 2023, https://arxiv.org/abs/2301.12597) as a family: LoRA on the Q-Former, all else frozen.

`modeling.families.Family` says what each function is for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers.trainer_utils import PredictionOutput

from metrics.calibration import fit_scale
from metrics.choices import chosen_answers
from modeling.blip2 import evidence as blip2_evidence
from modeling.blip2.adapter import build_model, check_base, load_trained
from modeling.blip2.answering import ANSWERING_FILE, Answering, decode_with
from modeling.blip2.base import MODELS
from modeling.blip2.heat import blip2_heat
from modeling.blip2.predictor import Blip2Predictor
from modeling.blip2.trainer import Blip2Trainer, build_trainer
from modeling.parts.evidence import Evidence
from modeling.parts.model_files import ModelFiles

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
MODEL_TYPES = tuple(MODELS)
MAX_CASES = 60  # each needs a pass back through the language model


def describe_run(model: PeftModel) -> dict[str, Any]:
    """The base at its commit and the shape of the adapter."""
    config = model.peft_config["default"].to_dict()
    names = ("base_model_name_or_path", "revision", "r", "lora_alpha", "target_modules", "modules_to_save")
    return {name: config[name] for name in names}


def vocabulary(trainer: Blip2Trainer) -> dict[str, int] | None:
    """The candidates, where `--answer_candidates` asks for them."""
    return {answer: number for number, answer in enumerate(trainer.candidates)} or None


def read_answers(output: PredictionOutput, trainer: Blip2Trainer) -> dict[int, tuple[str, float]]:
    """The likeliest of a row's choices or of the candidates, or the written answers where there are neither."""
    tokens, confidence, *choice = output.predictions
    answers = decode_with(trainer.processing_class, trainer.ends)(tokens)
    if choice:
        numbers, confidence = choice
        gold = [trainer.gold[int(row)] for row in output.label_ids]
        answers = chosen_answers(gold, numbers.tolist(), trainer.candidates, answers)
    columns = zip(output.label_ids, answers, trainer.answering.calibrated(confidence), strict=True)
    return {int(row): (answer, float(sure)) for row, answer, sure in columns}


def calibrate(output: PredictionOutput, trainer: Blip2Trainer, correct: Mapping[int, float]) -> None:
    """Fits slope and offset of the log-odds, which stand in `answering.json`."""
    _, confidence, *choice = output.predictions
    if choice:
        _, confidence = choice
    known = np.array([int(row) in correct for row in output.label_ids])
    right = np.array([correct[int(row)] for row in output.label_ids[known]])
    _change_answering(trainer, confidence_scale=list(fit_scale(confidence[known], right)))


def set_abstention_threshold(trainer: Blip2Trainer, threshold: float) -> None:
    """It stands in `answering.json`."""
    _change_answering(trainer, threshold=threshold)


def abstention_threshold(trainer: Blip2Trainer) -> float:
    """That of `answering.json`."""
    return trainer.answering.threshold


def _change_answering(trainer: Blip2Trainer, **changes: Any) -> None:
    trainer.answering = replace(trainer.answering, **changes)
    if trainer.args.should_save:
        folder = Path(trainer.args.output_dir)
        for place in (folder, folder / "merged"):
            if (place / ANSWERING_FILE).is_file():
                trainer.answering.save(place)


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
    return blip2_evidence.find_evidence(base, trainer.processing_class.tokenizer, inputs, rows)


def load_predictor(files: ModelFiles, device: torch.device, dtype: torch.dtype) -> Blip2Predictor:
    """An adapter on its base, or a whole model."""
    model, processor = load_trained(files, dtype)
    return Blip2Predictor(model, processor, device, Answering.from_pretrained(files))
