"""ViLT models to train or to ask: from nothing, from the starter, from a folder or the Hub."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch import nn
from transformers import AutoTokenizer, ViltConfig, ViltProcessor
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from metrics.abstention import SILENT_EVERYWHERE
from modeling.parts.loading import load_config, load_pretrained, load_weights, loading_errors
from modeling.parts.vocabulary import build_vocabulary, labels_of
from modeling.training.arguments import ViltTrainingArguments
from modeling.training.checks import check_starter
from modeling.vilt.network import ViltForQuestionAnswering
from modeling.vilt.scratch import untrained_model
from modeling.vilt.starter import ViltStarterForQuestionAnswering, starter_checkpoint
from processing.errors import UserError

logger = logging.getLogger(__name__)

AnyVilt = ViltForQuestionAnswering | ViltStarterForQuestionAnswering
MODELS: dict[str, tuple[Any, Any]] = {
    "vilt": (ViltForQuestionAnswering, ViltImageProcessorPil),
    "vilt_starter": (ViltStarterForQuestionAnswering, ViTImageProcessorPil),
}


def build_model(args: ViltTrainingArguments, dataset: datasets.DatasetDict) -> tuple[AnyVilt, ViltProcessor]:
    """Loads or makes the model and its processor.

    To train, the head is one over the answers of the training rows; to evaluate only, the model keeps its own.

    Raises:
        UserError: the checkpoint can't be loaded or is no ViLT.
    """
    name = args.model_name_or_path
    untrained = name == "starter" or name.startswith("scratch:")
    if untrained and not args.do_train:
        raise UserError(f"{name}: an untrained model has nothing to evaluate; name a folder.")
    labels: dict[str, dict] = {}
    if args.do_train:
        answers = build_vocabulary(dataset["train"]["answer"])
        labels = {"label2id": {answer: i for i, answer in enumerate(answers)}, "id2label": dict(enumerate(answers))}
    if name == "starter":
        with args.main_process_first(desc="assembling the starter"):
            checkpoint = str(starter_checkpoint())
        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # else it reports every untrained weight as missing
        model, processor = load_checkpoint(checkpoint, labels)
        transformers.logging.set_verbosity(verbosity)
    elif untrained:
        model, processor = untrained_model(name.removeprefix("scratch:"), labels, dataset["train"]["question"])
    else:
        model, processor = load_checkpoint(name, labels)
    check_starter(args, isinstance(model, ViltStarterForQuestionAnswering))
    if args.do_train:
        config = model.config  # the checkpoint's own temperature and threshold are for other answers
        config.answer_temperature = 1.0
        config.answer_threshold = 0.0 if args.target_risk is None else SILENT_EVERYWHERE  # until one is chosen
    _log_vocabulary(model.config, dataset)
    _warn_of_cut_questions(processor, model.config, dataset)
    return model, processor


def load_checkpoint(name: str, labels: dict[str, dict] | None = None) -> tuple[AnyVilt, ViltProcessor]:
    """Loads a model and its processor.

    Args:
        name: a folder or a Hub id.
        labels: `label2id` and `id2label` of a head to train; without them the model keeps its own.

    Raises:
        UserError: it can't be loaded, is no ViLT, or is to keep a head that it does not have.
    """
    labels = labels or {}
    hint = "" if Path(name).is_dir() else "; without a Hub, start from starter or scratch:small"
    with loading_errors(name, hint):
        config = load_config(name)
        if config.model_type not in MODELS:
            raise UserError(f"{name}: a {config.model_type} model, not ViLT; choose another.")
        new_head = bool(labels) and config.label2id != labels["label2id"]
        model_class, image_processor_class = MODELS[config.model_type]
        config.update(labels)
        model, report = load_weights(model_class, config, name, torch.float32, ignore_mismatched_sizes=bool(labels))
        if report["missing_keys"] and not labels:
            missing = min(report["missing_keys"])
            raise UserError(f"{name}: it has no trained answers ({missing} is missing); train it first.")
        tokenizer = load_pretrained(AutoTokenizer, name)
        processor = ViltProcessor(load_pretrained(image_processor_class, name), tokenizer)
    if new_head:  # also where the sizes happen to match: the old rows mean other answers
        _reset_head(model)
    return model, processor


def _reset_head(model: AnyVilt) -> None:
    heads = [module for name, module in model.named_modules() if name.endswith("classifier")]
    for module in (module for head in heads for module in head):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=model.config.initializer_range)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()


def _log_vocabulary(config: ViltConfig, dataset: datasets.DatasetDict) -> None:
    for split in ("validation", "test"):
        if split in dataset:
            answers = dataset[split]["answer"]
            known = labels_of(answers, config.label2id)
            missing = sum(answer not in known for answer in answers)
            logger.info(
                "The vocabulary has %d answers. %d of %d %s answers are not among them, so Exact Match can reach "
                "%.2f %%.",
                len(config.label2id),
                missing,
                len(answers),
                split,
                100 * (1 - missing / len(answers)),
            )


def _warn_of_cut_questions(processor: ViltProcessor, config: ViltConfig, dataset: datasets.DatasetDict) -> None:
    limit = config.max_position_embeddings
    for split, rows in dataset.items():
        counts = Counter(rows["question"])
        lengths = map(len, processor.tokenizer(list(counts), verbose=False)["input_ids"])
        cut = sum(count for count, length in zip(counts.values(), lengths, strict=True) if length > limit)
        if cut:
            logger.warning("%d %s questions are longer than %d tokens and are cut.", cut, split, limit)
