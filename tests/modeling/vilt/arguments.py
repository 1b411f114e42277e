"""Arguments of ViLT runs in tests."""

from pathlib import Path
from typing import Any

from modeling.training.arguments import ViltTrainingArguments


def arguments(folder: Path, **changes: Any) -> ViltTrainingArguments:
    """A tiny ViLT made from nothing, in fp32, where `changes` say nothing else."""
    options = {"model_name_or_path": "scratch:tiny", "fp16": False}
    return ViltTrainingArguments(output_dir=str(folder), **(options | changes))


def starter_arguments(folder: Path, **changes: Any) -> ViltTrainingArguments:
    """The starter, in fp32."""
    return arguments(folder, model_name_or_path="starter", **changes)
