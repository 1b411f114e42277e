"""Starters whose evidence head finds as much as a test needs."""

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

BIAS = "evidence.head.text_projection.1.bias"


def surer_starter(folder: Path, target: Path, logits: float) -> Path:
    """A copy of a starter that is surer of every place in every image: 10 is everywhere, -10 nowhere."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    weights[BIAS][-1] += logits
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target
