"""Where a ViLT looked for an answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from modeling.parts.relevance import heat_of, recorded_attention, self_relevance, weighted
from processing.errors import UserError


def vilt_heat(model: Any, batch: dict[str, torch.Tensor], labels: Sequence[int]) -> list[np.ndarray]:
    """The heat maps of a ViLT or a starter, ``(rows, columns)`` of each question's image.

    Args:
        batch: questions as `ViltCollator` gives them.
        labels: of their answers, whose logits are explained.

    Raises:
        UserError: the model draws some patches of an image and skips others.
    """
    config = model.config
    if hasattr(model, "patches"):  # the starter: [CLS], image, text
        if "image_patches" not in batch:
            images = {name: batch[name] for name in ("pixel_values", "image_embeds") if name in batch}
            batch = {name: tensor for name, tensor in batch.items() if name not in images}
            batch["image_patches"] = model.patches(**images)
        encoder, start, (height, width) = model.encoder, 1, batch["image_patches"].shape[2:]
        sizes = [(height, width)] * len(labels)
    else:  # text, whose first token is [CLS], then the image with a [CLS] of its own
        if (config.max_image_length or 0) > 0:
            mend = "set max_image_length of its config to -1"
            raise UserError(f"The model draws some patches of the image and skips others, so it has no map; {mend}.")
        encoder, start = model.vilt.encoder, batch["input_ids"].shape[1] + 1
        mask = batch["pixel_mask"]  # each image fills the top left of its padding
        height, width = (side // config.patch_size for side in mask.shape[1:])
        sides = torch.stack([mask[:, :, 0].sum(1), mask[:, 0].sum(1)], 1) // config.patch_size
        sizes = [(rows, columns) for rows, columns in sides.tolist()]
    with recorded_attention([layer.attention.attention for layer in encoder.layer]) as attention:
        logits = model(**batch).logits
        target = logits[torch.arange(len(labels)), torch.tensor(labels, device=logits.device)].sum()
    relevance = self_relevance(list(weighted(target, attention).values()))
    maps = relevance[:, 0, start : start + height * width].unflatten(1, (height, width))
    return [heat_of(heat[:rows, :columns]) for heat, (rows, columns) in zip(maps, sizes, strict=True)]
