"""Weights that a base model has as a pickle alone, converted once to safetensors.

`dandelin/vilt-b32-mlm` is such a model. Only tensors are read (`weights_only=True`): no class of the file is looked up
and none of its code runs.
"""

import hashlib
import json
import logging
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from processing.errors import DISK_FULL, UserError, describe_error
from processing.storage import cache_dir, whole_folder

logger = logging.getLogger(__name__)

SHA256 = re.compile(r"[0-9a-f]{64}")
LARGEST_GROWTH = 4  # tensors may share their memory in the file, as a T5's four names for its embeddings do


def find_converted(name: str, commit: str) -> Path | None:
    """The folder with what was made of a Hub id's weights at a commit, None where nothing was."""
    return next(_place().glob(f"{_title(name, commit)}-*"), None)


def convert(name: str, commit: str | None, root: Path, files: Sequence[str]) -> Path:
    """Makes safetensors of pickled weights, once; all of them or nothing.

    Args:
        name: of the model, for messages.
        commit: of a Hub id.
        root: the folder of the files.
        files: the shards, or the one file.

    Returns:
        A folder of the cache, told by the commit and by the SHA-256 of the files.

    Raises:
        UserError: a file is cut off, or holds anything but tensors.
    """
    digest = hashlib.sha256("".join(_digest(name, root / file) for file in files).encode()).hexdigest()
    target = _place() / f"{_title(name, commit)}-{digest[:16]}"
    if target.is_dir():
        return target
    logger.info("%s: it has pickled weights alone; converting them to safetensors in %s.", name, target)
    with whole_folder(target) as temporary:  # `find_converted` does not find a hidden one
        places: dict[str, str] = {}
        for number, file in enumerate(files, 1):
            shard = f"model-{number:05}-of-{len(files):05}.safetensors" if len(files) > 1 else "model.safetensors"
            tensors = _read_tensors(name, root / file)
            places |= dict.fromkeys(tensors, shard)
            save_file(tensors, temporary / shard, {"format": "pt"})
        if len(files) > 1:
            index = json.dumps({"metadata": {}, "weight_map": places})
            (temporary / "model.safetensors.index.json").write_text(index, encoding="utf-8")
        if (root / "generation_config.json").is_file():  # transformers looks for it beside the weights
            shutil.copyfile(root / "generation_config.json", temporary / "generation_config.json")
    return target


def _place() -> Path:
    return cache_dir() / "converted"


def _title(name: str, commit: str | None) -> str:
    return f"{name.replace('/', '--')}-{commit}" if commit is not None else "folder"


def _digest(name: str, file: Path) -> str:
    """The SHA-256 of a file. That of a download must be the one that the Hub states, which names it in the cache."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    stated = file.resolve().name
    if SHA256.fullmatch(stated) and stated != digest:
        raise UserError(
            f"{name}: {file.name} is damaged (its SHA-256 is not the Hub's); remove {file.resolve()} and download it "
            "again."
        )
    return digest


def _read_tensors(name: str, file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled state dict, each with memory of its own."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        tensors = _check(content, file.stat().st_size)
    except Exception as error:  # a file that somebody made can raise anything
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise UserError(
            f"{name}: {file.name} can't be read as tensors alone ({describe_error(error)}); choose another base, or "
            "save it again with save_pretrained."
        ) from error
    seen: set[int] = set()
    for key, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        # Each name keeps its tensor: which of two names for one a model has depends on its head.
        tensors[key] = tensor.clone() if memory in seen else tensor.contiguous()
        seen.add(memory)
    return tensors


def _check(content: Any, size: int) -> dict[str, torch.Tensor]:
    """The content of a pickle of `size` bytes, if it is a state dict.

    Raises:
        ValueError: it is not, or its tensors are much larger than the file.
    """
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"a {type(content).__name__} instead of named tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise ValueError(f"{key!r} is no dense tensor")
    if sum(tensor.nbytes for tensor in content.values()) > LARGEST_GROWTH * size:
        raise ValueError("its tensors are larger than the file")
    return dict(content)
