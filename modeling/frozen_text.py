"""The states of a frozen text encoder, computed once per question and kept in memory.

Data sets ask the same questions of many images, and training asks them again at every epoch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

BATCH_SIZE = 64  # questions a forward
MAX_QUESTIONS = 20_000  # where there are more the encoder runs at each step; MiniLM's states take 15 KB a question


def kept_states(
    text_encoder: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    dataset: Mapping[str, datasets.Dataset],
) -> "KeptStates | None":
    """The states of a data set's questions; None where it has too many to keep."""
    questions = {question for rows in dataset.values() for question in rows["question"]}
    if len(questions) > MAX_QUESTIONS:
        return None
    states = KeptStates(text_encoder, tokenizer, max_length)
    states.fill(questions)
    return states


class KeptStates:
    """States of questions, ``(tokens, hidden_size)`` in half precision, like the features of images.

    Args:
        text_encoder: frozen; maps `input_ids` and `attention_mask` ``(B, L)`` to a `last_hidden_state`.
        tokenizer: cuts questions at
        max_length: tokens.
    """

    def __init__(self, text_encoder: nn.Module, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.text_encoder = text_encoder.eval()
        self.options: dict[str, Any] = {"truncation": True, "max_length": max_length, "return_tensors": "pt"}
        self.tokenizer = tokenizer
        self._states: dict[str, torch.Tensor] = {}

    def fill(self, questions: Iterable[str]) -> None:
        """Computes the states of questions, those of like length together."""
        ordered = sorted(set(questions), key=lambda question: (len(question), question))
        for start in range(0, len(ordered), BATCH_SIZE):
            batch = ordered[start : start + BATCH_SIZE]
            self._states |= zip(batch, self._compute(batch), strict=True)

    def __getitem__(self, question: str) -> torch.Tensor:
        """The states of one question, special tokens included."""
        return self._states[question] if question in self._states else self._compute([question])[0]

    @torch.inference_mode()
    def _compute(self, questions: Sequence[str]) -> list[torch.Tensor]:
        batch = self.tokenizer(list(questions), padding=True, **self.options)
        device = next(self.text_encoder.parameters()).device
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        states = self.text_encoder(ids, mask).last_hidden_state.half().cpu()
        return [own[:length].clone() for own, length in zip(states, mask.sum(1).tolist(), strict=True)]
