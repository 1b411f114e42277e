"""Questions that share an image, and a beginning, in one sequence."""

from collections.abc import Sequence

import torch

Tokens = tuple[list[int], list[int]]  # of a prompt and its answer


class QuestionTree:
    """Questions about an image and their answers as one sequence, where prompts that begin alike share the beginning.

    A token that something is to be predicted after is its question's own.

    Attributes:
        tokens: of the sequence, ``L``.
        labels: the token of the answer that follows each, else -100.
        paths: the tokens that each one sees, itself the last.
    """

    def __init__(self, questions: Sequence[Tokens]) -> None:
        self.tokens: list[int] = []
        self.labels: list[int] = []
        self.paths: list[list[int]] = []
        nodes: dict[tuple[int, ...], int] = {}
        for prompt, answer in questions:
            path: list[int] = []
            targets = [-100] * (len(prompt) - 1) + answer
            for place, (token, target) in enumerate(zip(prompt + answer[:-1], targets, strict=True)):
                shared = tuple(prompt[: place + 1]) if target == -100 else None
                node = nodes.get(shared, len(self.tokens)) if shared else len(self.tokens)
                path = [*path, node]
                if node == len(self.tokens):
                    self.tokens.append(token)
                    self.labels.append(target)
                    self.paths.append(path)
                    if shared:
                        nodes[shared] = node


def padded(sequences: Sequence[Sequence[int]], value: int, left: bool = False) -> torch.Tensor:
    length = max(map(len, sequences))
    fill = [[value] * (length - len(sequence)) for sequence in sequences]
    return torch.tensor([[*pad, *row] if left else [*row, *pad] for row, pad in zip(sequences, fill, strict=True)])
