"""What the trainers of both families share: order of rows, learning rates."""

from collections.abc import Iterable

import datasets
import torch

from modeling.training.arguments import AnyTrainingArguments
from processing.sampling import ImageGroupedSampler


def set_learning_rate(optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter], rate: float) -> None:
    """Gives some of an optimizer's parameters their own learning rate; before any scheduler is made."""
    chosen = {id(p) for p in parameters}
    for group in list(optimizer.param_groups):
        own = [p for p in group["params"] if id(p) in chosen]
        group["params"] = [p for p in group["params"] if id(p) not in chosen]
        if own:
            optimizer.add_param_group({**group, "params": own, "lr": rate})


def grouped_by_image(args: AnyTrainingArguments, rows: datasets.Dataset) -> ImageGroupedSampler:
    """The order of training rows, with `questions_per_image`."""
    seed = args.seed if args.data_seed is None else args.data_seed
    return ImageGroupedSampler(rows["image"], args.questions_per_image, seed)
