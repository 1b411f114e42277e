"""Answers to choose from, as a trie of their tokens."""

from collections.abc import Sequence

import torch


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
