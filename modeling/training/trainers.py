"""What the trainers of all families share."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer

from modeling.parts.kept_features import KeptFeatures
from modeling.training.arguments import AnyTrainingArguments
from processing.box_questions import add_box_questions
from processing.implied_questions import add_implied_questions
from processing.other_words import InOtherWords
from processing.row_values import counts_of, numbers_of
from processing.sampling import ImageGroupedSampler

# By which answers are scored. Only some data sets have the last three.
GOLD_COLUMNS = ("row", "answer", "answer_type", "language", "overlap", "answers", "choices")


class EvaluatesEveryRow(Trainer):
    """A Trainer whose `dataloader_drop_last` is for training alone; evaluation answers every row.

    And one that trains no further step where a run resumes at its last one. Its training data are collated by
    `training_collator`, where there is one.
    """

    data_collator: Any
    training_collator: Any = None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # The stock loop looks at max_steps after a step, so a finished run would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            if isinstance(self.training_collator, InOtherWords):
                self.training_collator.set_epoch(kwargs["epoch"])
            super()._run_epoch(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """By `training_collator`, where there is one."""
        collator = self.data_collator
        self.data_collator = self.training_collator or collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """With the last batch, however small."""
        with self._last_batch():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """With the last batch, however small."""
        with self._last_batch():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _last_batch(self) -> Iterator[None]:
        drops = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drops


def training_rows(args: AnyTrainingArguments, dataset: datasets.DatasetDict) -> datasets.Dataset | None:
    """The training rows, with the questions that a run adds to them; None without training rows."""
    rows = dataset.get("train")
    if args.do_train and args.box_questions:
        rows = add_box_questions(rows)
    if args.do_train and args.implied_questions:
        rows = add_implied_questions(rows)
    return rows


def set_learning_rate(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], rate: float) -> None:
    """Gives some of an optimizer's parameters their own learning rate; call it before a scheduler is made."""
    chosen = {id(p) for p in parameters}
    for group in list(optimizer.param_groups):
        own = [p for p in group["params"] if id(p) in chosen]
        group["params"] = [p for p in group["params"] if id(p) not in chosen]
        if own:
            optimizer.add_param_group({**group, "params": own, "lr": rate})


def grouped_by_image(args: AnyTrainingArguments, rows: datasets.Dataset) -> ImageGroupedSampler:
    """The order of training rows, with `questions_per_image` of an image together."""
    seed = args.seed if args.data_seed is None else args.data_seed
    return ImageGroupedSampler(numbers_of(rows, "image"), args.questions_per_image, seed)


def keep_features(
    network: nn.Module,
    image_processor: Any,
    args: AnyTrainingArguments,
    dataset: datasets.DatasetDict,
    dtype: torch.dtype = torch.float16,
) -> KeptFeatures | None:
    """The features of all images of a data set by a frozen network; None where `feature_cache_gb` is 0.

    The network computes them on the run's device and ends on the CPU. There it computes at each use what can't be
    kept: the workers of a data loader are forks, in which a GPU can't be used.

    Args:
        network: no part of the model, which the Trainer moves to the device.
        dtype: precision in which they are kept.
    """
    if args.feature_cache_gb <= 0:
        return None
    features = KeptFeatures(network.to(args.device), image_processor, args.feature_cache_gb, dtype)
    with args.main_process_first(desc="computing image features"):
        features.fill(image for split in dataset.values() for image in counts_of(split, "image"))
    network.to("cpu")
    return features


def gold_answers(dataset: datasets.DatasetDict) -> dict[int, dict[str, Any]]:
    """What the rows to evaluate on have of `GOLD_COLUMNS`, by their `row` number."""
    gold: dict[int, dict[str, Any]] = {}
    for split, rows in dataset.items():
        if split != "train":
            chosen = rows.select_columns([name for name in GOLD_COLUMNS if name in rows.features])
            gold |= {row["row"]: row for row in chosen}
    return gold


def stopping_callbacks(args: AnyTrainingArguments) -> list[EarlyStoppingCallback] | None:
    """What `early_stopping_patience` asks for."""
    return [EarlyStoppingCallback(args.early_stopping_patience)] if args.early_stopping_patience else None
