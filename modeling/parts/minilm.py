"""MiniLM, the frozen text encoder."""

import torch
from safetensors.torch import load as load_safetensors
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from modeling.parts.packages import TEXT_WEIGHTS, TOKENIZER, read_part

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
MAX_QUESTION_LENGTH = 40  # tokens, which is ViLT's limit


def minilm_weights() -> dict[str, torch.Tensor]:
    """The pretrained weights of `BertModel` without its pooler."""
    unused = ("pooler.", "embeddings.position_ids")
    weights = load_safetensors(read_part(TEXT_WEIGHTS))
    return {name: value for name, value in weights.items() if not name.startswith(unused)}


def minilm() -> BertModel:
    """The pretrained text encoder; it has no dropout."""
    with torch.random.fork_rng(devices=[]):
        model = BertModel(BertConfig(**MINILM), add_pooling_layer=False)
    model.load_state_dict(minilm_weights())
    return model.eval()


def minilm_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of MiniLM, for questions of at most `MAX_QUESTION_LENGTH` tokens."""
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_buffer(read_part(TOKENIZER)), model_max_length=MAX_QUESTION_LENGTH, **special
    )
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def sentence_vectors(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """MiniLM's own vectors of texts, the normalised mean of their states ``(B, L, D)``, with a variance of 1.

    Args:
        mask: 1 for real tokens, ``(B, L)``.
    """
    summed = (states * mask.unsqueeze(-1)).sum(1)
    return nn.functional.normalize(summed, dim=-1) * states.shape[-1] ** 0.5


def drop_tokens(attention_mask: torch.Tensor, share: float) -> torch.Tensor:
    """The mask ``(B, L)`` of questions' tokens without a random share of them. The first token always stays."""
    dropped = torch.rand(attention_mask.shape, device=attention_mask.device) < share
    dropped[:, 0] = False
    return attention_mask * ~dropped
