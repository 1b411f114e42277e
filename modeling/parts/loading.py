"""The one loader of pretrained files: no code of a repo, safetensors alone, and errors in one sentence."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, dynamic_module_utils
from transformers.utils import cached_file

from processing.errors import UserError, quoted

ADAPTER_CONFIG = "adapter_config.json"
INDEX = "model.safetensors.index.json"  # which file of a sharded model holds which weight
SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
OWN_ATTENTION = (None, "eager", "sdpa")  # of transformers and torch


def load_pretrained(pretrained_class: Any, name: Any, **options: Any) -> Any:
    """What a class of transformers makes of a folder or a Hub id. Code that lies there is neither run nor asked about.

    Args:
        pretrained_class: a tokenizer, an image processor or one of the `Auto*` classes; configs by `load_config`,
            models by `load_weights`.
        name: a folder or a Hub id.
    """
    with _no_questions():
        return pretrained_class.from_pretrained(name, trust_remote_code=False, **options)


@contextmanager
def _no_questions() -> Iterator[None]:
    """Code is refused where transformers would ask whether to run it.

    A model builds its parts by `from_config`, and there the option of `from_pretrained` does not arrive.
    """
    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


def load_config(name: Any, **options: Any) -> PreTrainedConfig:
    """The config of a folder or a Hub id, without the paths that its parts may hold of another machine."""
    config = load_pretrained(AutoConfig, name, **options)
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            part._name_or_path = ""
    _take_orders(config)
    return config


def _take_orders(config: PreTrainedConfig) -> None:
    """Takes out of a config, and of its parts, what has transformers load something beside the model's own files.

    An attention or experts of another name are a kernel of the Hub, whose code would run. `transformers_weights` names
    other weights, pickled ones too.
    """
    if config._attn_implementation not in OWN_ATTENTION:
        config._attn_implementation = None
    config._experts_implementation = None
    vars(config).pop("transformers_weights", None)
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            _take_orders(part)


def load_weights(
    model_class: Any, config: PreTrainedConfig, name: str, dtype: torch.dtype, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """A model with the safetensors of a folder or a Hub id, and what its weights had and lacked.

    Args:
        model_class: its class of transformers, or one of ours.
        config: of the model, by `load_config`.
        dtype: of the weights in memory.

    Raises:
        UserError: an adapter lies there, which transformers would load too, of whatever kind it is, or the index of
            the weights names something else than safetensors beside it.
    """
    if find_file(name, ADAPTER_CONFIG, options.get("revision")) is not None:
        raise UserError(f"{name}: an adapter, where a whole model is needed; choose the model that it was trained on.")
    index = find_file(name, INDEX, options.get("revision"))
    if index is not None and (reason := why_unsafe(index)):
        raise UserError(f"{name}: its {INDEX} {reason}; save or download the model again.")
    return load_pretrained(
        model_class, name, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
    )


def why_unsafe(index: Path) -> str | None:
    """What is wrong with the index of a sharded model, None where all its weights are safetensors beside it.

    transformers unpickles shards of other names, and follows their paths.
    """
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        shards = set(content["weight_map"].values())
        if not isinstance(content["metadata"], dict) or not all(isinstance(shard, str) for shard in shards):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "is damaged"
    wrong = sorted(shard for shard in shards if not SHARD.fullmatch(shard))
    return f"names {quoted(wrong[0])}, which is no safetensors file beside it" if wrong else None


def load_adapter_config(name: str) -> LoraConfig | None:
    """The config of an adapter's folder or Hub id; None where there is no adapter.

    Raises:
        UserError: it is damaged, or of another kind than LoRA: PEFT loads models of their own for some.
    """
    file = find_file(name, ADAPTER_CONFIG)
    if file is None:
        return None
    try:
        kind = json.loads(file.read_text(encoding="utf-8"))["peft_type"]
        if kind != "LORA":
            raise UserError(f"{name}: an adapter of the kind {quoted(kind)}, not LoRA; choose another.")
        config = PeftConfig.from_pretrained(str(file.parent))
        if not config.base_model_name_or_path:
            raise ValueError("it names no base model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: its {ADAPTER_CONFIG} is damaged; save or download the adapter again.") from error
    return config


def find_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """The path of a file of a folder or, downloaded, of a Hub id; None where it can't be had."""
    try:
        return Path(cached_file(name, file, revision=revision))
    except (OSError, ValueError):  # no such file, no such repo, no such name, or no Hub
        return None


@contextmanager
def loading_errors(name: str, hint: str = "") -> Iterator[None]:
    """Turns what fails while a checkpoint is loaded into one sentence.

    Args:
        name: the folder or Hub id.
        hint: what else the user may do, after a semicolon.

    Raises:
        UserError: the checkpoint can't be loaded.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:  # of what a quantized model needs
        raise UserError(
            f"{name}: it needs a package that is not installed ({_first_line(error)}); install it, or choose another "
            "model."
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(f"{name}: it needs code of its own, which is never run; choose another model.") from error
        raise UserError(
            f"{name}: can't be loaded as a folder or from the Hub ({_first_line(error)}){hint}."
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".:")
