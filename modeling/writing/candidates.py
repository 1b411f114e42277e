"""Answers to choose from, as a trie of their tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from modeling.writing.decoding import PrefixCache, Reader
from processing.collators import Blip2Collator


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


def trie_of_choices(
    collator: Blip2Collator, row: Mapping[str, Any], prompt_length: int, default: AnswerTrie | None
) -> AnswerTrie | None:
    """What a row's answer is chosen from: its own `choices`, or the default where it has none.

    Args:
        collator: an option that it has no places for is cut, as in training.
        prompt_length: tokens of the row's prompt.
    """
    if not row.get("choices"):
        return default
    room = None if collator.max_length is None else max(1, collator.max_length - prompt_length)
    return AnswerTrie([collator.answer_ids(option)[:room] for option in row["choices"]])


def select_prompts(batch: Mapping[str, torch.Tensor], rows: list[int]) -> dict[str, torch.Tensor]:
    """The batch with the prompts of these rows alone, and all images."""
    if len(rows) == len(batch["input_ids"]):
        return dict(batch)
    prompts = {name: batch[name][rows] for name in ("input_ids", "attention_mask", "image_index")}
    return {**batch, **prompts}


def score_by_decoder(
    reader: Reader,
    tries: Sequence[AnswerTrie],
    cache: PrefixCache,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
) -> torch.Tensor:
    """The log-likelihood of each answer in a prompt's trie after the prompt, ``(B, answers)``.

    One pass reads all tries. Rows with fewer answers than others end in -inf.

    Args:
        reader: the language model.
        tries: one a prompt.
        cache: of what each row reads before its prompt.
        input_ids: the prompts ``(B, L)``, padded on the left.
        attention_mask: 1 for real tokens, ``(B, L)``.
    """
    inner, depths, ancestors = (part.to(input_ids.device) for part in _inner_nodes(tries))
    last = reader.read(cache, input_ids, *cache.go_on(attention_mask.bool()))[:, -1:]
    before = cache.mask[:, None].expand(-1, inner.shape[1], -1)
    order = cache.mask.sum(1, keepdim=True) + depths
    hidden = reader.read(cache, inner, torch.cat([before, ancestors], dim=2), order)
    states = torch.cat([last, hidden], dim=1)
    scores = [
        trie.likelihoods(reader.logits(row[: 1 + len(trie.inner)])) for trie, row in zip(tries, states, strict=True)
    ]
    return pad_sequence(scores, batch_first=True, padding_value=-torch.inf)


def _inner_nodes(tries: Sequence[AnswerTrie]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens and depths ``(B, N)`` and ancestors ``(B, N, N)`` of the inner nodes; what fills rows up sees itself."""
    distinct = list({id(trie): trie for trie in tries}.values())  # candidates are one trie for all rows
    place = {id(trie): i for i, trie in enumerate(distinct)}
    index = torch.tensor([place[id(trie)] for trie in tries])
    longest = max(1, *(len(trie.inner) for trie in distinct))  # language models take no empty sequence
    tokens, depths = torch.zeros(2, len(distinct), longest, dtype=torch.long)
    ancestors = torch.eye(longest, dtype=torch.bool).repeat(len(distinct), 1, 1)
    for i, trie in enumerate(distinct):
        count = len(trie.inner)
        tokens[i, :count], depths[i, :count] = trie.tokens[trie.inner], trie.depths[trie.inner]
        ancestors[i, :count, :count] = trie.ancestors[trie.inner][:, trie.inner]
    return tokens[index], depths[index], ancestors[index]


def score_by_encoder_decoder(
    language_model: Any, tries: Sequence[AnswerTrie], inputs_embeds: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The log-likelihood of each answer in a prompt's trie after the prompt, ``(B, answers)``, each answer for itself.

    T5's relative positions know no trie. Rows with fewer answers than others end in -inf.

    Args:
        language_model: encoder-decoder.
        tries: one a prompt.
        inputs_embeds: images and prompts, ``(B, L, D)``.
        mask: 1 for real tokens, ``(B, L)``.
    """
    states = language_model.get_encoder()(inputs_embeds=inputs_embeds, attention_mask=mask).last_hidden_state
    scores = []
    for trie, row, row_mask in zip(tries, states, mask, strict=True):
        labels = trie.sequences.to(inputs_embeds.device)
        output = language_model(
            encoder_outputs=(row.expand(len(labels), -1, -1),),
            attention_mask=row_mask.expand(len(labels), -1),
            labels=labels,
        )
        losses = nn.functional.cross_entropy(output.logits.float().transpose(1, 2), labels, reduction="none")
        scores.append(-losses.sum(1))
    return pad_sequence(scores, batch_first=True, padding_value=-torch.inf)
