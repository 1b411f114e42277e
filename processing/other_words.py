"""Training rows whose questions are put in other words."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from processing.wordings import training_wordings

Rows = Sequence[Mapping[str, Any]]


class InOtherWords:
    """A collator of training rows that puts some of their questions in other words first.

    Which rows, and in which words, depends on the seed, the epoch and the row's number alone. So all processes agree,
    and a resumed run asks as the one before it would have.

    Args:
        collator: gets the rows, where a changed one has its own words as `own_question`.
        share: of questions to change, as far as there are other words for them.
        seed: of all epochs.
        wordings: of a question, that may be trained on.
    """

    def __init__(
        self,
        collator: Callable[[Rows], dict[str, torch.Tensor]],
        share: float,
        seed: int,
        wordings: Callable[[str], Sequence[str]] = training_wordings,
    ) -> None:
        self.collator = collator
        self.share = share
        self.seed = seed
        self.wordings = wordings
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # with the workers of a data loader

    def set_epoch(self, epoch: int) -> None:
        """Chooses the words of an epoch."""
        self._epoch[0] = epoch

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """What the collator makes of the changed rows."""
        return self.collator([self._changed(row) for row in rows])

    def _changed(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        rng = random.Random(f"{self.seed} {self._epoch.item()} {row['row']}")
        if rng.random() >= self.share:
            return row
        others = self.wordings(row["question"])
        return {**row, "question": rng.choice(others), "own_question": row["question"]} if others else row


def wordings_within(questions: Collection[str], limit: int) -> dict[str, tuple[str, ...]]:
    """Wordings of questions that may be trained on, at most `limit` different ones of all together.

    Where there are more, those with many lose some first.
    """
    found = {question: training_wordings(question) for question in questions}
    for most in range(max(map(len, found.values()), default=0), -1, -1):
        kept = {question: wordings[:most] for question, wordings in found.items()}
        if len(set(chain.from_iterable(kept.values()))) <= limit:
            return kept
    return dict.fromkeys(questions, ())
