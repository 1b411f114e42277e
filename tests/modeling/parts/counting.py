"""A frozen network that counts what it computes; as a program it fills the cache with features of images.

python -m tests.modeling.parts.counting a.png b.png
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from modeling.parts.kept_features import KeptFeatures


class Counting(nn.Module):
    """A frozen network that counts the images it gets."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 5, 8, 8)
        self.computed = 0

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        self.computed += len(pixel_values)
        return self.conv(pixel_values)


class Resizer:
    """An image processor that is imported in no time, as those of transformers are not."""

    def __init__(self, size: int = 32) -> None:
        self.size = size

    def to_dict(self) -> dict[str, Any]:
        return {"size": self.size}

    def __call__(self, images: Sequence[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
        resized = [np.asarray(image.resize((self.size, self.size)), np.float32) / 255 for image in images]
        return {"pixel_values": torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()}


def keep(network: nn.Module | None = None, max_gb: float = 1, image_processor: Any = None) -> KeptFeatures:
    """Features of a network, by default those of `Counting`."""
    return KeptFeatures(network or Counting(), image_processor or Resizer(), max_gb)


if __name__ == "__main__":
    features = keep()
    features.fill(sys.argv[1:])
    print(sum(features[image].float().sum().item() for image in sys.argv[1:]))
