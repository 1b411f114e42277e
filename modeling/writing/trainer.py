"""What trainers share whose models write their answers, and answer so while they evaluate."""

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import datasets
import torch
from peft.helpers import disable_input_dtype_casting
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import Seq2SeqTrainer

from metrics.abstention import SILENT_EVERYWHERE
from modeling.parts.evidence_targets import WithEvidence
from modeling.training.arguments import WritingTrainingArguments
from modeling.training.trainers import EvaluatesEveryRow, grouped_by_image
from modeling.writing.answering import Answering
from modeling.writing.candidates import AnswerTrie, select_prompts, trie_of_choices
from modeling.writing.evidence import evidence_targets
from processing.errors import UserError
from processing.other_words import InOtherWords
from processing.row_values import counts_of

logger = logging.getLogger(__name__)


class WritingTrainer(EvaluatesEveryRow, Seq2SeqTrainer):
    """Trains on shared prefixes; scores generated answers, or the likeliest of a row's choices or of the candidates.

    Args:
        ends: the tokens that end an answer.
        gold: rows by their number, some with `choices`.
        candidates: the answers to choose among where a row has no choices; empty for generated ones.
        asked: what else `Answering` holds.
        saved: how the model answers that is evaluated; its confidence scale and threshold stay.
    """

    data_collator: Any

    def __init__(
        self,
        *args: Any,
        ends: Sequence[int],
        gold: Mapping[int, Mapping[str, Any]],
        candidates: Sequence[str] = (),
        asked: Mapping[str, Any] | None = None,
        saved: Answering | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.ends = list(ends)
        base: Any = self.model.get_base_model()
        if self.args.do_train and base.evidence is not None:
            tokenizer = self.processing_class.tokenizer
            targets = evidence_targets(base.config.evidence_labels, base.evidence.grid, tokenizer)
            self.training_collator = WithEvidence(self.data_collator, targets)
        if self.args.other_words:
            asked_otherwise = self.training_collator or self.data_collator
            self.training_collator = InOtherWords(asked_otherwise, self.args.other_words, self.args.seed)
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
            evidence_labels=getattr(base.config, "evidence_labels", None),
            **(asked or {}),
        )
        if saved is not None:
            self.answering = replace(
                self.answering, confidence_scale=saved.confidence_scale, threshold=saved.threshold
            )
        self.trie = None
        if candidates:
            self.trie = AnswerTrie([self.data_collator.answer_ids(answer) for answer in candidates])

    @abstractmethod
    def writer(self, base: Any) -> Any:
        """What has `generate` and `score`, as `modeling.blip2.network.Blip2ForQuestionAnswering` has them.

        Args:
            base: the model under the adapter.
        """

    @abstractmethod
    def merge(self, folder: str) -> None:
        """Writes the whole model of the adapter in a folder into `folder/merged`."""

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
            self.merge(folder)

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
        writer = self.writer(self.accelerator.unwrap_model(model).get_base_model())
        gold = [self.gold[number] if self.has_choices else {} for number in rows.tolist()]
        free = [i for i, row in enumerate(gold) if not row.get("choices")]
        tokens = rows.new_full((len(rows), self.args.max_new_tokens), tokenizer.pad_token_id)
        confidence = torch.zeros(len(rows), device=rows.device)
        if free:
            written, confidence[free] = writer.generate(**select_prompts(inputs, free), generation_config=config)
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
            scores = writer.score([trie for trie in tries if trie is not None], **select_prompts(inputs, chosen))
            probability[chosen], number[chosen] = scores.softmax(-1).max(-1)
        return None, (tokens, confidence, number, probability), rows


def limit_answers(args: WritingTrainingArguments, collator: Any, dataset: datasets.DatasetDict) -> None:
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
