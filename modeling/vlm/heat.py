"""Where an image-text-to-text model looked for an answer, and where its evidence head finds it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling.parts.evidence import Evidence
from modeling.parts.relevance import (
    eager_attention,
    gradient_weighted,
    normalized_heat,
    recorded_attention,
    self_relevance,
)
from modeling.vlm.network import PrefixReader
from modeling.writing.evidence import find_evidence as find_by_head
from processing.errors import UserError

BYTES_OF_A_PAIR = 8  # of tokens, a head: attention, its gradient, and what they are computed by, in half precision
MOST_BYTES = 8e9


def vlm_heat(reader: PrefixReader, batch: dict[str, Any]) -> list[np.ndarray]:
    """The heat maps of a model, ``(rows, columns)`` of each question's image.

    They show which image tokens the answer was read from, weighted by the log-likelihood of the written answer. Of an
    image that is cut into tiles they show its view as a whole.

    Args:
        reader: of the model.
        batch: questions and their answers as `ChatCollator` gives them, each with an image of its own.

    Raises:
        UserError: the places of image tokens are not known for the model's architecture, or there are too many.
    """
    if not reader.shares_prefix:
        raise UserError(f"There are no heat maps for a model of type {reader.model.config.model_type}.")
    decoder = reader.model.get_decoder()
    config = reader.model.config.get_text_config()
    length = batch["trunk_ids"].shape[1] + batch["input_ids"].shape[1]
    size = BYTES_OF_A_PAIR * len(batch["labels"]) * config.num_hidden_layers * config.num_attention_heads * length**2
    if size > MOST_BYTES:
        raise UserError(
            f"A heat map of an image of {batch['trunk_ids'].shape[1]:,} tokens takes {size / 1e9:.0f} GB, more than "
            f"the {MOST_BYTES / 1e9:.0f} GB that are allowed; make the image smaller."
        )
    modules = [layer.self_attn for layer in decoder.layers]
    with eager_attention(decoder), recorded_attention(modules) as attention:
        loss = reader.forward(**batch).loss
    answered = batch["labels"] != -100
    parts = gradient_weighted(-loss * answered.sum(), attention)
    relevance = self_relevance([parts[module] for module in modules])
    length = batch["trunk_ids"].shape[1]
    maps = []
    for row, labels in enumerate(answered):
        on_trunk = relevance[row, length:, :length][labels].sum(0)  # of the tokens that the answer's were read at
        image = on_trunk[batch["trunk_ids"][row] == reader.image_token_id]
        grid = batch["image_grid_thw"][row] if "image_grid_thw" in batch else None
        maps.append(normalized_heat(reader.whole_view(image, grid)))
    return maps


@torch.no_grad()
def find_evidence(
    reader: PrefixReader, tokenizer: Any, batch: dict[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[Evidence] | list[None]:
    """Where the evidence head finds what each row's question and its `answer` are about; None without a head.

    Args:
        reader: of the model.
        tokenizer: of the model.
        batch: the rows as the collator's `prompts` gives them, without their numbers.
        rows: `question` and `answer` of each.
    """
    of_text = ("input_ids", "attention_mask", "image_index")
    places = reader.evidence_places(reader.trunks(**{key: own for key, own in batch.items() if key not in of_text}))
    if places is None:
        return [None] * len(rows)
    return find_by_head(reader.model, tokenizer, places, batch["image_index"], rows)
