"""What the Trainer of image-text-to-text models is made of."""

from dataclasses import replace
from typing import Any

import datasets
from peft import PeftModel

from metrics.vqa import generation_metrics
from modeling.parts.evidence_targets import WithEvidence
from modeling.parts.vocabulary import build_vocabulary
from modeling.training.arguments import VlmTrainingArguments
from modeling.training.trainers import gold_answers, stopping_callbacks, training_rows
from modeling.vlm.adapter import merge, open_base
from modeling.vlm.images import keep_images
from modeling.vlm.network import PrefixReader
from modeling.vlm.self_test import check_shared_prefix, evaluating
from modeling.writing.answering import ANSWERING_FILE, Answering, decode_with, end_tokens
from modeling.writing.evidence import evidence_targets
from modeling.writing.trainer import WritingTrainer, limit_answers
from processing.chat import ChatPrompts
from processing.chat_collator import ChatCollator
from processing.errors import UserError
from processing.other_words import InOtherWords
from processing.row_values import counts_of


class VlmTrainer(WritingTrainer):
    """Trains on shared prefixes."""

    def writer(self, base: Any) -> PrefixReader:
        """What reads each image once."""
        return base.reader

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, once two questions of one image have shown that sharing its prefix changes nothing."""
        model: Any = self.model
        reader = self.writer(model.get_base_model())
        with evaluating(model):
            check_shared_prefix(
                reader, self.data_collator, _two_questions(self.train_dataset), self.args.model_name_or_path
            )
        return super().train(*args, **kwargs)

    def merge(self, folder: str) -> None:
        """As `WritingTrainer` says."""
        merge(folder, self.args)


def _two_questions(rows: datasets.Dataset) -> list[dict[str, Any]]:
    """Two rows about one image, or the first row twice where no image has two."""
    seen: dict[str, int] = {}
    for number, image in enumerate(rows["image"]):
        if image in seen:
            return [rows[seen[image]], rows[number]]
        seen[image] = number
    return [rows[0], rows[0]]


def build_trainer(
    args: VlmTrainingArguments, model: PeftModel, processor: Any, dataset: datasets.DatasetDict
) -> VlmTrainer:
    """A Trainer whose evaluation generates answers. Batches bring kept features of images.

    Raises:
        UserError: several GPUs in one process, or the model has no chat template.
    """
    if args.n_gpu > 1:
        raise UserError("Several GPUs need accelerate launch --multi_gpu; CUDA_VISIBLE_DEVICES=0 chooses one of them.")
    base: Any = model.get_base_model()
    chat = ChatPrompts(processor, base.config.image_token_id, args.prompt, args.system_prompt)
    ends = end_tokens(base, processor.tokenizer)
    own = None if args.do_train else open_base(args.model_name_or_path, args.model_revision).own
    saved = None if own is None or own.find(ANSWERING_FILE) is None else Answering.from_pretrained(own)
    end = chat.end_token(ends) if saved is None or saved.end_token_id is None else saved.end_token_id
    collator = ChatCollator(chat, keep_images(base, processor, args, dataset), args.questions_per_image, end)
    limit_answers(args, collator, dataset)
    candidates = build_vocabulary(counts_of(dataset["train"], "answer")) if args.answer_candidates == "train" else []
    gold = gold_answers(dataset)
    trainer = VlmTrainer(
        model,
        args,
        data_collator=collator,
        train_dataset=training_rows(args, dataset),
        eval_dataset=dataset.get("validation"),
        processing_class=processor,
        compute_metrics=generation_metrics(gold, decode_with(processor, ends), candidates),
        callbacks=stopping_callbacks(args),
        ends=ends,
        gold=gold,
        candidates=candidates,
        family="vlm",
        system=args.system_prompt,
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
