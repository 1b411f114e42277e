"""Shows before the first step that shared prefixes change nothing, for the model and the prompts of the run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from modeling.vlm.network import PrefixReader
from processing.chat_collator import ChatCollator
from processing.errors import UserError

TOLERANCE = 1e-4  # of a mean loss in fp32, relative to one above 1
ROUNDED_TOLERANCE = 0.02  # in half precision and over quantized weights, where rounding alone makes about a hundredth


def tolerance(model: Any) -> float:
    """How large a relative difference may be."""
    is_exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    return TOLERANCE if is_exact else ROUNDED_TOLERANCE


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model in evaluation mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def check_shared_prefix(
    reader: PrefixReader, collator: ChatCollator, rows: Sequence[Mapping[str, Any]], name: str
) -> float:
    """The difference between the mean losses of shared and of separate sequences, relative to a loss above 1.

    Args:
        reader: of the model, in evaluation mode.
        collator: of the run.
        rows: two or more questions about one image.
        name: of the model.

    Raises:
        UserError: they differ.
    """
    device = reader.model.device
    shared = reader.forward(**_to(collator(rows), device)).loss.item()
    losses = [_plain_losses(reader, _to(collator([row]), device)) for row in rows]
    plain = torch.cat(losses).mean().item()
    difference = abs(shared - plain) / max(plain, 1.0)  # of a confident answer's loss rounding is a large part
    if not difference <= tolerance(reader.model):
        raise UserError(
            f"{name}: questions about one image can't share its prefix in this model: their loss is {shared:.6g} "
            f"together and {plain:.6g} one by one. Train it with another version of transformers, or choose another "
            "model."
        )
    return difference


def _plain_losses(reader: PrefixReader, batch: dict[str, Any]) -> torch.Tensor:
    """The loss of each answer token of one question, by the model's own forward and its own masks and positions."""
    of_text = ("input_ids", "labels", "position_ids", "visible", "image_index")
    trunks = reader.trunks(**{name: value for name, value in batch.items() if name not in of_text})
    ids = torch.cat([trunks.ids, batch["input_ids"]], dim=1)
    with reader.stock_forward():
        logits = reader.model(**reader.stock_inputs(trunks, ids, torch.ones_like(ids))).logits
    labels = batch["labels"][0]
    answers = logits[0, trunks.ids.shape[1] :][labels != -100].float()
    return nn.functional.cross_entropy(answers, labels[labels != -100], reduction="none")


def _to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: [part.to(device) for part in value] if isinstance(value, list) else value.to(device)
        for name, value in batch.items()
    }
