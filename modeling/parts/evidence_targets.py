"""What an evidence head learns from in a batch: texts, and the cells that their boxes cover."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


class EvidenceTargets:
    """The targets of batches of rows with `image`, `question`, `answer` and `boxes`.

    Three kinds of texts are asked for: each label of the data, a question with its answer, and the question alone. The
    target of what an image has no box of is "nothing".

    Args:
        labels: of the data's boxes, one or more.
        vectors: the vector of each label and each answer by `str.lower`, ``(text width,)``; answers without one are
            left out.
        grid: cells on a side.
    """

    def __init__(self, labels: Sequence[str], vectors: Mapping[str, torch.Tensor], grid: int) -> None:
        self.labels = labels
        self.vectors = vectors
        self.grid = grid
        self.nothing = torch.zeros(grid, grid)
        self.no_answer = torch.zeros_like(vectors[labels[0].lower()])
        self._everything = [{"label": label} for label in labels]
        self._sizes: dict[str, tuple[int, int]] = {}
        self._masks: dict[tuple[str, frozenset[str]], torch.Tensor] = {}

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Returns the targets of a batch; their number Q is 0 where no image has boxes.

        They are `masks` ``(Q, grid, grid)``, the share of each cell that lies inside the boxes; `answers`
        ``(Q, text width)``, zeros for a question alone; `asked` ``(Q, 1)``, 1 where the question counts and 0 for a
        label alone; and `rows` ``(Q,)``, the place of a row in the batch, whose image and question it is.
        """
        found: list[tuple[int, torch.Tensor, torch.Tensor, float]] = []
        seen: set[str] = set()
        for place, row in enumerate(rows):
            boxes = row["boxes"]
            if not boxes:
                continue
            if row["image"] not in seen:
                seen.add(row["image"])
                for label in self.labels:
                    own = [box for box in boxes if box["label"].lower() == label.lower()]
                    found.append((place, self._mask(row["image"], own), self.vectors[label.lower()], 0.0))
            named = named_boxes(row["question"], row["answer"], boxes)
            answer = self.vectors.get(row["answer"].lower())
            if answer is not None and (named or self._names_nothing(row)):
                mask = self._mask(row["image"], named)
                found += [(place, mask, answer, 1.0), (place, mask, self.no_answer, 1.0)]
        places, masks, answers, asked = zip(*found, strict=True) if found else [()] * 4
        return {
            "masks": torch.stack(masks) if masks else self.nothing.new_zeros(0, self.grid, self.grid),
            "answers": torch.stack(answers) if answers else self.no_answer.new_zeros(0, len(self.no_answer)),
            "asked": torch.tensor(asked, dtype=torch.float32)[:, None],
            "rows": torch.tensor(places, dtype=torch.int64),
        }

    def _names_nothing(self, row: Mapping[str, Any]) -> bool:
        """Whether no place of the image belongs to a question that names none of its boxes.

        So it is where it asks about the image as a whole, or names something that other images have. Any other
        question that names nothing may be about a finding, where the image has one.
        """
        asks = meaning(row["question"])
        if asks is not None and asks.group in WITHOUT_PLACE:
            return True
        if named_boxes(row["question"], row["answer"], self._everything):
            return True
        return not any(organ_of(box["label"]).lower() in FINDINGS for box in row["boxes"])

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
    """A collator whose training batches bring the targets of an evidence head.

    Args:
        collator: of the rest of the batch.
        targets: of the training rows.
    """

    def __init__(self, collator: Any, targets: EvidenceTargets) -> None:
        self.collator = collator
        self.targets = targets

    def set_epoch(self, epoch: int) -> None:
        """Tells the collator, where it asks in other words."""
        if hasattr(self.collator, "set_epoch"):
            self.collator.set_epoch(epoch)

    def __call__(self, rows: Rows) -> dict[str, Any]:
        """What the collator makes of the rows, and their targets. The rows' own words say what is to be found."""
        return self.collator(rows) | {"evidence": self.targets(rows)}
