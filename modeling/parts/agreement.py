"""The evidence of answers, and whether what a model finds in an image contradicts its answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from modeling.parts.evidence import FOUND, Evidence, as_evidence
from processing.boxes import named_labels
from processing.wordings import meaning

PRESENCE = {"organ there", "finding there", "finding at a place"}  # groups of questions whether something is there


def evidence_of_answers(
    rows: Sequence[Mapping[str, Any]],
    maps: torch.Tensor,
    of_labels: torch.Tensor,
    labels: Sequence[str],
    image_index: torch.Tensor,
) -> list[Evidence]:
    """The evidence of each answer.

    Args:
        rows: `question` and `answer` of each.
        maps: the logits of the cells for each question with its answer, ``(B, grid, grid)``.
        of_labels: those for each label in each image, ``(I, labels, grid, grid)``.
        labels: their names.
        image_index: which of the images each question is about, ``(B,)``.
    """
    cells, cells_of_labels = (part.float().sigmoid().cpu().numpy() for part in (maps, of_labels))
    found = [dict(zip(labels, image.max((1, 2)).tolist(), strict=True)) for image in cells_of_labels]
    return [
        as_evidence(own, cells_of_labels[image], labels, contradicts(row["question"], row["answer"], found[image]))
        for own, image, row in zip(cells, image_index.tolist(), rows, strict=True)
    ]


def contradicts(question: str, answer: str, found: Mapping[str, float]) -> bool:
    """Whether the answer names something that is not found, or denies something that is.

    "Yes" and "no" count where the question asks whether something is there. Names that stand for several labels, as
    "lung" for both, count as found where one of them is.

    Args:
        question: of any wording.
        answer: to it.
        found: the probability of each label of the data in the image, 0 to 1.
    """
    asks, said = meaning(question), answer.strip().lower()
    if said in ("yes", "no"):
        if asks is None or asks.group not in PRESENCE:
            return False
        named = _named(" ".join(value for _, value in asks.slots), found)
        return bool(named) and (max(named) >= FOUND) != (said == "yes")
    named = _named(answer, found)
    return bool(named) and max(named) < FOUND


def _named(text: str, found: Mapping[str, float]) -> list[float]:
    """The probabilities of the labels that a text names."""
    by_label = {label.lower(): probability for label, probability in found.items()}
    return [by_label[label] for label in named_labels(text, [{"label": label} for label in found])]
