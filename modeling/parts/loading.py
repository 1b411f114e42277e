"""The one loader of pretrained files: no code of a repo, safetensors alone, and errors in one sentence."""

import json
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
    return config


def load_weights(
    model_class: Any, config: PreTrainedConfig, name: str, dtype: torch.dtype, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """A model with the safetensors of a folder or a Hub id, and what its weights had and lacked.

    Args:
        model_class: its class of transformers, or one of ours.
        config: of the model, by `load_config`.
        dtype: of the weights in memory.

    Raises:
        UserError: an adapter lies there, which transformers would load too, of whatever kind it is.
    """
    if find_file(name, ADAPTER_CONFIG, options.get("revision")) is not None:
        raise UserError(f"{name}: an adapter, where a whole model is needed; choose the model that it was trained on.")
    return load_pretrained(
        model_class, name, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
    )


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
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(f"{name}: it needs code of its own, which is never run; choose another model.") from error
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise UserError(f"{name}: can't be loaded as a folder or from the Hub ({reason}){hint}.") from error
