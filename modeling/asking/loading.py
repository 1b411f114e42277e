"""Finds a model to ask: its folder, downloaded where it is on the Hub, and the family that its files name."""

import json
import os
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

from modeling.families import FAMILIES, Family
from modeling.training.arguments import cpu_has_bf16
from processing.errors import UserError
from processing.sources import HUB_ID

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MODEL_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]  # what is downloaded; nothing that can run code


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device that was asked for, by default the GPU where there is one.

    Raises:
        UserError: this machine does not have it.
    """
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: there is none here; leave it out, or choose cpu.") from error


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The precision that was asked for, by default the one that training takes on such a device.

    Raises:
        UserError: the name is unknown.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None:
        if device.type != "cpu":
            return torch.float16
        return torch.bfloat16 if cpu_has_bf16() else torch.float32
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype}: unknown; choose {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def find_model(name: str | os.PathLike[str], revision: str | None) -> tuple[Family, Path]:
    """The family of a model and its folder.

    Args:
        name: a folder or a Hub id.
        revision: branch, tag or commit of a Hub id; by default main.

    Raises:
        UserError: there is no such model, it is of no family, or it has no weights as safetensors.
    """
    folder = _find_folder(name, revision)
    if (folder / "adapter_config.json").is_file():
        family, weights = FAMILIES["blip2"], "adapter_model.safetensors"
    else:
        family, weights = _family_of(name, folder), "*.safetensors"
    if not list(folder.glob(weights)):
        raise UserError(
            f"{name}: it has no weights as safetensors, and pickled ones (.bin, .pt) are not loaded because they can "
            "run code; save it again with save_pretrained."
        )
    return family, folder


def _find_folder(name: str | os.PathLike[str], revision: str | None) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{name}: a folder has no revision {revision}; leave it out, or give a Hub id.")
        return folder
    if not HUB_ID.fullmatch(str(name)):
        raise UserError(f"{name}: there is no such folder, and it is no Hub id (user/name); check the path.")
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=MODEL_FILES, ignore_patterns="*/*"))
    except GatedRepoError as error:
        raise UserError(
            f"{name}: the model is gated; ask for access on its page and log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: the Hub has no such model, or it is private; check the name, or log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: it has no revision {revision}; name a branch, tag or commit of it.") from error
    except (OSError, HTTPError, ValueError) as error:
        reason = type(error.__cause__ or error).__name__
        raise UserError(
            f"{name}: not in the cache, and the Hub can't be reached ({reason}); check the connection, or give a "
            "folder."
        ) from error


def _family_of(name: str | os.PathLike[str], folder: Path) -> Family:
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except FileNotFoundError as error:
        raise UserError(f"{name}: there is no model (no config.json); name the folder of one.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: its config.json is damaged; save or download the model again.") from error
    for family in FAMILIES.values():
        if model_type in family.MODEL_TYPES:
            return family
    raise UserError(f"{name}: a {model_type} model; choose a ViLT, a starter or a BLIP-2.")
