"""ViLT models to train or to ask: from nothing, from the starter, from a folder or the Hub."""

import logging
from typing import Any

import datasets
import torch
from torch import nn
from transformers import AutoTokenizer, ViltConfig, ViltProcessor
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from metrics.abstention import SILENT_EVERYWHERE
from modeling.parts.evidence_targets import evidence_config
from modeling.parts.kinds import check_kind
from modeling.parts.loading import load_config, load_pretrained, load_weights, loading_errors, no_report_of_weights
from modeling.parts.model_files import ModelFiles, open_model
from modeling.parts.vocabulary import build_vocabulary
from modeling.training.arguments import ViltTrainingArguments
from modeling.training.checks import check_starter
from modeling.vilt.evidence import set_evidence_vectors
from modeling.vilt.network import ViltForQuestionAnswering
from modeling.vilt.scratch import check_size, untrained_model
from modeling.vilt.starter import ViltStarterForQuestionAnswering, starter_checkpoint
from processing.errors import UserError
from processing.row_values import counts_of

logger = logging.getLogger(__name__)

AnyVilt = ViltForQuestionAnswering | ViltStarterForQuestionAnswering
MODELS: dict[str, tuple[Any, Any]] = {
    "vilt": (ViltForQuestionAnswering, ViltImageProcessorPil),
    "vilt_starter": (ViltStarterForQuestionAnswering, ViTImageProcessorPil),
}
SUGGESTION = "dandelin/vilt-b32-mlm"
CLASSES = (  # of which each has the network that is trained here
    "ViltForMaskedLM",
    "ViltForQuestionAnswering",
    "ViltForImageAndTextRetrieval",
    "ViltForImagesAndTextClassification",
    "ViltModel",
    *(model.__name__ for model, _ in MODELS.values()),
)
HEAD = r"(^|\.)(classifier|evidence|detection_\w+)\."
# Of what a ViLT was trained for before; evidence, where it goes on without boxes.
OTHER_HEADS = r"^(mlm_score|rank_output|classifier|evidence|detection_\w+)\."


def check_base(args: ViltTrainingArguments) -> None:
    """Checks what a run starts from, by its name and its config.json, and pins its revision to a commit.

    Raises:
        UserError: there is no such model, it is no ViLT, or it has nothing to evaluate.
    """
    name = args.model_name_or_path
    if name == "starter" or name.startswith("scratch:"):
        if not args.do_train:
            raise UserError(f"{name}: an untrained model has nothing to evaluate; name a folder.")
        if name != "starter":
            check_size(name.removeprefix("scratch:"))
        return
    args.model_revision = _open_vilt(name, args.model_revision).commit


def _open_vilt(name: str, revision: str | None) -> ModelFiles:
    files = open_model(name, revision)
    check_kind(files, "vilt", CLASSES, SUGGESTION)
    return files


def build_model(args: ViltTrainingArguments, dataset: datasets.DatasetDict) -> tuple[AnyVilt, ViltProcessor]:
    """Loads or makes the model and its processor.

    To train, the head is one over the answers of the training rows; to evaluate only, the model keeps its own.

    Raises:
        UserError: the checkpoint can't be loaded or is no ViLT.
    """
    name = args.model_name_or_path
    labels: dict[str, Any] = {}
    if args.do_train:
        answers = build_vocabulary(counts_of(dataset["train"], "answer"))
        labels = {"label2id": {answer: i for i, answer in enumerate(answers)}, "id2label": dict(enumerate(answers))}
        labels |= evidence_config(args.evidence_weight, dataset["train"])
    if name == "starter":
        with args.main_process_first(desc="assembling the starter"):
            files = ModelFiles(name, starter_checkpoint())
        layers = {} if args.encoder_layers is None else {"num_hidden_layers": args.encoder_layers}
        with no_report_of_weights():
            model, processor = load_checkpoint(files, labels | layers, new=".")
    elif name.startswith("scratch:"):
        model, processor = untrained_model(name.removeprefix("scratch:"), labels, dataset["train"]["question"])
    else:
        with args.main_process_first(desc="fetching the base model"):
            files = _open_vilt(name, args.model_revision)
            files.weights(read_pickled=True)
        model, processor = load_checkpoint(files, labels, read_pickled=True)
        if args.do_train:
            model.config.base_model = f"{name}@{files.commit}" if files.commit else None
    check_starter(args, isinstance(model, ViltStarterForQuestionAnswering))
    if args.do_train and getattr(model.config, "evidence_labels", None):
        set_evidence_vectors(model, processor.tokenizer)
    if args.do_train:
        config = model.config  # the checkpoint's own temperature and threshold are for other answers
        config.answer_temperature = 1.0
        config.answer_threshold = 0.0 if args.target_risk is None else SILENT_EVERYWHERE  # until one is chosen
    _warn_of_cut_questions(processor, model.config, dataset)
    return model, processor


def load_checkpoint(
    files: ModelFiles, labels: dict[str, Any] | None = None, new: str = HEAD, read_pickled: bool = False
) -> tuple[AnyVilt, ViltProcessor]:
    """Loads a model and its processor.

    Args:
        files: of the model.
        labels: `label2id` and `id2label` of a head to train, and what else of the config changes; without them the
            model keeps its own.
        new: pattern of weights that a model to train may lack.
        read_pickled: as in `ModelFiles.weights`.

    Raises:
        UserError: it can't be loaded, or is to keep a head that it does not have.
    """
    name, labels = files.name, labels or {}
    with loading_errors(name):
        config = load_config(files.root)
        new_head = bool(labels) and config.label2id != labels["label2id"]
        model_class, image_processor_class = MODELS[config.model_type]
        config.update(labels)
        options: dict[str, Any] = {"new": new, "ignored": OTHER_HEADS, "read_pickled": read_pickled}
        model, lacking = load_weights(model_class, config, files, torch.float32, **options)
        if lacking and not labels:
            raise UserError(f"{name}: it has no trained answers ({lacking[0]} is missing); train it first.")
        tokenizer = load_pretrained(AutoTokenizer, files.root)
        processor = ViltProcessor(load_pretrained(image_processor_class, files.root), tokenizer)
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


def _warn_of_cut_questions(processor: ViltProcessor, config: ViltConfig, dataset: datasets.DatasetDict) -> None:
    limit = config.max_position_embeddings
    for split, rows in dataset.items():
        counts = counts_of(rows, "question")
        lengths = map(len, processor.tokenizer(list(counts), verbose=False)["input_ids"])
        cut = sum(count for count, length in zip(counts.values(), lengths, strict=True) if length > limit)
        if cut:
            logger.warning("%d %s questions are longer than %d tokens and are cut.", cut, split, limit)
