"""Untrained ViLT models, for machines without a Hub and for tests."""

import string
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, ViltConfig, ViltProcessor
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from modeling.vilt.network import ViltForQuestionAnswering
from processing.errors import UserError

# `image_size` is in pixels.
SIZES = {
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 64,
        "patch_size": 16,
    },
    "small": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "image_size": 192,
        "patch_size": 32,
    },
}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def check_size(size: str) -> None:
    """Refuses a size that is none of `SIZES`.

    Raises:
        UserError: it is unknown.
    """
    if size not in SIZES:
        raise UserError(f"scratch:{size}: unknown size; choose {' or '.join(sorted(SIZES))}.")


def untrained_model(
    size: str, labels: dict[str, dict], questions: Iterable[str]
) -> tuple[ViltForQuestionAnswering, ViltProcessor]:
    """A model of random weights and its processor.

    Args:
        size: one of `SIZES`.
        labels: `label2id` and `id2label` of its head.
        questions: whose words the tokenizer knows.
    """
    tokenizer = build_tokenizer(questions)
    config = ViltConfig(**SIZES[size], **labels, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    image_processor = ViltImageProcessorPil(size={"shortest_edge": config.image_size}, size_divisor=config.patch_size)
    return ViltForQuestionAnswering(config), ViltProcessor(image_processor, tokenizer)


def build_tokenizer(questions: Iterable[str], max_length: int = 40) -> PreTrainedTokenizerFast:
    """A BERT-style WordPiece tokenizer that knows the words of the questions and spells others by characters."""
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
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)
