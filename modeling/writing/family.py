"""What `modeling.families.Family` asks for, as all families do it that write their answers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from transformers.trainer_utils import PredictionOutput

from metrics.calibration import fit_scale
from metrics.choices import chosen_answers
from modeling.writing.answering import ANSWERING_FILE, decode_with
from modeling.writing.trainer import WritingTrainer


def describe_run(model: PeftModel) -> dict[str, Any]:
    """The base at its commit and the shape of the adapter."""
    config = model.peft_config["default"].to_dict()
    names = ("base_model_name_or_path", "revision", "r", "lora_alpha", "target_modules", "modules_to_save")
    return {name: config[name] for name in names}


def vocabulary(trainer: WritingTrainer) -> dict[str, int] | None:
    """The candidates, where `--answer_candidates` asks for them."""
    return {answer: number for number, answer in enumerate(trainer.candidates)} or None


def read_answers(output: PredictionOutput, trainer: WritingTrainer) -> dict[int, tuple[str, float]]:
    """The likeliest of a row's choices or of the candidates, or the written answers where there are neither."""
    tokens, confidence, *choice = output.predictions
    answers = decode_with(trainer.processing_class, trainer.ends)(tokens)
    if choice:
        numbers, confidence = choice
        gold = [trainer.gold[int(row)] for row in output.label_ids]
        answers = chosen_answers(gold, numbers.tolist(), trainer.candidates, answers)
    columns = zip(output.label_ids, answers, trainer.answering.calibrated(confidence), strict=True)
    return {int(row): (answer, float(sure)) for row, answer, sure in columns}


def calibrate(output: PredictionOutput, trainer: WritingTrainer, correct: Mapping[int, float]) -> None:
    """Fits slope and offset of the log-odds, which stand in `answering.json`."""
    _, confidence, *choice = output.predictions
    if choice:
        _, confidence = choice
    known = np.array([int(row) in correct for row in output.label_ids])
    right = np.array([correct[int(row)] for row in output.label_ids[known]])
    _change_answering(trainer, confidence_scale=list(fit_scale(confidence[known], right)))


def set_abstention_threshold(trainer: WritingTrainer, threshold: float) -> None:
    """It stands in `answering.json`."""
    _change_answering(trainer, threshold=threshold)


def abstention_threshold(trainer: WritingTrainer) -> float:
    """That of `answering.json`."""
    return trainer.answering.threshold


def _change_answering(trainer: WritingTrainer, **changes: Any) -> None:
    trainer.answering = replace(trainer.answering, **changes)
    if trainer.args.should_save:
        folder = Path(trainer.args.output_dir)
        for place in (folder, folder / "merged"):
            if (place / ANSWERING_FILE).is_file():
                trainer.answering.save(place)
