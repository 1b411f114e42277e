"""Six steps of a training, long enough to move every weight that trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers


def trained(
    untrained: Callable[..., Any], base: Path | str, folder: Path, dataset: datasets.DatasetDict, **changes: Any
) -> Any:
    """The trainer of a model after six steps.

    Args:
        untrained: makes it from the other arguments.
    """
    options = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "eval_strategy": "no",
    }
    transformers.set_seed(1)
    trainer = untrained(base, folder, dataset, **(options | changes))
    trainer.train(resume_from_checkpoint=changes.get("resume_from_checkpoint"))
    return trainer


def weights(trainer: transformers.Trainer) -> dict[str, torch.Tensor]:
    """Copies of what trains."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
