"""Reads many prompts after one image: masks, the cache of the image's prefix, greedy decoding."""

from typing import Any, Protocol

import torch
import transformers
from torch import nn
from transformers import GenerationConfig


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What may be attended to, as numbers that attention adds to its scores: 0, or the least of the dtype."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def shared_prefix_mask(visible: torch.Tensor, prefix_length: int, dtype: torch.dtype) -> torch.Tensor:
    """An additive mask ``(S, 1, prefix + L, prefix + L)`` for sequences that follow a prefix.

    The prefix is causal. Every token sees it, and of its own sequence what `visible` ``(S, L, L)`` says.
    """
    whole = nn.functional.pad(visible, (prefix_length, 0, prefix_length, 0), value=True)
    whole[:, :prefix_length].tril_()
    return additive_mask(whole, dtype)[:, None]


class PrefixCache:
    """What a language model has read of each row: its keys and values.

    Args:
        states: of ``K`` tokens of each of ``B`` rows.
        mask: which of them are real, ``(B, K)`` bool.
        ahead: by how much the position of a token that follows is ahead of the number of tokens before it, ``(B, 1)``;
            by default 0.
    """

    def __init__(self, states: transformers.Cache, mask: torch.Tensor, ahead: torch.Tensor | None = None) -> None:
        self.states = states
        self.mask = mask
        self.ahead = mask.new_zeros(len(mask), 1, dtype=torch.long) if ahead is None else ahead

    def select(self, rows: torch.Tensor) -> "PrefixCache":
        """Keeps these rows, in this order; one may come several times."""
        self.states.batch_select_indices(rows)
        self.mask, self.ahead = self.mask[rows], self.ahead[rows]
        return self

    @property
    def order(self) -> torch.Tensor:
        """Each token's place among the real ones, ``(B, K)``."""
        return (self.mask.cumsum(1) - 1).clamp_min(0)

    def go_on(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes room for tokens that are read next.

        Args:
            mask: which of them are real, ``(B, Q)`` bool.

        Returns:
            Which tokens each of them sees, ``(B, Q, K + Q)``, and its place among the real ones, ``(B, Q)``.
        """
        length = mask.shape[1]
        before = self.mask[:, None].expand(-1, length, -1)
        own = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril() & mask[:, None]
        self.mask = torch.cat([self.mask, mask], dim=1)
        return torch.cat([before, own], dim=2), self.order[:, -length:]


class Reader(Protocol):
    """A decoder-only language model that goes on reading after what it has read."""

    def read(
        self, cache: PrefixCache, input_ids: torch.Tensor, visible: torch.Tensor, order: torch.Tensor
    ) -> torch.Tensor:
        """The last states of tokens, ``(B, Q, width)``, whose keys and values are added to the cache.

        Args:
            cache: of what each row has read.
            input_ids: ``(B, Q)``.
            visible: which tokens each one sees, those of the cache first, ``(B, Q, K + Q)``.
            order: the number of tokens before each one, ``(B, Q)``.
        """
        ...

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Of the token after each last state, in FP32."""
        ...


class CausalReader:
    """A causal language model of transformers as `Reader`."""

    def __init__(self, language_model: Any) -> None:
        self.language_model = language_model

    def prefix_cache(self, prefix: torch.Tensor) -> PrefixCache:
        """What it reads of images, ``(I, P, D)``."""
        inputs_embeds = prefix.to(self.language_model.dtype)
        states = self.language_model.base_model(inputs_embeds=inputs_embeds, use_cache=True).past_key_values
        return PrefixCache(states, torch.ones(prefix.shape[:2], dtype=torch.bool, device=prefix.device))

    def read(
        self, cache: PrefixCache, input_ids: torch.Tensor, visible: torch.Tensor, order: torch.Tensor
    ) -> torch.Tensor:
        """As `Reader` says."""
        return self.language_model.base_model(
            input_ids=input_ids,
            attention_mask=additive_mask(visible, self.language_model.dtype)[:, None],
            position_ids=order + cache.ahead,
            past_key_values=cache.states,
            use_cache=True,
        ).last_hidden_state

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """As `Reader` says."""
        return self.language_model.get_output_embeddings()(states).float()


def decode_greedily(
    reader: Reader,
    cache: PrefixCache,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    config: GenerationConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers' `generate` gives, but rows that have ended leave the batch.

    In `generate` one long answer keeps all the short ones going.

    Args:
        reader: the language model.
        cache: of what each row reads before its prompt.
        input_ids: the prompts ``(B, L)``, padded on the left.
        attention_mask: 1 for real tokens, ``(B, L)``.
        config: with `max_new_tokens`, `pad_token_id` and `eos_token_id`.

    Returns:
        Tokens of the answers ``(B, T)`` and the mean probability of each answer's tokens ``(B,)``.
    """
    count, device = len(input_ids), input_ids.device
    answers = input_ids.new_full((count, config.max_new_tokens), config.pad_token_id)
    probabilities = torch.zeros(count, config.max_new_tokens, device=device)
    rows = torch.arange(count, device=device)
    ends = torch.tensor(config.eos_token_id, device=device)
    mask = attention_mask.bool()
    for step in range(config.max_new_tokens):
        hidden = reader.read(cache, input_ids, *cache.go_on(mask))[:, -1]
        probability, token = reader.logits(hidden).softmax(-1).max(-1)
        answers[rows, step], probabilities[rows, step] = token, probability
        going = torch.isin(token, ends, invert=True).nonzero().squeeze(1)
        if not len(going):
            break
        if len(going) < len(rows):
            cache.select(going)
            rows, token = rows[going], token[going]
        input_ids = token[:, None]
        mask = torch.ones_like(input_ids, dtype=torch.bool)
    lengths = (probabilities > 0).sum(1)
    return answers[:, : step + 1], probabilities.sum(1) / lengths


def mean_probabilities(
    language_model: Any, output: Any, answers: torch.Tensor, eos_token_id: int | list[int]
) -> torch.Tensor:
    """The mean probability of each answer's tokens, up to and with the end token, ``(N,)``.

    Args:
        output: of transformers' `generate`, with scores.
        answers: its tokens without the prompt, ``(N, T)``.
        eos_token_id: the token that ends an answer, or each of several.
    """
    beam_indices = getattr(output, "beam_indices", None)
    log_probabilities = language_model.compute_transition_scores(
        output.sequences, output.scores, beam_indices, normalize_logits=True
    )
    ends = torch.isin(answers, torch.tensor(eos_token_id, device=answers.device))
    real = (ends.cumsum(1) - ends.long() == 0).float()
    return (log_probabilities.exp() * real).sum(1) / real.sum(1).clamp_min(1)
