"""The language model of the starters that write their answers: SmolLM2-135M, from its package."""

import importlib.util
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from modeling.parts.loading import load_config, load_pretrained
from modeling.parts.packages import LANGUAGE_MODEL, missing_package, part_path


def _file() -> tuple[Any, dict[str, str]]:
    """The folder of the weights, and how transformers is told of their file.

    Raises:
        UserError: a package is missing.
    """
    path = part_path(LANGUAGE_MODEL)
    if importlib.util.find_spec("gguf") is None:
        raise missing_package("gguf")
    return path.parent, {"gguf_file": path.name}


def read_language_config() -> PreTrainedConfig:
    """Its config.

    Raises:
        UserError: a package is missing, or its file is not the expected one.
    """
    folder, options = _file()
    config = load_config(folder, **options)
    config._name_or_path = ""  # the package's folder on this machine
    return config


def read_language_model(config: PreTrainedConfig) -> Any:
    """The model, in bf16.

    Args:
        config: of `read_language_config`.
    """
    folder, options = _file()
    return load_pretrained(AutoModelForCausalLM, folder, config=config, dtype=torch.bfloat16, **options)


def read_language_tokenizer() -> PreTrainedTokenizerBase:
    """Its tokenizer, which pads on the left."""
    folder, options = _file()
    return load_pretrained(AutoTokenizer, folder, padding_side="left", **options)
