"""The two sides of `benchmarks.gpu`: a plain recipe and this project, over the same model of random weights.

Plain is what public notebooks do: the stock class of transformers in a `Trainer`, every image decoded and encoded for
each of its questions, questions padded to one length.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import datasets
import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers import Blip2Config, GenerationConfig, Trainer, TrainingArguments, ViltConfig, ViltProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from benchmarks import vlm_variants
from benchmarks.blip2_variants import GREEDY, Plain, add_lora, make_processor
from benchmarks.comparison import plain_batch
from benchmarks.published_vlms import PublishedVlm
from modeling.blip2 import family as blip2
from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.parts.vocabulary import build_vocabulary, labels_of
from modeling.training.arguments import (
    AnyTrainingArguments,
    Blip2TrainingArguments,
    ViltTrainingArguments,
    VlmTrainingArguments,
)
from modeling.vilt import family as vilt
from modeling.vilt.network import ViltForQuestionAnswering
from modeling.vilt.scratch import build_tokenizer
from modeling.vlm import family as vlm
from modeling.vlm.network import PrefixReader
from modeling.writing.adapter import frozen_dtype
from processing.collators import Blip2Collator
from processing.row_values import counts_of
from tests.support.tiny_vlms import MAKERS

Rows = datasets.Dataset


class Side(NamedTuple):
    """One way to train and evaluate a model.

    Attributes:
        trainer: before its training.
        answer: answers rows, as the evaluation of this side does.
        precision: fp16, bf16 or fp32.
    """

    trainer: Trainer
    answer: Callable[[Rows], Any]
    precision: str


class Options(NamedTuple):
    """What both sides have in common.

    Attributes:
        folder: for what the Trainers may write.
        steps: optimizer steps.
        batch_size: questions of a step, and of an evaluation batch.
    """

    folder: str
    steps: int
    batch_size: int

    def training(self) -> dict[str, Any]:
        """Training arguments of any class: the rows in their order, and nothing but training."""
        return {
            "output_dir": self.folder,
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "per_device_eval_batch_size": self.batch_size,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "constant",
            "train_sampling_strategy": "sequential",
            "logging_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": ["none"],
            "disable_tqdm": True,
        }


def build(name: str, config: Any, dataset: datasets.DatasetDict, options: Options) -> Side:
    """One side of the comparison of a model.

    Args:
        name: plain or project.
        config: a ViltConfig or a Blip2Config, without dropout, or a PublishedVlm.
        dataset: its split `train` is trained on in order.
    """
    kind = "vlm" if isinstance(config, PublishedVlm) else config.model_type
    make = {"vilt": _vilt, "blip-2": _blip2, "vlm": _vlm}[kind]
    return make(name == "project", copy.deepcopy(config), dataset, options)


def _vilt(project: bool, config: ViltConfig, dataset: datasets.DatasetDict, options: Options) -> Side:
    rows = dataset["train"]
    answers = build_vocabulary(counts_of(rows, "answer"))
    label2id = {answer: i for i, answer in enumerate(answers)}
    config.update({"label2id": label2id, "id2label": dict(enumerate(answers))})
    image_processor = ViltImageProcessorPil(size={"shortest_edge": config.image_size}, size_divisor=config.patch_size)
    processor = ViltProcessor(image_processor, build_tokenizer(rows["question"], config.max_position_embeddings))
    args = ViltTrainingArguments(**options.training())
    model_class = ViltForQuestionAnswering if project else transformers.ViltForQuestionAnswering
    model = untrained(model_class, config, torch.float32, args.device)
    if project:
        trainer = vilt.build_trainer(args, model, processor, dataset)
        return Side(trainer, trainer.predict, _precision(args))
    label_of = labels_of(rows["answer"], label2id)

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        return plain_batch(processor, label_of, len(answers), batch)

    trainer = _plain_trainer(model, args, collate, rows, options)
    return Side(trainer, trainer.predict, _precision(args))


def _blip2(project: bool, config: Blip2Config, dataset: datasets.DatasetDict, options: Options) -> Side:
    rows = dataset["train"]
    decoder_only = config.use_decoder_only_language_model
    processor = make_processor(list(rows), config.vision_config.image_size, decoder_only)
    args = Blip2TrainingArguments(**options.training(), lora_dropout=0.0)
    if args.fp16 and not decoder_only:
        args.leave_fp16("FP16 overflows in an encoder-decoder")  # as `modeling.blip2.adapter` does
    model_class = Blip2ForQuestionAnswering if project else Plain.model_class
    model = add_lora(untrained(model_class, config, frozen_dtype(args), args.device))
    if project:
        trainer = blip2.build_trainer(args, model, processor, dataset)
        return Side(trainer, trainer.predict, _precision(args))
    collator = Blip2Collator(processor, args.prompt, 1, decoder_only)
    side = Plain(collator, model, list(rows))
    trainer = _plain_trainer(model, args, side.batch, rows, options)
    greedy = copy.deepcopy(GREEDY)
    greedy.max_new_tokens = max(len(collator.answer_ids(answer)) for answer in rows["answer"])
    return Side(trainer, _plain_generation(side, greedy, args), _precision(args))


def _vlm(project: bool, published: PublishedVlm, dataset: datasets.DatasetDict, options: Options) -> Side:
    rows = dataset["train"]
    args = VlmTrainingArguments(**options.training(), lora_dropout=0.0)
    if args.fp16:
        args.leave_fp16("Models of this kind overflow in FP16")  # as `modeling.vlm.adapter` does
    texts = (*rows["question"], *rows["answer"])
    config, processor = MAKERS[published.architecture](replace(published.sizes, texts=texts))
    model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    base = untrained(model_class, config, frozen_dtype(args), args.device)
    base.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model = vlm_variants.add_lora(base)
    if project:
        base.evidence = None
        PrefixReader(base).take_over()
        trainer = vlm.build_trainer(args, model, processor, dataset)
        return Side(trainer, trainer.predict, _precision(args))
    side = vlm_variants.Plain(model, processor, list(rows))
    trainer = _plain_trainer(model, args, side.batch, rows, options)
    greedy = copy.deepcopy(vlm_variants.GREEDY)
    greedy.max_new_tokens = max(len(side.chat.answer_ids(answer, side.end)) for answer in set(rows["answer"]))
    return Side(trainer, _plain_generation(side, greedy, args), _precision(args))


def untrained(model_class: Any, config: Any, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A model of random weights, the same for each class, made where it computes."""
    torch.manual_seed(0)
    with torch.device(device):
        model = model_class._from_config(config, dtype=dtype)
    if hasattr(model, "query_tokens"):
        nn.init.normal_(model.query_tokens)  # the stock class starts all queries alike
        if dtype == torch.float16:  # as a checkpoint is loaded
            model.qformer.float()
            model.query_tokens.data = model.query_tokens.data.float()
    return model


def _precision(args: AnyTrainingArguments) -> str:
    return "fp16" if args.fp16 else "bf16" if args.bf16 else "fp32"


def _plain_trainer(
    model: nn.Module | PeftModel, args: AnyTrainingArguments, collate: Callable, rows: Rows, options: Options
) -> Trainer:
    """The Trainer as it comes, in the precision of the project's."""
    own = TrainingArguments(
        **options.training(), fp16=args.fp16, bf16=args.bf16, use_cpu=args.use_cpu, remove_unused_columns=False
    )
    return Trainer(model, own, data_collator=collate, train_dataset=rows)


def _plain_generation(
    side: Plain | vlm_variants.Plain, config: GenerationConfig, args: AnyTrainingArguments
) -> Callable[[Rows], Any]:
    def answer(rows: Rows) -> list[list[int]]:
        side.model.eval()
        answers = []
        with torch.no_grad(), _autocast(args):
            for batch in _batches(rows, args.per_device_eval_batch_size):
                answers += side.generate(batch, config)
        return answers

    return answer


def _batches(rows: Sequence[dict] | Rows, size: int) -> Iterator[list[dict]]:
    for start in range(0, len(rows), size):
        yield [rows[i] for i in range(start, min(start + size, len(rows)))]


@contextmanager
def _autocast(args: AnyTrainingArguments) -> Iterator[None]:
    dtype = torch.float16 if args.fp16 else torch.bfloat16
    with torch.autocast(args.device.type, dtype, enabled=args.fp16 or args.bf16):
        yield
