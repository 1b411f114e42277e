"""What the Trainer of image-text-to-text models is made of."""

import logging
from collections import Counter
from typing import Any

import datasets
from peft import PeftModel

from metrics.vqa import generation_metrics
from modeling.parts.vocabulary import build_vocabulary
from modeling.training.arguments import VlmTrainingArguments
from modeling.training.trainers import gold_answers, stopping_callbacks, training_rows
from modeling.vlm.adapter import merge, open_base
from modeling.vlm.images import keep_images
from modeling.vlm.network import PrefixReader
from modeling.vlm.self_test import check_shared_prefix, evaluating
from modeling.writing.answering import ANSWERING_FILE, Answering, decode_with, end_tokens
from modeling.writing.trainer import WritingTrainer, limit_answers
from processing.chat import ChatPrompts
from processing.chat_collator import ChatCollator
from processing.errors import UserError
from processing.row_values import counts_of

logger = logging.getLogger(__name__)
TESTED_QUESTIONS = 8  # before the first step


class VlmTrainer(WritingTrainer):
    """Trains on shared prefixes."""

    def writer(self, base: Any) -> PrefixReader:
        """What reads each image once."""
        return base.reader

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, once questions of one image have shown that sharing its prefix changes nothing."""
        model: Any = self.model
        reader = self.writer(model.get_base_model())
        name = self.args.model_name_or_path
        if reader.shares_prefix:
            with evaluating(model):
                check_shared_prefix(reader, self.data_collator, _questions_of_one_image(self.train_dataset), name)
        elif self.is_world_process_zero():
            logger.warning(
                "%s: questions about one image are read one by one, as no shared prefix is known for a model of type "
                "%s; training takes several times as long.",
                name,
                reader.model.config.model_type,
            )
        return super().train(*args, **kwargs)

    def merge(self, folder: str) -> None:
        """As `WritingTrainer` says."""
        merge(folder, self.args)


def _questions_of_one_image(rows: datasets.Dataset) -> list[dict[str, Any]]:
    """Two to eight rows about one image; the first row twice where no image has two."""
    images = list(rows["image"])
    counts = Counter(images)
    chosen = next((image for image in images if counts[image] > 1), None)
    numbers = [number for number, image in enumerate(images) if image == chosen][:TESTED_QUESTIONS]
    return [rows[number] for number in numbers or [0, 0]]


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
    if not base.reader.shares_prefix:
        collator = collator.with_image_for_each_row()
    limit_answers(args, collator, dataset)
    candidates = build_vocabulary(counts_of(dataset["train"], "answer")) if args.answer_candidates == "train" else []
    gold = gold_answers(dataset)
    return VlmTrainer(
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
        saved=saved,
        asked={"family": "vlm", "system": args.system_prompt, "max_pixels": args.max_pixels},
    )
