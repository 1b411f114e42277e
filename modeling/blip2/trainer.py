"""Trains BLIP-2 and answers while it evaluates."""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import datasets
import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import Blip2Processor, Seq2SeqTrainer

from metrics.abstention import SILENT_EVERYWHERE
from metrics.vqa import generation_metrics
from modeling.blip2.adapter import merge, open_base
from modeling.blip2.alignment import align, first_stage_folder
from modeling.blip2.answering import ANSWERING_FILE, Answering, decode_with, end_tokens, max_length
from modeling.blip2.candidates import AnswerTrie, select_prompts, trie_of_choices
from modeling.blip2.evidence import evidence_targets
from modeling.parts.evidence_targets import WithEvidence
from modeling.parts.vocabulary import build_vocabulary
from modeling.training.arguments import Blip2TrainingArguments
from modeling.training.trainers import (
    EvaluatesEveryRow,
    gold_answers,
    grouped_by_image,
    keep_features,
    set_learning_rate,
    stopping_callbacks,
    training_rows,
)
from processing.collators import Blip2Collator
from processing.errors import UserError
from processing.other_words import InOtherWords
from processing.row_values import counts_of

logger = logging.getLogger(__name__)


class Blip2Trainer(EvaluatesEveryRow, Seq2SeqTrainer):
    """Trains on shared prefixes; scores generated answers, or the likeliest of a row's choices or of the candidates.

    Args:
        ends: the tokens that end an answer.
        gold: rows by their number, some with `choices`.
        candidates: the answers to choose among where a row has no choices; empty for generated ones.
    """

    data_collator: Any

    def __init__(
        self,
        *args: Any,
        ends: Sequence[int],
        gold: Mapping[int, Mapping[str, Any]],
        candidates: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.ends = list(ends)
        self.gold = gold
        self.has_choices = any("choices" in row for row in gold.values())
        self.candidates = list(candidates)
        self.answering = Answering(
            self.args.prompt,
            self.args.max_new_tokens,
            self.args.generation_num_beams or 1,
            self.candidates or None,
            threshold=0.0 if self.args.target_risk is None else SILENT_EVERYWHERE,  # until one is chosen
            end_token_id=self.data_collator.end_token_id,
            quantization=self.args.quantization,
            evidence_labels=getattr(self.model.get_base_model().config, "evidence_labels", None),
        )
        self.trie = None
        if candidates:
            self.trie = AnswerTrie([self.data_collator.answer_ids(answer) for answer in candidates])

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains, with the alignment first where `alignment_epochs` asks for it and no checkpoint is resumed."""
        if self.args.alignment_epochs and not resume_from_checkpoint:
            base, features = self.model.get_base_model(), self.data_collator.images.features
            align(base, self.train_dataset, self.processing_class, features, self.args)
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.args.should_save:
            shutil.rmtree(first_stage_folder(self.args), ignore_errors=True)
        return result

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A step in which autocast alone converts: PEFT would turn each layer's input into FP32, and autocast back."""
        with disable_input_dtype_casting(self.model, self.args.fp16 or self.args.bf16):
            return super().training_step(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the adapter and how to ask it. At the end of training `merge_adapter` also saves the merged model."""
        folder = output_dir or self.args.output_dir
        if self.args.should_save:
            self.answering.save(folder)  # before the weights: without it, or by an older one, they would answer all
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and self.args.merge_adapter and not _internal_call:
            self.answering.save(f"{folder}/merged")
            merge(folder, self.args)

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

    # The Trainer's only hook for another order of rows.
    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy == "sequential":
            return super()._get_train_sampler(train_dataset)
        return grouped_by_image(self.args, self.train_dataset if train_dataset is None else train_dataset)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        return self._with_prompts(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return self._with_prompts(super().get_test_dataloader, test_dataset)

    def _with_prompts(self, make: Callable[[Any], DataLoader], rows: Any) -> DataLoader:
        collator = self.data_collator
        self.data_collator = collator.prompts
        try:
            return make(rows)
        finally:
            self.data_collator = collator

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Each row once: Seq2SeqTrainer keeps those that fill up the last batch of several processes."""
        self.gather_function = self.accelerator.gather_for_metrics
        return super().evaluation_loop(*args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None, **_: Any
    ) -> tuple[None, tuple[torch.Tensor, ...], torch.Tensor]:
        """Answers a batch.

        Returns:
            None for the loss. Tokens ``(B, T)`` and their confidence ``(B,)``. Where the run has candidates or
            choices, also the number of the chosen one ``(B,)``, -1 where the answer is written, and its confidence
            ``(B,)``: the probability among what it is chosen from. No answer is written for a row with choices, so its
            tokens are padding. Row numbers ``(B,)``.
        """
        inputs = self._prepare_inputs(inputs)
        rows = inputs.pop("row")
        tokenizer = self.processing_class.tokenizer
        config = self.answering.generation_config(tokenizer, self.ends)
        base = self.accelerator.unwrap_model(model).get_base_model()
        gold = [self.gold[number] if self.has_choices else {} for number in rows.tolist()]
        free = [i for i, row in enumerate(gold) if not row.get("choices")]
        tokens = rows.new_full((len(rows), self.args.max_new_tokens), tokenizer.pad_token_id)
        confidence = torch.zeros(len(rows), device=rows.device)
        with self.compute_loss_context_manager():
            if free:
                written, confidence[free] = base.generate(**select_prompts(inputs, free), generation_config=config)
                tokens[free, : written.shape[1]] = written
            if self.trie is None and not self.has_choices:
                return None, (tokens, confidence), rows
            number, probability = torch.full_like(rows, -1), confidence.clone()
            lengths = inputs["attention_mask"].sum(1).tolist()
            tries = [
                trie_of_choices(self.data_collator, row, length, self.trie)
                for row, length in zip(gold, lengths, strict=True)
            ]
            chosen = [i for i, trie in enumerate(tries) if trie is not None]
            if chosen:
                scores = base.score([trie for trie in tries if trie is not None], **select_prompts(inputs, chosen))
                probability[chosen], number[chosen] = scores.softmax(-1).max(-1)
        return None, (tokens, confidence, number, probability), rows


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
    _limit_answers(args, collator, dataset)
    candidates = build_vocabulary(counts_of(dataset["train"], "answer")) if args.answer_candidates == "train" else []
    gold = gold_answers(dataset)
    rows = training_rows(args, dataset)
    trainer = Blip2Trainer(
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
    )
    if args.do_train and base.evidence is not None:
        targets = evidence_targets(base.config.evidence_labels, base.evidence.grid, processor.tokenizer)
        trainer.training_collator = WithEvidence(collator, targets)
    if args.other_words:
        trainer.training_collator = InOtherWords(trainer.training_collator or collator, args.other_words, args.seed)
    if saved is not None:
        trainer.answering = replace(
            trainer.answering, confidence_scale=saved.confidence_scale, threshold=saved.threshold
        )
    return trainer


def _limit_answers(args: Blip2TrainingArguments, collator: Blip2Collator, dataset: datasets.DatasetDict) -> None:
    """Sets `max_new_tokens` where it is not given, and counts the answers that are longer.

    Raises:
        UserError: the language model has no places for so many tokens after the longest question.
    """
    lengths: dict[str, Counter[int]] = {split: Counter() for split in dataset}
    for split, rows in dataset.items():
        for answer, count in counts_of(rows, "answer").items():
            lengths[split][len(collator.answer_ids(answer))] += count
    longest = max(lengths["train"] if "train" in lengths else chain(*lengths.values()))
    if collator.max_length is not None:
        questions = {question for rows in dataset.values() for question in counts_of(rows, "question")}
        room = collator.max_length - max(len(collator.prompt_ids(question)) for question in questions)
        if room < (args.max_new_tokens or 1):
            raise UserError(
                f"--max_new_tokens {args.max_new_tokens or longest}: after the longest question the language model "
                f"has places for {max(room, 0)} tokens; choose fewer, or shorten the longest questions."
            )
        longest = min(longest, room)
    args.max_new_tokens = args.max_new_tokens or longest
    limit = args.max_new_tokens
    for split, counts in lengths.items():
        cut = sum(count for length, count in counts.items() if length > limit)
        if cut:
            logger.warning(
                "%d of %d %s answers are longer than --max_new_tokens %d: they can't be met.",
                cut,
                counts.total(),
                split,
                limit,
            )
