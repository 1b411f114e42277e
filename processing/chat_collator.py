"""Rows in, batches for chat models of images and text out."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from processing.chat import ChatPrompt, ChatPrompts
from processing.packing import QuestionTree, pack_questions, padded, visible_tokens
from processing.utils import QuestionAnswer

Rows = Sequence[Mapping[str, Any]]


class ReadImage(Protocol):
    """What a model reads of an image.

    Attributes:
        text: stands in the prompt in the image's place.
        tensors: what the batch holds of the image, by name.
    """

    text: str
    tensors: dict[str, torch.Tensor]


class ReadImages(Protocol):
    """What a model reads of images, by their path."""

    def __getitem__(self, image: str) -> ReadImage: ...


class ChatCollator:
    """Builds batches: called, to train on answers; by `prompts`, to generate them.

    Args:
        chat: makes the prompts.
        images: by path, what the model reads of an image.
        questions_per_image: largest number of questions that share an image in one sequence.
        end_token_id: ends an answer.
    """

    max_length: int | None = None  # of prompt and answer; these models read more than any prompt has

    def __init__(self, chat: ChatPrompts, images: ReadImages, questions_per_image: int, end_token_id: int) -> None:
        self.chat = chat
        self.images = images
        self.questions_per_image = questions_per_image
        self.end_token_id = end_token_id
        self.shared = True
        self.pad_token_id: int = chat.tokenizer.pad_token_id

    def with_image_for_each_row(self) -> "ChatCollator":
        """This collator, but each row has a sequence and an image of its own, as heat maps need."""
        collator = copy.copy(self)
        collator.shared = False
        return collator

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer, the end token last."""
        return self.chat.answer_ids(answer, self.end_token_id)

    def __call__(self, rows: Rows) -> dict[str, Any]:
        """What `modeling.vlm.network.PrefixReader.forward` takes."""
        read, prompts = self._read(rows)
        pairs = [
            QuestionAnswer(prompt.rest, self.answer_ids(row["answer"]))
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        paths = [row["image"] for row in rows]
        if self.shared:
            longest = max(len(prompt.trunk) for prompt in prompts)
            trees, paths = pack_questions(pairs, paths, self.questions_per_image, longest)
        else:
            trees = [QuestionTree([pair]) for pair in pairs]
        return {
            "input_ids": padded([tree.tokens for tree in trees], self.pad_token_id),
            "labels": padded([tree.labels for tree in trees], -100),
            "position_ids": padded([[len(path) - 1 for path in tree.paths] for tree in trees], 0),
            "visible": visible_tokens(trees),
            **self._trunks(paths, read, {row["image"]: prompt for row, prompt in zip(rows, prompts, strict=True)}),
        }

    def prompts(self, rows: Rows) -> dict[str, Any]:
        """What `modeling.vlm.network.PrefixReader.generate` takes, and `row` ``(B,)``."""
        read, prompts = self._read(rows)
        rests = [prompt.rest for prompt in prompts]
        return {
            "input_ids": padded(rests, self.pad_token_id, left=True),
            "attention_mask": padded([[1] * len(ids) for ids in rests], 0, left=True),
            **self._trunks(
                [row["image"] for row in rows],
                read,
                {row["image"]: prompt for row, prompt in zip(rows, prompts, strict=True)},
            ),
            "row": torch.tensor([row["row"] for row in rows]),
        }

    def _read(self, rows: Rows) -> tuple[dict[str, ReadImage], list[ChatPrompt]]:
        read = {path: self.images[path] for path in dict.fromkeys(row["image"] for row in rows)}
        return read, [self.chat(row["question"], read[row["image"]].text) for row in rows]

    def _trunks(
        self, paths: Sequence[str], read: Mapping[str, ReadImage], prompts: Mapping[str, ChatPrompt]
    ) -> dict[str, Any]:
        """The images of sequences, by path: each once where they are shared.

        Returns:
            `image_index` ``(S,)``, `trunk_ids` and `trunk_mask` ``(I, P)``, padded on the left, and a list of the
            tensors of each image by their name.
        """
        images = list(dict.fromkeys(paths)) if self.shared else list(paths)
        place = {path: i for i, path in enumerate(images)}
        index = [place[path] for path in paths] if self.shared else list(range(len(paths)))
        trunks = [prompts[path].trunk for path in images]
        tensors = [read[path].tensors for path in images]
        return {
            "image_index": torch.tensor(index),
            "trunk_ids": padded(trunks, self.pad_token_id, left=True),
            "trunk_mask": padded([[1] * len(ids) for ids in trunks], 0, left=True),
            **{name: [own[name] for own in tensors] for name in tensors[0]},
        }
