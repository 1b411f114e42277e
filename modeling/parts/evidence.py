"""The evidence head: which places of an image show what a question and its answer are about.

It is trained on the boxes of organs and findings, beside the answers. A text becomes one vector, an image a vector for
each cell, and their product tells how probable it is that the cell belongs to what the text names, as in MaskFormer
(Cheng et al. 2021, https://arxiv.org/abs/2107.06278).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from modeling.parts.efficientnet import moved

GRID = 14  # cells on a side of a map
FOUND = 0.5  # probability from which a cell belongs to what a text names
WIDTH = 192


class EvidenceHead(nn.Module):
    """Probabilities of cells, from image features and texts.

    Args:
        num_channels: of the image features.
        text_width: of the states of texts.
        grid: cells on a side.
        width: of the product.
    """

    def __init__(self, num_channels: int, text_width: int, grid: int, width: int = WIDTH) -> None:
        super().__init__()
        self.grid = grid
        self.image_projection = nn.Conv2d(num_channels, width, kernel_size=1)
        self.places = nn.Parameter(torch.zeros(1, width, grid, grid))
        self.blocks = nn.ModuleList(_Block(width, kernel_size) for kernel_size in (3, 5))
        self.norm = nn.GroupNorm(1, width)
        self.question_projection = nn.Linear(text_width, width)
        self.answer_projection = nn.Linear(text_width, width)
        self.text_projection = nn.Sequential(nn.GELU(), nn.Linear(width, width + 1))

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``(I, num_channels, grid, grid)`` to vectors of cells ``(I, width, grid, grid)``."""
        hidden = self.image_projection(features) + self.places
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)

    def embed_texts(self, questions: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """States of questions and answers, both ``(Q, text_width)``, to ``(Q, width + 1)``; zeros stand for none."""
        return self.text_projection(self.question_projection(questions) + self.answer_projection(answers))

    def forward(self, images: torch.Tensor, texts: torch.Tensor, image_index: torch.Tensor) -> torch.Tensor:
        """The logit of each cell ``(Q, grid, grid)``.

        Args:
            images: of `embed_images`, ``(I, width, grid, grid)``.
            texts: of `embed_texts`, ``(Q, width + 1)``.
            image_index: which of the images each text is about, ``(Q,)``.
        """
        # A product with every image costs less than a copy of the image for each of its texts.
        return self.all_pairs(images, texts)[image_index, torch.arange(len(texts), device=texts.device)]

    def all_pairs(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """The logit of each cell of each image for each text, ``(I, Q, grid, grid)``; arguments as for `forward`."""
        weights, bias = texts[:, :-1], texts[:, -1]
        return torch.einsum("qc,ichw->iqhw", weights / weights.shape[1] ** 0.5, images) + bias[:, None, None]


class _Block(nn.Module):
    """A depthwise convolution and an MLP over the channels, as in ConvNeXt."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.mix_places = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.widen = nn.Conv2d(width, 2 * width, kernel_size=1)
        self.narrow = nn.Conv2d(2 * width, width, kernel_size=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``(I, width, grid, grid)`` to the same shape."""
        return hidden + self.narrow(nn.functional.gelu(self.widen(self.mix_places(self.norm(hidden)))))


def moved_masks(masks: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Masks ``(Q, grid, grid)`` after the moves of their images ``(Q, 2, 3)``; nothing comes in from outside."""
    return moved(masks.unsqueeze(1), moves, padding_mode="zeros").squeeze(1)


def evidence_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of cells, and the Dice loss (Milletari et al. 2016, https://arxiv.org/abs/1606.04797).

    Empty masks teach that something is not there. They count as much as the others together, and have no Dice loss.

    Args:
        logits: ``(Q, grid, grid)``.
        masks: the share of each cell that belongs to what a text names, ``(Q, grid, grid)``.
    """
    there = masks.sum((1, 2)) > 0
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean((1, 2))
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * masks).sum((1, 2)) + 1
    dice = 1 - overlap / ((probabilities + masks).sum((1, 2)) + 1)

    def mean(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return (values * chosen).sum() / chosen.sum().clamp_min(1)

    return 2 * mean(entropy, there) + 2 * mean(entropy, ~there) + mean(dice, there)


DETECTION_FACTS = 5  # of a label


def detection_facts(logits: torch.Tensor) -> torch.Tensor:
    """Where each label is and how sure that is, ``(I, DETECTION_FACTS * L)``.

    For each label they are the probability of its likeliest cell, the logit of that (in thirds, at most 7), the share
    of the image that it takes, and the centre of its cells, from -1 to 1 and nearer to 0 where it is less probable.

    Args:
        logits: of each label and cell, ``(I, L, grid, grid)``.
    """
    cells = logits.sigmoid().flatten(2)
    probability, share = cells.amax(2), cells.mean(2)
    weights = cells / cells.sum(2, keepdim=True).clamp_min(1e-6)
    rows, columns = (torch.linspace(-1, 1, side, device=logits.device) for side in logits.shape[2:])
    y = weights @ rows.repeat_interleave(len(columns))
    x = weights @ columns.repeat(len(rows))
    facts = [probability, probability.logit(1e-3) / 3, 4 * share, probability * x, probability * y]
    return torch.cat(facts, dim=1)


@dataclass(frozen=True)
class Detection:
    """A place where the head finds something.

    Args:
        label: the label of the data whose own map fits the place best.
        probability: of its likeliest cell, 0 to 1.
        box: left, top, width and height, in shares of the image.
    """

    label: str
    probability: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Evidence:
    """Where an image shows what a question and its answer are about.

    Args:
        cells: the probability that a cell of a grid over the whole image belongs to it, row by row.
        boxes: around the cells that reach `FOUND`, and where a label of the data is found too, the likeliest first.
            A single cell has none where a larger place has the same label. There are none where nothing is found.
        contradicts: what is found in the image contradicts the answer (`modeling.parts.agreement`).
    """

    cells: tuple[tuple[float, ...], ...]
    boxes: tuple[Detection, ...]
    contradicts: bool = False


def as_evidence(
    cells: np.ndarray, of_labels: np.ndarray, labels: Sequence[str], contradicts: bool = False
) -> Evidence:
    """The evidence of a map.

    Args:
        cells: its probabilities ``(rows, columns)``.
        of_labels: those of the map of each label, ``(labels, rows, columns)``, by which its boxes are named.
        labels: their names.
        contradicts: as of `Evidence`.
    """
    parts, _ = ndimage.label(cells >= FOUND)
    height, width = cells.shape
    boxes = []
    largest: dict[str, int] = {}  # cells, by label
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
        inside = parts == number
        if of_labels[:, inside].max() < FOUND:
            continue  # none of the data's labels is there
        overlap = of_labels[:, inside].sum(1) / (of_labels.sum((1, 2)) + inside.sum())  # half of Dice's coefficient
        name = labels[int(overlap.argmax())]
        left, top = columns.start / width, rows.start / height
        right, bottom = columns.stop / width, rows.stop / height
        box = _rounded(left), _rounded(top), _rounded(right - left), _rounded(bottom - top)
        size = int(inside.sum())
        largest[name] = max(size, largest.get(name, 0))
        boxes.append((size, Detection(name, _rounded(cells[inside].max()), box)))
    kept = [found for size, found in boxes if size > 1 or largest[found.label] == 1]  # a cell beside them is noise
    found = tuple(sorted(kept, key=lambda detection: -detection.probability))
    return Evidence(tuple(tuple(map(_rounded, row)) for row in cells), found, contradicts)


def boxes_as_json(evidence: Evidence | None) -> str:
    """The boxes of evidence as a cell of a table: a JSON list, or nothing without an evidence head."""
    return "" if evidence is None else json.dumps([asdict(box) for box in evidence.boxes])


def _rounded(value: float) -> float:
    return round(float(value), 4)
