"""Trains BLIP-2: its first stage, the learning rates of its parts, and what its Trainer is made of."""

import shutil
from typing import Any

import datasets
import torch
from peft import PeftModel
from torch import nn
from transformers import Blip2Processor

from metrics.vqa import generation_metrics
from modeling.blip2.adapter import merge, open_base
from modeling.blip2.alignment import align, first_stage_folder
from modeling.blip2.base import max_length
from modeling.parts.vocabulary import build_vocabulary
from modeling.training.arguments import Blip2TrainingArguments
from modeling.training.trainers import (
    gold_answers,
    keep_features,
    set_learning_rate,
    stopping_callbacks,
    training_rows,
)
from modeling.writing.answering import ANSWERING_FILE, Answering, decode_with, end_tokens
from modeling.writing.trainer import WritingTrainer, limit_answers
from processing.collators import Blip2Collator
from processing.errors import UserError
from processing.row_values import counts_of


class Blip2Trainer(WritingTrainer):
    """Trains on shared prefixes, with the starter's first stage before where it is asked for."""

    def writer(self, base: Any) -> Any:
        """The model itself."""
        return base

    def merge(self, folder: str) -> None:
        """As `WritingTrainer` says."""
        merge(folder, self.args)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains, with the alignment first where `alignment_epochs` asks for it and no checkpoint is resumed."""
        if self.args.alignment_epochs and not resume_from_checkpoint:
            base, features = self.model.get_base_model(), self.data_collator.images.features
            align(base, self.train_dataset, self.processing_class, features, self.args)
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.args.should_save:
            shutil.rmtree(first_stage_folder(self.args), ignore_errors=True)
        return result

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Gives pretrained modules that are trained whole their own learning rate.

        The projection is new, and so is the evidence head where no first stage has trained it.
        """
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created and self.args.qformer_learning_rate is not None:
            whole = [p for name, p in self.model.named_parameters() if ".modules_to_save." in name]
            base = self.model.get_base_model()
            parts = [base.language_projection]
            if base.evidence is not None and not self.args.alignment_epochs:
                parts.append(base.evidence)
            new = {id(p) for part in parts for p in part.parameters()}
            pretrained = [p for p in whole if id(p) not in new]
            set_learning_rate(optimizer, pretrained, self.args.qformer_learning_rate)
        return optimizer


def build_trainer(
    args: Blip2TrainingArguments, model: PeftModel, processor: Blip2Processor, dataset: datasets.DatasetDict
) -> Blip2Trainer:
    """A Trainer whose evaluation generates answers. Batches bring kept features of images instead of pixels.

    Raises:
        UserError: several GPUs in one process.
    """
    if args.n_gpu > 1:
        raise UserError("Several GPUs need accelerate launch --multi_gpu; CUDA_VISIBLE_DEVICES=0 chooses one of them.")
    base: Any = model.get_base_model()
    features = None
    if args.feature_cache_gb > 0:
        features = keep_features(base.take_frozen_vision(), processor.image_processor, args, dataset)
    decoder_only = base.config.use_decoder_only_language_model
    ends = end_tokens(base, processor.tokenizer)
    own = None if args.do_train else open_base(args.model_name_or_path, args.model_revision).own
    saved = None if own is None or own.find(ANSWERING_FILE) is None else Answering.from_pretrained(own)
    end = ends[0] if saved is None else saved.end_token_id
    places = max_length(base)
    collator = Blip2Collator(processor, args.prompt, args.questions_per_image, decoder_only, features, end, places)
    limit_answers(args, collator, dataset)
    candidates = build_vocabulary(counts_of(dataset["train"], "answer")) if args.answer_candidates == "train" else []
    gold = gold_answers(dataset)
    rows = training_rows(args, dataset)
    return Blip2Trainer(
        model,
        args,
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=dataset.get("validation"),
        processing_class=processor,
        compute_metrics=generation_metrics(gold, decode_with(processor, ends), candidates),
        callbacks=stopping_callbacks(args),
        ends=ends,
        gold=gold,
        candidates=candidates,
        saved=saved,
    )
