"""Questions that share an image, and a beginning, in one sequence."""

import math
from collections.abc import Sequence

import torch

from processing.utils import QuestionAnswer


class QuestionTree:
    """Questions about an image and their answers as one sequence, where prompts that begin alike share the beginning.

    A token whose successor is to be predicted belongs to its question alone.

    Attributes:
        tokens: of the sequence, ``L``.
        labels: the token of the answer that follows each, else -100.
        paths: the tokens that each one sees, itself the last.
    """

    def __init__(self, questions: Sequence[QuestionAnswer]) -> None:
        self.tokens: list[int] = []
        self.labels: list[int] = []
        self.paths: list[list[int]] = []
        nodes: dict[tuple[int, ...], int] = {}
        for prompt, answer in questions:
            path: list[int] = []
            labels = [-100] * (len(prompt) - 1) + answer
            for place, (token, label) in enumerate(zip(prompt + answer[:-1], labels, strict=True)):
                beginning = tuple(prompt[: place + 1])
                if label == -100 and beginning in nodes:
                    path = [*path, nodes[beginning]]
                    continue
                path = [*path, len(self.tokens)]
                if label == -100:
                    nodes[beginning] = len(self.tokens)
                self.tokens.append(token)
                self.labels.append(label)
                self.paths.append(path)


def pack_questions(
    pairs: Sequence[QuestionAnswer], images: Sequence[str], max_questions: int, image_tokens: int
) -> tuple[list[QuestionTree], list[str]]:
    """Divides each image's questions among sequences so that the batch has the fewest tokens.

    Padding counts, and so does the image, which each sequence repeats.

    Args:
        pairs: a question and its answer.
        images: the image of each pair.
        max_questions: largest number of questions in a sequence.
        image_tokens: number of tokens that an image takes in a sequence.

    Returns:
        The sequences, and the image of each.
    """
    pairs_of_images: dict[str, list[QuestionAnswer]] = {}
    for pair, image in zip(pairs, images, strict=True):
        pairs_of_images.setdefault(image, []).append(pair)

    def cost(batch: list[list[QuestionTree]]) -> int:
        lengths = [len(tree.tokens) for trees in batch for tree in trees]
        return len(lengths) * (image_tokens + max(lengths))

    limits = range(1, max_questions + 1)
    packed = min(([_divide(own, limit) for own in pairs_of_images.values()] for limit in limits), key=cost)
    image_of_tree = [image for image, trees in zip(pairs_of_images, packed, strict=True) for _ in trees]
    return [tree for trees in packed for tree in trees], image_of_tree


def _divide(questions: Sequence[QuestionAnswer], limit: int) -> list[QuestionTree]:
    """The fewest sequences of at most `limit` questions each; the longest questions first, each into the shortest."""
    sequences: list[list[QuestionAnswer]] = [[] for _ in range(math.ceil(len(questions) / limit))]
    for question in sorted(questions, key=_length, reverse=True):
        with_room = [sequence for sequence in sequences if len(sequence) < limit]
        min(with_room, key=lambda sequence: sum(map(_length, sequence))).append(question)
    return [QuestionTree(sequence) for sequence in sequences]


def _length(question: QuestionAnswer) -> int:
    return len(question.prompt) + len(question.answer)


def visible_tokens(trees: Sequence[QuestionTree]) -> torch.Tensor:
    """Which tokens each token sees, ``(S, L, L)`` bool, padded to the longest sequence; padding sees nothing."""
    length = max(len(tree.tokens) for tree in trees)
    visible = torch.zeros(len(trees), length, length, dtype=torch.bool)
    for tree, tokens in zip(trees, visible, strict=True):
        for token, path in enumerate(tree.paths):
            tokens[token, path] = True
    return visible


def padded(sequences: Sequence[Sequence[int]], value: int, left: bool = False) -> torch.Tensor:
    """Sequences of token ids as one tensor ``(B, L)``, filled up with `value` on the right or on the left."""
    length = max(map(len, sequences))
    fill = [[value] * (length - len(sequence)) for sequence in sequences]
    return torch.tensor([[*pad, *row] if left else [*row, *pad] for row, pad in zip(sequences, fill, strict=True)])
