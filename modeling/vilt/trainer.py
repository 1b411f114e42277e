"""Trains ViLT and its starter."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import Trainer, ViltProcessor

from metrics.vqa import classification_metrics
from modeling.parts.efficientnet import WholeEfficientNet
from modeling.parts.evidence_targets import WithEvidence
from modeling.parts.kept_states import kept_states_and_wordings
from modeling.parts.vocabulary import labels_of
from modeling.training.arguments import ViltTrainingArguments
from modeling.training.trainers import (
    EvaluatesEveryRow,
    gold_answers,
    grouped_by_image,
    keep_features,
    set_learning_rate,
    stopping_callbacks,
    training_rows,
)
from modeling.vilt.checkpoints import AnyVilt
from modeling.vilt.confidence import ChosenAnswers
from modeling.vilt.evidence import evidence_targets
from processing.collators import ViltCollator
from processing.other_words import InOtherWords
from processing.row_values import counts_of
from processing.wordings import training_wordings


class ViltTrainer(EvaluatesEveryRow):
    """A Trainer with `questions_per_image` and `vision_learning_rate`.

    Args:
        gold: rows by their number, some with `choices`.
    """

    def __init__(self, *args: Any, gold: Mapping[int, Mapping[str, Any]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gold = gold

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Gives the pretrained image network of the starter its own learning rate."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rate = self.args.vision_learning_rate
        if created and rate is not None:
            pretrained = [p for name, p in self.model.named_parameters() if name.startswith("vision_top.")]
            set_learning_rate(optimizer, pretrained, rate)
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model whole, also where FSDP writes its checkpoints in shards."""
        if self.is_fsdp_enabled and not _internal_call:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        super().save_model(output_dir, _internal_call)

    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> Sampler[int] | None:
        # The Trainer's only hook for another order of rows.
        if self.args.questions_per_image == 1 or self.args.train_sampling_strategy == "sequential":
            return super()._get_train_sampler(train_dataset)
        return grouped_by_image(self.args, self.train_dataset if train_dataset is None else train_dataset)


def build_trainer(
    args: ViltTrainingArguments, model: AnyVilt, processor: ViltProcessor, dataset: datasets.DatasetDict
) -> Trainer:
    """A Trainer whose evaluation keeps the chosen answers and not the logits.

    Where the model has frozen networks, batches bring their kept features instead of pixels and their kept states
    beside the questions. An image network that is frozen as a whole runs once an image.
    """
    config = model.config
    rows = training_rows(args, dataset)
    training = dataset if rows is None else datasets.DatasetDict({**dataset, "train": rows})
    features, features_name, states = None, "image_embeds", None
    wordings: Callable[[str], Sequence[str]] = training_wordings
    if hasattr(model, "vision") and args.vision_learning_rate == 0:
        model.vision_top.requires_grad_(False)
        network = WholeEfficientNet(copy.deepcopy(model.vision), copy.deepcopy(model.vision_top))
        features = keep_features(network, processor.image_processor, args, dataset, torch.float32)
        features_name = "image_patches"
    elif hasattr(model, "vision"):
        features = keep_features(copy.deepcopy(model.vision), processor.image_processor, args, dataset)
    if hasattr(model, "text_encoder"):
        encoder = copy.deepcopy(model.text_encoder).to(args.device)
        other_words, places = args.do_train and args.other_words > 0, config.max_position_embeddings
        states, wordings = kept_states_and_wordings(encoder, processor.tokenizer, places, training, other_words)
    gold = gold_answers(dataset)
    answers = {answer for rows in dataset.values() for answer in counts_of(rows, "answer")}
    collator = ViltCollator(
        processor,
        labels_of(answers, config.label2id),
        config.num_labels,
        config.max_position_embeddings,
        share_images=hasattr(model, "vision") and args.n_gpu <= 1,  # torch's DataParallel would cut them apart
        features=features,
        states=states,
        features_name=features_name,
    )
    trainer = ViltTrainer(
        model,
        args,
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=dataset.get("validation"),
        processing_class=processor,
        compute_metrics=classification_metrics(gold, config.id2label),
        preprocess_logits_for_metrics=ChosenAnswers(config, gold),
        callbacks=stopping_callbacks(args),
        gold=gold,
    )
    if args.do_train and getattr(config, "evidence_labels", None):
        trainer.training_collator = WithEvidence(collator, evidence_targets(model))
    if args.other_words:
        asked = trainer.training_collator or collator
        trainer.training_collator = InOtherWords(asked, args.other_words, args.seed, wordings)
    return trainer
