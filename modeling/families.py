"""The families of models, and what each of them offers to the rest of the project."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from transformers.trainer_utils import PredictionOutput

from modeling.blip2 import family as blip2
from modeling.parts.evidence import Evidence
from modeling.parts.family_predictor import FamilyPredictor
from modeling.parts.model_files import ModelFiles
from modeling.vilt import family as vilt
from modeling.vlm import family as vlm


class Family(Protocol):
    """What a family's module `family` holds.

    Attributes:
        MAX_CASES: questions of each kind that a report shows with heat maps.
    """

    MAX_CASES: int

    def check_base(self, args: Any) -> None:
        """Checks what a run starts from before data and weights are fetched, and pins `args.model_revision`.

        Args:
            args: the family's TrainingArguments.

        Raises:
            UserError: there is no such model, or it is not of this family.
        """
        ...

    def build_model(self, args: Any, dataset: datasets.DatasetDict) -> tuple[Any, Any]:
        """Loads or makes the model and its processor.

        Args:
            args: the family's TrainingArguments.
            dataset: all splits.

        Raises:
            UserError: the checkpoint can't be loaded or is of another kind.
        """
        ...

    def describe_run(self, model: Any) -> dict[str, Any]:
        """What the config of a checkpoint must hold to belong to a run with this model."""
        ...

    def build_trainer(self, args: Any, model: Any, processor: Any, dataset: datasets.DatasetDict) -> Any:
        """The family's Trainer. Its evaluation keeps answers and their confidence, not logits."""
        ...

    def vocabulary(self, trainer: Any) -> dict[str, int] | None:
        """The answers among which the model chooses, with their numbers; None where it writes its answers."""
        ...

    def read_answers(self, output: PredictionOutput, trainer: Any) -> dict[int, tuple[str, float]]:
        """The answer and the confidence of each row number, from what `Trainer.predict` returns."""
        ...

    def calibrate(self, output: PredictionOutput, trainer: Any, correct: Mapping[int, float]) -> None:
        """Fits the model's confidence to validation answers and saves what it fitted.

        Args:
            output: of `Trainer.predict` on validation rows.
            correct: whether a row number was answered right, 0 or 1. Rows that it does not have are not fitted to.
        """
        ...

    def set_abstention_threshold(self, trainer: Any, threshold: float) -> None:
        """Sets and saves the confidence below which the model gives no answer."""
        ...

    def abstention_threshold(self, trainer: Any) -> float:
        """The confidence below which the model gives no answer; 0 where it answers every question."""
        ...

    def heat_maps(self, trainer: Any, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Where the model looked for the `answer` of each row, ``(rows, columns)`` of image tokens.

        Raises:
            UserError: the model has no map.
        """
        ...

    def find_evidence(self, trainer: Any, rows: Sequence[Mapping[str, Any]]) -> list[Evidence] | list[None]:
        """Where the model finds what the question and the `answer` of each row are about.

        They are None where it has no evidence head.
        """
        ...

    def load_predictor(self, files: ModelFiles, device: torch.device, dtype: torch.dtype) -> FamilyPredictor:
        """A trained model, ready to answer.

        Raises:
            UserError: it can't be loaded.
        """
        ...


FAMILIES: dict[str, Family] = {"vilt": vilt, "blip2": blip2, "vlm": vlm}
