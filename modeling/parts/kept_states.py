"""The states of a frozen text encoder, computed once per question and kept in memory.

Data sets ask the same questions of many images, and training asks them again at every epoch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import datasets
import torch
from torch import nn
from tqdm import trange
from transformers import PreTrainedTokenizerBase

from processing.other_words import wordings_within
from processing.row_values import counts_of
from processing.wordings import training_wordings

PROGRESS_AFTER = 2  # seconds until a progress bar is shown
BATCH_SIZE = 64  # questions a forward
MAX_QUESTIONS = 30_000  # MiniLM's states take 8 KB a question; of more questions the encoder runs at each step


@torch.no_grad()
def kept_states(
    text_encoder: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    dataset: Mapping[str, datasets.Dataset],
    more: Iterable[str] = (),
) -> dict[str, torch.Tensor] | None:
    """The states of each question, ``(tokens, hidden_size)`` in half precision like features of images.

    Args:
        text_encoder: frozen; maps `input_ids` and `attention_mask` ``(B, L)`` to a `last_hidden_state`.
        tokenizer: the encoder's.
        max_length: where questions are cut, in tokens.
        dataset: its splits have a column `question`.
        more: questions that no row asks.

    Returns:
        None where there are too many questions to keep.
    """
    questions = {question for rows in dataset.values() for question in counts_of(rows, "question")}
    questions |= set(more)
    if len(questions) > MAX_QUESTIONS:
        return None
    text_encoder.eval()
    device = next(text_encoder.parameters()).device
    states: dict[str, torch.Tensor] = {}
    ordered = sorted(
        questions, key=lambda question: (len(question), question)
    )  # questions of similar length share a batch
    for start in trange(0, len(ordered), BATCH_SIZE, desc="Question states", delay=PROGRESS_AFTER, unit="batch"):
        chunk = ordered[start : start + BATCH_SIZE]
        batch = tokenizer(chunk, padding=True, truncation=True, max_length=max_length, return_tensors="pt").to(device)
        padded = text_encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state.half().cpu()
        lengths = batch["attention_mask"].sum(1).tolist()
        states |= {chunk[i]: padded[i, :length].clone() for i, length in enumerate(lengths)}
    return states


def kept_states_and_wordings(
    text_encoder: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    dataset: Mapping[str, datasets.Dataset],
    other_words: bool,
) -> tuple[dict[str, torch.Tensor] | None, Callable[[str], Sequence[str]]]:
    """The states of each question, and a function from a training question to the other words that it may get.

    These have states too, so there are fewer of them where all would be too many to keep.

    Args:
        text_encoder: as for `kept_states`, like the next two.
        other_words: training asks in other words.
    """
    wordings: dict[str, tuple[str, ...]] = {}
    if other_words:
        questions = {question for rows in dataset.values() for question in counts_of(rows, "question")}
        wordings = wordings_within(counts_of(dataset["train"], "question"), MAX_QUESTIONS - len(questions))
    more = chain.from_iterable(wordings.values())
    states = kept_states(text_encoder, tokenizer, max_length, dataset, more)
    return states, training_wordings if states is None else wordings.__getitem__
