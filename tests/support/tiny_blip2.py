"""Tiny BLIP-2 models of three kinds, made from configs."""

from pathlib import Path

import datasets
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import Blip2Config, Blip2Processor, LlamaConfig, OPTConfig, PreTrainedTokenizerFast, T5Config
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

QUERIES = 16  # enough for questions to share them


def text_config(kind: str, vocab_size: int, width: int):
    common = {"vocab_size": vocab_size, "pad_token_id": 0, "eos_token_id": 1}
    if kind == "t5":
        sizes = {"d_model": width, "d_kv": width // 2, "d_ff": 2 * width, "num_layers": 2, "num_heads": 2}
        return T5Config(**common, **sizes, dropout_rate=0.0, decoder_start_token_id=0)
    common |= {"bos_token_id": 1, "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "opt":
        return OPTConfig(**common, ffn_dim=2 * width, word_embed_proj_dim=width, dropout=0.0)
    return LlamaConfig(**common, intermediate_size=2 * width)


def make_tokenizer(kind: str, texts) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet)
    )
    template = "$A </s>" if kind == "t5" else "</s> $A"  # as the real ones do
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **names)


def tiny_blip2(kind: str, dataset: datasets.DatasetDict, folder: Path, width: int = 32) -> Path:
    """Saves an untrained model whose language model is an `opt`, `llama` or `t5`, as the Hub's are laid out."""
    texts = [text for row in dataset["train"] for text in (row["question"], row["answer"])]
    small = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    tokenizer = make_tokenizer(kind, texts)
    config = Blip2Config(
        vision_config=small | {"image_size": 64, "patch_size": 16},
        qformer_config=small | {"vocab_size": 10, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        text_config=text_config(kind, len(tokenizer) + 1, width),
        num_query_tokens=QUERIES,
        image_token_index=len(tokenizer),
    )
    model = transformers.Blip2ForConditionalGeneration(config)
    for parameter in [p for p in model.parameters() if p.ndim > 1]:
        torch.nn.init.normal_(parameter, std=0.15)  # far from uniform answers
    model.save_pretrained(folder)
    image_processor = BlipImageProcessorPil(size={"height": 64, "width": 64})
    Blip2Processor(image_processor, tokenizer, QUERIES).save_pretrained(folder)
    return folder
