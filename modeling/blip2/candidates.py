"""Answers to choose from, as a trie of their tokens."""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import nn

from modeling.blip2.decoding import additive_mask


class AnswerTrie:
    """The tokens of answers, where answers that begin alike share nodes.

    Args:
        answers: the tokens of each, the end token last.

    Attributes:
        tokens, depths: of each of the N nodes; the first token of an answer has depth 0.
        ancestors: whether a node's path holds another, itself included, ``(N, N)``.
        inner: the nodes that something follows.
        sequences: the answers, padded with -100.
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        nodes: dict[tuple[int, ...], int] = {}
        for answer in answers:
            for end in range(1, len(answer) + 1):
                nodes.setdefault(tuple(answer[:end]), len(nodes))
        self.tokens = torch.tensor([path[-1] for path in nodes])
        self.depths = torch.tensor([len(path) - 1 for path in nodes])
        self.ancestors = torch.zeros(len(nodes), len(nodes), dtype=torch.bool)
        for path, node in nodes.items():
            self.ancestors[node, [nodes[path[:end]] for end in range(1, len(path) + 1)]] = True
        parents = [nodes.get(path[:-1], -1) for path in nodes]
        self.inner = torch.tensor(sorted(set(parents) - {-1}), dtype=torch.long)
        row = {node: i + 1 for i, node in enumerate(self.inner.tolist())} | {-1: 0}
        self._row = torch.tensor([row[parent] for parent in parents])
        self._paths = self.ancestors[[nodes[tuple(answer)] for answer in answers]].float()
        length = max(map(len, answers))
        self.sequences = torch.tensor([[*answer, *[-100] * (length - len(answer))] for answer in answers])

    def likelihoods(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-likelihoods of the answers from the logits after the prompt and after each inner node,
        ``(1 + inner, vocabulary)``."""
        logits = logits.float()
        log_probabilities = logits[self._row, self.tokens] - logits.logsumexp(-1)[self._row]
        return self._paths.to(logits.device) @ log_probabilities


def score_by_decoder(
    language_model: Any, candidates: AnswerTrie, cache: transformers.Cache, input_ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The log-likelihood of each candidate after each prompt, ``(B, candidates)``, by one pass over the trie.

    Args:
        language_model: decoder-only.
        cache: of what each row reads before its prompt.
        input_ids: the prompts ``(B, L)``, padded on the left.
        mask: 1 for real tokens, of the cache and of the prompt.
    """
    device = input_ids.device
    last = language_model.base_model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1)[:, -input_ids.shape[1] :].clamp_min(0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1:]
    inner = candidates.inner.to(device)
    ancestors = candidates.ancestors[candidates.inner][:, candidates.inner].to(device)
    prompts = mask.bool()[:, None].expand(-1, len(inner), -1)
    visible = torch.cat([prompts, ancestors.expand(len(mask), -1, -1)], dim=2)
    hidden = language_model.base_model(
        input_ids=candidates.tokens.to(device)[inner].expand(len(mask), -1),
        attention_mask=additive_mask(visible, language_model.dtype)[:, None],
        position_ids=mask.sum(1, keepdim=True) + candidates.depths.to(device)[inner],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    states = torch.cat([last, hidden], dim=1)
    head = language_model.get_output_embeddings()
    return torch.stack([candidates.likelihoods(head(row)) for row in states])


def score_by_encoder_decoder(
    language_model: Any, candidates: AnswerTrie, inputs_embeds: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The log-likelihood of each candidate after each prompt, ``(B, candidates)``, each candidate for itself.

    T5's relative positions know no trie.

    Args:
        language_model: encoder-decoder.
        inputs_embeds: images and prompts, ``(B, L, D)``.
        mask: 1 for real tokens, ``(B, L)``.
    """
    states = language_model.get_encoder()(inputs_embeds=inputs_embeds, attention_mask=mask).last_hidden_state
    labels = candidates.sequences.to(inputs_embeds.device)
    scores = []
    for row, row_mask in zip(states, mask, strict=True):
        output = language_model(
            encoder_outputs=(row.expand(len(labels), -1, -1),),
            attention_mask=row_mask.expand(len(labels), -1),
            labels=labels,
        )
        losses = nn.functional.cross_entropy(output.logits.float().transpose(1, 2), labels, reduction="none")
        scores.append(-losses.sum(1))
    return torch.stack(scores)
