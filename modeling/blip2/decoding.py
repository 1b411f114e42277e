"""Reads many prompts after one image: masks, the cache of the image's prefix, greedy decoding."""

from typing import Any

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


def prefix_cache(language_model: Any, prefix: torch.Tensor, image_index: torch.Tensor) -> transformers.Cache:
    """The language model's keys and values of each image, computed once and copied to the rows about it.

    Args:
        language_model: decoder-only.
        prefix: what it reads of images, ``(I, P, D)``.
        image_index: which of them each row is about, ``(B,)``.
    """
    inputs_embeds = prefix.to(language_model.dtype)
    cache = language_model.base_model(inputs_embeds=inputs_embeds, use_cache=True).past_key_values
    cache.batch_select_indices(image_index)
    return cache


def decode_greedily(
    language_model: Any,
    cache: transformers.Cache,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    config: GenerationConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers' `generate` gives, but rows that have ended leave the batch.

    In `generate` one long answer keeps all the short ones going.

    Args:
        language_model: decoder-only.
        cache: of what each row reads before its prompt.
        input_ids: the prompts ``(B, L)``, padded on the left.
        mask: 1 for real tokens, of the cache and of the prompt.
        config: with `max_new_tokens`, `pad_token_id` and `eos_token_id`.

    Returns:
        Tokens of the answers ``(B, T)`` and the mean probability of each answer's tokens ``(B,)``.
    """
    count, device = len(input_ids), input_ids.device
    answers = input_ids.new_full((count, config.max_new_tokens), config.pad_token_id)
    probabilities = torch.zeros(count, config.max_new_tokens, device=device)
    rows = torch.arange(count, device=device)
    ends = torch.tensor(config.eos_token_id, device=device)
    position_ids = (mask.cumsum(1) - 1)[:, -input_ids.shape[1] :].clamp_min(0)
    for step in range(config.max_new_tokens):
        hidden = language_model.base_model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        probability, token = language_model.get_output_embeddings()(hidden).float().softmax(-1).max(-1)
        answers[rows, step], probabilities[rows, step] = token, probability
        going = torch.isin(token, ends, invert=True).nonzero().squeeze(1)
        if not len(going):
            break
        if len(going) < len(rows):
            cache.batch_select_indices(going)
            rows, token, mask = rows[going], token[going], mask[going]
        mask = nn.functional.pad(mask, (0, 1), value=1)
        input_ids, position_ids = token[:, None], mask.sum(1, keepdim=True) - 1
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
