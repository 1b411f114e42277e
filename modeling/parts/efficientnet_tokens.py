"""Maps as tokens, and tokens as maps."""

import math
from typing import Any

import torch
from torch import nn

from modeling.parts.efficientnet import efficientnet

PLACE_CHANNELS = 64


class EfficientNetVisionModel(nn.Module):
    """Maps of an EfficientNet-Lite at strides 8, 16 and 32 as one token a place, with the place beside them.

    The network up to the map of `frozen_stride`, `vision`, makes the features that are kept of an image.
    """

    places: torch.Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.vision, self.vision_top = efficientnet(config)
        self.register_buffer("places", _sines(self.vision_top.grid, PLACE_CHANNELS // 4))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``(B, channels, h, w)`` of `vision` to tokens ``(B, patches, hidden_size)``."""
        tokens = self.vision_top(features).flatten(2).transpose(1, 2)
        return torch.cat([tokens, self.places.expand(len(tokens), -1, -1)], dim=2)


def _sines(grid: int, count: int) -> torch.Tensor:
    """Sines and cosines of `count` wavelengths for row and column of each place, ``(grid * grid, 4 * count)``."""
    angles = torch.arange(grid)[:, None] / grid * math.pi * (torch.arange(count) + 1) / 2
    code = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = code[:, None].expand(-1, grid, -1), code[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def as_maps(vision_states: torch.Tensor) -> torch.Tensor:
    """States of patches ``(I, patches, channels)`` as ``(I, channels, side, side)``, without a ViT's [CLS]."""
    side = math.isqrt(vision_states.shape[1])
    return vision_states[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
