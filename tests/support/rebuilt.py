"""Bases of starters that are assembled a second time."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


def check_rebuilt(checkpoint: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same parts give the same base, and no random numbers of the run are used.

    Args:
        checkpoint: assembles it once in the cache folder.
    """
    known = checkpoint()
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(5)
    folder = checkpoint()
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(5))
    assert folder != known
    assert folder.name == known.name
    first, second = (load_file(path / "model.safetensors") for path in (known, folder))
    assert all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())
