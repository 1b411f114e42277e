"""What an evidence head learns from in a batch: texts, and the cells that their boxes cover."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import torch

from metrics.grounding import cells_inside, named_boxes
from processing.box_topics import FINDINGS
from processing.boxes import Box, organ_of
from processing.images import open_image
from processing.wordings import meaning

Rows = Sequence[Mapping[str, Any]]
WITHOUT_PLACE = {  # groups of questions about the image as a whole
    "modality",
    "modality, yes or no",
    "organ system",
    "part of the body",
    "part of the body, yes or no",
    "plane",
    "plane, yes or no",
    "radiation damage",
    "weighting",
    "weighting, yes or no",
}


def labels_of_boxes(boxes_of_rows: Iterable[Sequence[Box] | None]) -> list[str]:
    """The labels of all boxes in their order; of spellings that differ in case alone, the first."""
    spelling: dict[str, str] = {}
    for boxes in boxes_of_rows:
        for box in boxes or ():
            spelling.setdefault(box["label"].lower(), box["label"])
    return sorted(spelling.values())


def evidence_config(weight: float, rows: datasets.Dataset) -> dict[str, Any]:
    """What the config of a model that is to train on rows says of its evidence head.

    Args:
        weight: of the head's loss beside that of answers; 0 makes no head.
        rows: with `boxes`.
    """
    labels = labels_of_boxes(rows["boxes"]) if weight else []
    return {"evidence_labels": labels or None, "evidence_weight": weight}


class Target(NamedTuple):
    """Something for the head to find.

    Attributes:
        row: the place in the batch of the row whose image it is about.
        mask: the share of each cell that lies inside the boxes, ``(grid, grid)``.
        answer: an answer, or a label; None for a question alone.
        asked: the row's question counts. It does not for a label alone.
    """

    row: int
    mask: torch.Tensor
    answer: str | None
    asked: bool


class EvidenceTargets:
    """The targets of batches of rows with `image`, `question`, `answer` and `boxes`.

    Three kinds of texts are asked for: each label of the data, a question with its answer, and the question alone. The
    target of what an image has no box of is "nothing". Where a question is put in other words, its own words, those of
    `own_question`, say what is to be found.

    Args:
        labels: of the data's boxes, one or more.
        grid: cells on a side.
        texts_of: from the rows of a batch and its targets to what the model takes beside their masks.
        answers: those that the model knows, by `str.lower`. Others are left out; None leaves out none.
    """

    def __init__(
        self,
        labels: Sequence[str],
        grid: int,
        texts_of: Callable[[Rows, Sequence[Target]], dict[str, torch.Tensor]],
        answers: Collection[str] | None = None,
    ) -> None:
        self.labels = labels
        self.grid = grid
        self.texts_of = texts_of
        self.answers = answers
        self.nothing = torch.zeros(grid, grid)
        self._everything = [{"label": label} for label in labels]
        self._sizes: dict[str, tuple[int, int]] = {}
        self._masks: dict[tuple[str, frozenset[str]], torch.Tensor] = {}

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Returns `masks` ``(Q, grid, grid)`` of the targets of a batch, and what `texts_of` makes of them.

        Their number Q is 0 where no image has boxes.
        """
        targets = self._find(rows)
        masks = [target.mask for target in targets]
        return {
            "masks": torch.stack(masks) if masks else self.nothing.new_zeros(0, self.grid, self.grid),
            **self.texts_of(rows, targets),
        }

    def _find(self, rows: Rows) -> list[Target]:
        found: list[Target] = []
        seen: set[str] = set()
        for place, row in enumerate(rows):
            boxes = row["boxes"]
            if not boxes:
                continue
            if row["image"] not in seen:
                seen.add(row["image"])
                for label in self.labels:
                    own = [box for box in boxes if box["label"].lower() == label.lower()]
                    found.append(Target(place, self._mask(row["image"], own), label, asked=False))
            question, answer = row.get("own_question", row["question"]), row["answer"]
            if self.answers is not None and answer.lower() not in self.answers:
                continue
            named = named_boxes(question, answer, boxes)
            if named or self._names_nothing(question, answer, boxes):
                mask = self._mask(row["image"], named)
                found += [Target(place, mask, answer, asked=True), Target(place, mask, None, asked=True)]
        return found

    def _names_nothing(self, question: str, answer: str, boxes: Sequence[Box]) -> bool:
        """Whether no place of the image belongs to a question that names none of its boxes.

        So it is where it asks about the image as a whole, or names something that other images have. Any other
        question that names nothing may be about a finding, where the image has one.
        """
        asks = meaning(question)
        if asks is not None and asks.group in WITHOUT_PLACE:
            return True
        if named_boxes(question, answer, self._everything):
            return True
        return not any(organ_of(box["label"]).lower() in FINDINGS for box in boxes)

    def _mask(self, image: str, boxes: Sequence[Box]) -> torch.Tensor:
        if not boxes:
            return self.nothing
        key = image, frozenset(box["label"] for box in boxes)
        if key not in self._masks:
            if image not in self._sizes:
                self._sizes[image] = open_image(image).size
            cells = cells_inside(boxes, self._sizes[image], (self.grid, self.grid))
            self._masks[key] = self.nothing if cells is None else torch.from_numpy(cells).float()
        return self._masks[key]


class WithEvidence:
    """A collator whose batches bring the targets of an evidence head.

    Args:
        collator: of the rest of the batch.
        targets: of the training rows.
    """

    def __init__(self, collator: Any, targets: EvidenceTargets) -> None:
        self.collator = collator
        self.targets = targets

    def __call__(self, rows: Rows) -> dict[str, Any]:
        """What the collator makes of the rows, and their targets."""
        return self.collator(rows) | {"evidence": self.targets(rows)}
