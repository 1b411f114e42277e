"""What sets the architectures of image-text-to-text models apart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Architecture:
    """What sets an architecture apart.

    Attributes:
        view_tokens: from its config, the tokens of an image as a whole, or of one tile; None where a grid says how
            many there are.
        whole_is_last: the view of the whole image comes after its tiles, and not before them.
        one_tensor: the features of several images are one tensor, and not one an image.
        images_see_all: the tokens of an image attend to each other in both directions.
    """

    view_tokens: Callable[[Any], int] | None = None
    whole_is_last: bool = False
    one_tensor: bool = False
    images_see_all: bool = False


def _patches(config: Any) -> int:
    return (config.vision_config.image_size // config.vision_config.patch_size) ** 2


_IDEFICS = Architecture(lambda config: _patches(config) // config.scale_factor**2, whole_is_last=True)
# By `model_type`: those of which questions of an image can share their prefix.
ARCHITECTURES = {
    "smolvlm": _IDEFICS,
    "idefics3": _IDEFICS,
    "gemma3": Architecture(lambda config: config.mm_tokens_per_image, one_tensor=True, images_see_all=True),
    "qwen2_5_vl": Architecture(),
    "qwen3_vl": Architecture(),
    "internvl": Architecture(lambda config: config.image_seq_length, whole_is_last=True, one_tensor=True),
    "llava": Architecture(_patches),
    "llava_onevision": Architecture(_patches),
}


def image_features(model: Any, pixels: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a model makes of one image, ``(levels, image tokens, width)`` in its own precision.

    Args:
        pixels: what its processor makes of it.
    """
    output = model.model.get_image_features(**pixels, return_dict=True)
    levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
    return torch.stack([_flat(level) for level in levels])


def _flat(level: Any) -> torch.Tensor:
    tensor = level if torch.is_tensor(level) else torch.cat(list(level))
    return tensor.reshape(-1, tensor.shape[-1])
