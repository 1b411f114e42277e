"""A model's files: from a folder, the cache or the Hub, told apart by what they are."""

import json
import os
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

from modeling import blip2, vilt
from processing.errors import UserError
from processing.sources import HUB_ID


def find_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: there is none here; leave it out, or choose cpu.") from error


def find_folder(name: str | os.PathLike[str], revision: str | None) -> Path:
    """The folder of a model, downloaded where it is on the Hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{name}: a folder has no revision {revision}; leave it out, or give a Hub id.")
        return folder
    if not HUB_ID.fullmatch(str(name)):
        raise UserError(f"{name}: there is no such folder, and it is no Hub id (user/name); check the path.")
    files = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=files, ignore_patterns="*/*"))
    except GatedRepoError as error:
        mend = "ask for access on its page and log in with `hf auth login`"
        raise UserError(f"{name}: the model is gated; {mend}.") from error
    except RepositoryNotFoundError as error:
        mend = "check the name, or log in with `hf auth login`"
        raise UserError(f"{name}: the Hub has no such model, or it is private; {mend}.") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: it has no revision {revision}; name a branch, tag or commit of it.") from error
    except (OSError, HTTPError, ValueError) as error:
        reason = type(error.__cause__ or error).__name__
        mend = "check the connection, or give a folder"
        raise UserError(f"{name}: not in the cache, and the Hub can't be reached ({reason}); {mend}.") from error


def find_kind(name: str | os.PathLike[str], folder: Path) -> str:
    """The type of the model in a folder; `adapter` for that of a BLIP-2."""
    adapter = (folder / "adapter_config.json").is_file()
    kind = "adapter"
    if not adapter:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            kind = config["model_type"]
        except FileNotFoundError as error:
            raise UserError(f"{name}: there is no model (no config.json); name the folder of one.") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{name}: its config.json is damaged; save or download the model again.") from error
        if kind not in (*vilt.MODELS, *blip2.MODELS):
            raise UserError(f"{name}: a {kind} model; choose a ViLT, a starter or a BLIP-2.")
    if not list(folder.glob("adapter_model.safetensors" if adapter else "*.safetensors")):
        raise UserError(
            f"{name}: it has no weights as safetensors, and pickled ones (.bin, .pt) are not loaded because they can "
            "run code; save it again with save_pretrained."
        )
    return kind
