"""ViLT models from nothing, from the starter, from a folder or the Hub."""

import logging
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast, ViltConfig, ViltProcessor
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from modeling.parts.vocabulary import build_vocabulary, labels_of
from modeling.training.arguments import ViltTrainingArguments
from modeling.vilt.network import ViltForQuestionAnswering
from modeling.vilt.starter import ViltStarterForQuestionAnswering, starter_checkpoint
from processing.errors import UserError

logger = logging.getLogger(__name__)

# Untrained models for machines without a Hub (small) and for tests (tiny). `image_size` is in pixels.
SCRATCH = {
    "tiny": {
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
        **{"image_size": 64, "patch_size": 16},
    },
    "small": {
        **{"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
        **{"image_size": 192, "patch_size": 32},
    },
}

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

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
    labels: dict = {}
    if args.do_train:
        answers = build_vocabulary(dataset["train"]["answer"])
        labels = {"label2id": {answer: i for i, answer in enumerate(answers)}, "id2label": dict(enumerate(answers))}
    untrained = name == "starter" or name.startswith("scratch:")
    if untrained and not args.do_train:
        raise UserError(f"{name}: an untrained model has nothing to evaluate; name a folder.")
    if name == "starter":
        with args.main_process_first(desc="assembling the starter"):
            checkpoint = str(starter_checkpoint())
        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # else it reports every untrained weight as missing
        model, processor = load_checkpoint(checkpoint, labels)
        transformers.logging.set_verbosity(verbosity)
    elif untrained:
        model, processor = _from_scratch(name.removeprefix("scratch:"), labels, dataset["train"]["question"])
    else:
        model, processor = load_checkpoint(name, labels)
    if args.do_train:
        config = model.config
        config.answer_temperature, config.answer_threshold = 1.0, 0.0  # the checkpoint's are for other answers
    _report_vocabulary(model.config, dataset)
    _report_cut_questions(processor, model.config, dataset)
    return model, processor


def load_checkpoint(name: str, options: dict[str, dict] | None = None) -> tuple[AnyVilt, ViltProcessor]:
    """Loads a model and its processor.

    Args:
        name: a folder or a Hub id.
        options: `label2id` and `id2label` of a head to train; without them the model keeps its own.

    Raises:
        UserError: it can't be loaded, is no ViLT, or is to keep a head that it does not have.
    """
    options = options or {}
    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in MODELS:
            raise UserError(f"{name}: a {config.model_type} model, not ViLT; choose another.")
        new_head = bool(options) and config.label2id != options["label2id"]
        model_class, image_processor_class = MODELS[config.model_type]
        model, report = model_class.from_pretrained(
            name,
            **options,
            ignore_mismatched_sizes=bool(options),
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        if report["missing_keys"] and not options:
            raise UserError(
                f"{name}: it has no trained answers ({min(report['missing_keys'])} is missing); train it first."
            )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        processor = ViltProcessor(image_processor_class.from_pretrained(name), tokenizer)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        hint = "" if Path(name).is_dir() else "; without a Hub, start from starter or scratch:small"
        raise UserError(f"{name}: can't be loaded as a folder or from the Hub ({reason}){hint}.") from error
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


def _from_scratch(size: str, labels: dict, questions: Iterable[str]) -> tuple[ViltForQuestionAnswering, ViltProcessor]:
    if size not in SCRATCH:
        raise UserError(f"scratch:{size}: unknown size; choose {' or '.join(sorted(SCRATCH))}.")
    tokenizer = build_tokenizer(questions)
    config = ViltConfig(**SCRATCH[size], **labels, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    image_processor = ViltImageProcessorPil(size={"shortest_edge": config.image_size}, size_divisor=config.patch_size)
    return ViltForQuestionAnswering(config), ViltProcessor(image_processor, tokenizer)


def build_tokenizer(questions: Iterable[str], max_length: int = 40) -> PreTrainedTokenizerFast:
    """A BERT-style WordPiece tokenizer whose words are those of the questions; other words are spelt by characters."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {word for q in set(questions) for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(q))}
    characters = {character for word in words for character in word} | {*string.ascii_lowercase, *string.digits}
    pieces = sorted(words | characters | {f"##{character}" for character in characters if character.isalnum()})
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        **{f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS},
    )


def _report_vocabulary(config: ViltConfig, dataset: datasets.DatasetDict) -> None:
    for split in ("validation", "test"):
        if split in dataset:
            answers = dataset[split]["answer"]
            known = labels_of(answers, config.label2id)
            missing = sum(answer not in known for answer in answers)
            logger.info(
                "%d answers in the vocabulary; %d of %d %s answers are not among them: Exact Match can reach %.2f %%.",
                *(len(config.label2id), missing, len(answers), split, 100 * (1 - missing / len(answers))),
            )


def _report_cut_questions(processor: ViltProcessor, config: ViltConfig, dataset: datasets.DatasetDict) -> None:
    limit = config.max_position_embeddings
    for split, rows in dataset.items():
        counts = Counter(rows["question"])
        lengths = map(len, processor.tokenizer(list(counts), verbose=False)["input_ids"])
        cut = sum(count for count, length in zip(counts.values(), lengths, strict=True) if length > limit)
        if cut:
            logger.warning("%d %s questions are longer than %d tokens and are cut.", cut, split, limit)
