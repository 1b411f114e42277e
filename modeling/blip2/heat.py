"""Where a BLIP-2 looked for an answer."""

import math
from typing import Any

import numpy as np
import torch

from modeling.parts.relevance import (
    cross_relevance,
    eager_attention,
    gradient_weighted,
    normalized_heat,
    recorded_attention,
)


def blip2_heat(model: Any, batch: dict[str, torch.Tensor]) -> list[np.ndarray]:
    """The heat maps of a BLIP-2, ``(rows, columns)`` of each question's image.

    They show where the Q-Former looked, weighted by the log-likelihood of the written answer.

    Args:
        batch: questions and their answers as `Blip2Collator` gives them, each with an image of its own.
    """
    qformer = model.qformer
    layers = [
        [part.attention for name, part in layer.named_children() if name in ("attention", "crossattention")]
        for layer in qformer.encoder.layer
    ]
    modules = [module for layer in layers for module in layer]
    with eager_attention(qformer), recorded_attention(modules) as attention:
        mean_loss = model(**batch).loss
    parts = gradient_weighted(-mean_loss * (batch["labels"] != -100).sum(), attention)
    maps = []
    for question in range(len(batch["image_index"])):
        relevance = cross_relevance([[parts[module][question] for module in layer] for layer in layers])
        relevance = relevance[: model.config.num_query_tokens]  # not the tokens of detections after them
        relevance = relevance.sum(0)  # of all queries, whose gradients say how much each counts
        side = math.isqrt(len(relevance))
        patches = relevance[-side * side :]  # without the [CLS] that a ViT has first
        maps.append(normalized_heat(patches.view(side, side)))
    return maps
