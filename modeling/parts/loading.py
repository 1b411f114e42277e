"""The one loader of pretrained files: no code of a repo, safetensors alone, and errors in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from processing.errors import UserError


def load_auto(auto_class: Any, name: Any, **options: Any) -> Any:
    """What an `Auto*` class makes of a folder or a Hub id. Code that lies there is neither run nor asked about."""
    return auto_class.from_pretrained(name, trust_remote_code=False, **options)


def load_weights(model_class: Any, name: str, dtype: torch.dtype, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A model with the safetensors of a folder or a Hub id, and what its weights had and lacked.

    Args:
        model_class: its class of transformers, or one of ours.
        dtype: of the weights in memory.
    """
    return model_class.from_pretrained(name, dtype=dtype, use_safetensors=True, output_loading_info=True, **options)


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
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise UserError(f"{name}: can't be loaded as a folder or from the Hub ({reason}){hint}.") from error
