"""Weights of frozen bases in 4 or 8 bits, by bitsandbytes."""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import nn

from processing.errors import UserError


def quantization_options(bits: str | None, dtype: torch.dtype, kept: Sequence[str]) -> dict[str, Any]:
    """Options of `from_pretrained`.

    Args:
        bits: 4bit or 8bit; None for neither.
        dtype: in which products are computed.
        kept: parts that keep their precision.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if bits is None:
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError(f"--quantization {bits}: needs bitsandbytes; pip install bitsandbytes.") from error
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=bits == "4bit",
        load_in_8bit=bits == "8bit",
        llm_int8_skip_modules=list(kept),  # of 4 bit too, for all its name
        bnb_4bit_compute_dtype=dtype,  # fp32 by default, which a GPU is slow at
        bnb_4bit_quant_type="nf4",  # for normally distributed weights, https://arxiv.org/abs/2305.14314
    )
    return {"quantization_config": config}


def let_gradients_through(model: nn.Module) -> None:
    """Keeps bitsandbytes from its kernel for inference, through which no gradient flows."""
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
