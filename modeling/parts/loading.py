"""The one loader of pretrained files: no code of a repo, safetensors alone, and errors in one sentence."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, dynamic_module_utils
from transformers.utils import logging as transformers_logging

from modeling.parts.model_files import ADAPTER_CONFIG, ModelFiles
from processing.errors import UserError, quoted

OWN_ATTENTION = (None, "eager", "sdpa")  # of transformers and torch
BYTES_OF_A_SECOND = 10**9  # that a slow disk reads
SHOWN_KEYS = 3  # names of weights that a message holds


def load_pretrained(pretrained_class: Any, name: Any, **options: Any) -> Any:
    """What a class of transformers makes of a folder. Code that lies there is neither run nor asked about.

    Args:
        pretrained_class: a tokenizer, an image processor or one of the `Auto*` classes; configs by `load_config`,
            models by `load_weights`.
        name: a folder.
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
    """The config of a folder, without the paths that its parts may hold of another machine."""
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
    model_class: Any,
    config: PreTrainedConfig,
    files: ModelFiles,
    dtype: torch.dtype,
    new: str = r"(?!)",
    ignored: str = r"(?!)",
    read_pickled: bool = False,
    **options: Any,
) -> tuple[Any, list[str]]:
    """A model with its weights, and those weights that it lacked and that stay as a new model has them.

    Args:
        model_class: its class of transformers, or one of ours.
        config: of the model, by `load_config`.
        files: of the model.
        dtype: of the weights in memory.
        new: pattern of weights that the checkpoint may lack, or have in another shape.
        ignored: pattern of weights that the checkpoint may have and the model has not.
        read_pickled: as in `ModelFiles.weights`.
        options: of `from_pretrained`.

    Raises:
        UserError: the weights are not those of the model, there are none, or an adapter lies there.
    """
    files.check_whole()
    folder = files.weights(read_pickled)
    options |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with _no_bar_for_small_files(folder):
        model, report = load_pretrained(model_class, folder, config=config, dtype=dtype, **options)
    reshaped = [key for key, *_ in report["mismatched_keys"]]
    _check_keys(
        f"{files.name}: its weights are not those of the {config.model_type} model in its config.json",
        {
            "missing": [key for key in report["missing_keys"] if not re.search(new, key)],
            "unknown": [key for key in report["unexpected_keys"] if not re.search(ignored, key)],
            "of another shape": [key for key in reshaped if not re.search(new, key)],
        },
    )
    model.name_or_path = model.config._name_or_path = files.name  # else PEFT writes down a path of the cache
    return model, sorted([*report["missing_keys"], *reshaped])


@contextmanager
def no_report_of_weights() -> Iterator[None]:
    """transformers would report each weight of a new part, or of one that is left out."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def _no_bar_for_small_files(folder: Path) -> Iterator[None]:
    """No progress bar where weights are loaded in a moment."""
    shown = transformers_logging.is_progress_bar_enabled()
    if sum(file.stat().st_size for file in folder.glob("*.safetensors")) < BYTES_OF_A_SECOND:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _check_keys(what: str, wrong: Mapping[str, list[str]]) -> None:
    """Refuses weights whose names or shapes are not those of the model. Renamings of transformers are done by then."""
    parts = []
    for kind, keys in wrong.items():
        if keys:
            more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
            parts.append(f"{kind}: {', '.join(sorted(keys)[:SHOWN_KEYS])}{more}")
    if parts:
        raise UserError(f"{what} ({'; '.join(parts)}); choose another, or download it again.")


def load_adapter_config(files: ModelFiles) -> LoraConfig | None:
    """The config of an adapter; None where there is no adapter.

    Raises:
        UserError: it is damaged, or of another kind than LoRA: PEFT loads models of their own for some.
    """
    name, content = files.name, files.read_json(ADAPTER_CONFIG)
    if content is None:
        return None
    try:
        kind = content["peft_type"]
        if kind != "LORA":
            raise UserError(f"{name}: an adapter of the kind {quoted(kind)}, not LoRA; choose another.")
        config = PeftConfig.from_pretrained(str(files.root))
        if not config.base_model_name_or_path:
            raise ValueError("it names no base model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: its {ADAPTER_CONFIG} is damaged; save or download the model again.") from error
    return config


@contextmanager
def loading_errors(name: str) -> Iterator[None]:
    """Turns what fails while a checkpoint is loaded into one sentence.

    Args:
        name: the folder or Hub id.

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
            f"{name}: can't be loaded ({_first_line(error)}); choose another, or download it again."
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".:")
