"""Where a ViLT looked for an answer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from modeling.parts.relevance import gradient_weighted, normalized_heat, recorded_attention, self_relevance
from processing.errors import UserError

Batch = dict[str, torch.Tensor]


class ImageTokens(NamedTuple):
    """The place of the image tokens among all tokens of an encoder."""

    encoder: Any  # its layers attend
    start: int  # the place of the first one
    grid: tuple[int, int]  # rows and columns of tokens
    sizes: list[tuple[int, int]]  # rows and columns that each question's image fills, at the top left of the grid


def vilt_heat(model: Any, batch: Batch, labels: Sequence[int]) -> list[np.ndarray]:
    """The heat maps of a ViLT or a starter, ``(rows, columns)`` of each question's image.

    Args:
        batch: questions as `ViltCollator` gives them.
        labels: of their answers, whose logits are explained.

    Raises:
        UserError: the model draws some patches of an image and skips others.
    """
    if hasattr(model, "patches"):
        batch = _with_patches(model, batch)
        tokens = _tokens_of_starter(model, batch)
    else:
        tokens = _tokens_of_vilt(model, batch)
    with recorded_attention([layer.attention.attention for layer in tokens.encoder.layer]) as attention:
        logits = model(**batch).logits
        target = logits[torch.arange(len(labels)), torch.tensor(labels, device=logits.device)].sum()
    relevance = self_relevance(list(gradient_weighted(target, attention).values()))
    height, width = tokens.grid
    maps = relevance[:, 0, tokens.start : tokens.start + height * width].unflatten(1, (height, width))
    return [normalized_heat(heat[:rows, :columns]) for heat, (rows, columns) in zip(maps, tokens.sizes, strict=True)]


def _with_patches(model: Any, batch: Batch) -> Batch:
    """The batch with what the starter's image network makes of its images."""
    if "image_patches" in batch:
        return batch
    images = {name: batch[name] for name in ("pixel_values", "image_embeds") if name in batch}
    rest = {name: tensor for name, tensor in batch.items() if name not in images}
    return {**rest, "image_patches": model.patches(**images)}


def _tokens_of_starter(model: Any, batch: Batch) -> ImageTokens:
    """Its order is [CLS], image, text."""
    height, width = batch["image_patches"].shape[2:]
    return ImageTokens(model.encoder, 1, (height, width), [(height, width)] * len(batch["input_ids"]))


def _tokens_of_vilt(model: Any, batch: Batch) -> ImageTokens:
    """Its order is text, whose first token is [CLS], then the image with a [CLS] of its own."""
    config = model.config
    if (config.max_image_length or 0) > 0:
        raise UserError(
            "The model draws some patches of the image and skips others, so it has no map; set max_image_length of "
            "its config to -1."
        )
    mask = batch["pixel_mask"]  # each image fills the top left of its padding
    height, width = (side // config.patch_size for side in mask.shape[1:])
    sides = torch.stack([mask[:, :, 0].sum(1), mask[:, 0].sum(1)], 1) // config.patch_size
    sizes = [(rows, columns) for rows, columns in sides.tolist()]
    return ImageTokens(model.vilt.encoder, batch["input_ids"].shape[1] + 1, (height, width), sizes)
