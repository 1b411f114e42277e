"""Finds a model to ask: its files, and the family that they name."""

import os

import torch

from modeling.families import FAMILIES, Family
from modeling.parts.kinds import find_family
from modeling.parts.model_files import ADAPTER_CONFIG, ModelFiles, open_model
from modeling.training.precision import cpu_has_bf16
from processing.errors import UserError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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


def find_model(name: str | os.PathLike[str], revision: str | None) -> tuple[Family, ModelFiles]:
    """The family of a model and its files.

    Args:
        name: a folder or a Hub id.
        revision: branch, tag or commit of a Hub id; by default main.

    Raises:
        UserError: there is no such model, it is of no family, or an adapter has no weights as safetensors.
    """
    files = open_model(os.fspath(name), revision)
    if files.find(ADAPTER_CONFIG) is not None:
        files.adapter_weights()
    return FAMILIES[find_family(files)], files
