"""Rows in, batches of tensors out."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Blip2Processor, ViltProcessor

from processing.images import open_image
from processing.packing import QuestionTree, Tokens, padded
from processing.utils import resize

IMAGE_CACHE_BYTES = 2**30  # all of SLAKE at 384 px takes 240 MB


class FeatureLookup(Protocol):
    """Features by image path."""

    def __getitem__(self, image: str) -> torch.Tensor: ...


class ImageLookup(Protocol):
    """Resized images ``(3, height, width)`` uint8 by their path."""

    def __getitem__(self, image: str) -> np.ndarray: ...


class ResizedImages:
    """Decodes and resizes each image once and keeps the 8-bit result in memory, the least recently used out first."""

    def __init__(self, image_processor: Any, max_bytes: int = IMAGE_CACHE_BYTES) -> None:
        self.image_processor = image_processor
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, path: str) -> np.ndarray:
        """The image as ``(3, height, width)`` uint8."""
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        image = resize(self.image_processor, open_image(path))
        self._kept[path] = image
        self._bytes += image.nbytes
        while self._bytes > self.max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return image


class ViltCollator:
    """Builds ViLT batches.

    Args:
        processor: its tokenizer cuts questions at `max_question_length` tokens.
        label_of: the label id of an answer, None for an answer outside the vocabulary.
        num_labels: size of the answer vocabulary.
        max_question_length: in tokens, special tokens included.
        share_images: give an image once, however many rows of the batch ask about it.
        features: features of a frozen vision network by image path, ``(channels, height, width)``, for models that
            take them instead of pixels.
        images: resized images; by default each is read and resized once.
        states: those of a frozen text encoder by question, ``(tokens, width)``.
    """

    def __init__(
        self,
        processor: ViltProcessor,
        label_of: dict[str, int],
        num_labels: int,
        max_question_length: int,
        share_images: bool = False,
        features: FeatureLookup | None = None,
        images: ImageLookup | None = None,
        states: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.states = states
        self.processor = processor
        self.label_of = label_of
        self.num_labels = num_labels
        self.max_question_length = max_question_length
        self.share_images = share_images
        self.features = features
        self.images = ResizedImages(processor.image_processor) if images is None else images

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns what `prompts` does and `labels` ``(B, num_labels)`` as float targets, all zero for an unknown
        answer."""
        labels = torch.zeros(len(rows), self.num_labels)
        for position, row in enumerate(rows):
            label = self.label_of.get(row["answer"])
            if label is not None:
                labels[position, label] = 1.0
        return self.prompts(rows) | {"labels": labels}

    def prompts(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `token_type_ids`, `attention_mask` ``(B, L)`` padded to the longest question,
        `pixel_values` ``(I, 3, H, W)`` and `pixel_mask` ``(I, H, W)`` padded to the largest image, or `image_embeds`
        ``(I, channels, height, width)`` where features are kept, and `row` ``(B,)``. The images are those of the
        rows, or with `share_images` the distinct ones, and `image_index` ``(B,)`` says which of them a row is
        about. Where states of questions are kept, `text_states` ``(B, L, width)``."""
        questions = [row["question"] for row in rows]
        batch = self.processor.tokenizer(
            questions,
            padding=True,
            truncation=True,
            max_length=self.max_question_length,
            return_token_type_ids=True,
            return_tensors="pt",
        )
        if self.states is not None:
            batch["text_states"] = pad_sequence([self.states[question] for question in questions], batch_first=True)
        images = [row["image"] for row in rows]
        if self.share_images:
            distinct = {image: i for i, image in enumerate(dict.fromkeys(images))}
            batch["image_index"] = torch.tensor([distinct[image] for image in images])
            images = list(distinct)
        if self.features is not None:
            batch["image_embeds"] = torch.stack([self.features[image] for image in images])
        else:
            batch |= self.processor.image_processor(
                [self.images[image] for image in images], do_resize=False, return_tensors="pt"
            )
        return {**batch, "row": torch.tensor([row["row"] for row in rows])}


class Blip2Collator:
    """Builds BLIP-2 batches: called, to train on answers; by `prompts`, to generate them.

    Args:
        processor: of images and text.
        prompt: with one `{}` for the question.
        questions_per_image: largest number of questions that share an image in one sequence (decoder-only).
        decoder_only: the kind of the language model.
        features: features of the vision encoder by image path, ``(patches, width)``, instead of pixels.
    """

    def __init__(
        self,
        processor: Blip2Processor,
        prompt: str,
        questions_per_image: int,
        decoder_only: bool,
        features: FeatureLookup | None = None,
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.prompt = prompt
        self.questions_per_image = questions_per_image
        self.decoder_only = decoder_only
        self.features = features
        self.images = ResizedImages(processor.image_processor)

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer, the end token last."""
        text = f" {answer}" if self.decoder_only else answer
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]

    def _prompt_ids(self, question: str) -> list[int]:
        return self.tokenizer(self.prompt.replace("{}", question))["input_ids"]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns what `Blip2ForQuestionAnswering.forward` takes."""
        if self.decoder_only:
            return self._packed(rows)
        prompts = [self._prompt_ids(row["question"]) for row in rows]
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": padded(prompts, pad),
            "attention_mask": padded([[1] * len(ids) for ids in prompts], 0),
            "labels": padded([self.answer_ids(row["answer"]) for row in rows], -100),
            **self._image_batch([row["image"] for row in rows]),
        }

    def _packed(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        of_image: dict[str, list[Tokens]] = {}
        for row in rows:
            tokens = self._prompt_ids(row["question"]), self.answer_ids(row["answer"])
            of_image.setdefault(row["image"], []).append(tokens)
        images: list[str] = []
        trees: list[QuestionTree] = []
        for image, sequences in zip(of_image, self._sequences(list(of_image.values())), strict=True):
            trees += sequences
            images += [image] * len(sequences)
        length = max(len(tree.tokens) for tree in trees)
        visible = torch.zeros(len(trees), length, length, dtype=torch.bool)
        for tree, rows_of_tree in zip(trees, visible, strict=True):
            for token, path in enumerate(tree.paths):
                rows_of_tree[token, path] = True
        return {
            "input_ids": padded([tree.tokens for tree in trees], self.tokenizer.pad_token_id),
            "labels": padded([tree.labels for tree in trees], -100),
            "position_ids": padded([[len(path) - 1 for path in tree.paths] for tree in trees], 0),
            "visible": visible,
            **self._image_batch(images),
        }

    def _sequences(self, of_image: Sequence[list[Tokens]]) -> list[list["QuestionTree"]]:
        """Shares each image's questions out to sequences, so that the batch has the fewest tokens, padding and the
        repeated image included."""

        def size(question: Tokens) -> int:
            return sum(map(len, question))

        def share_out(questions: list[Tokens], limit: int) -> list[QuestionTree]:
            sequences: list[list[Tokens]] = [[] for _ in range(math.ceil(len(questions) / limit))]
            for question in sorted(questions, key=size, reverse=True):
                min((s for s in sequences if len(s) < limit), key=lambda s: sum(map(size, s))).append(question)
            return [QuestionTree(sequence) for sequence in sequences]

        def cost(batch: list[list[QuestionTree]]) -> int:
            lengths = [len(tree.tokens) for trees in batch for tree in trees]
            return len(lengths) * (self.processor.num_query_tokens + max(lengths))

        limits = range(1, self.questions_per_image + 1)
        return min(([share_out(questions, limit) for questions in of_image] for limit in limits), key=cost)

    def prompts(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns what `Blip2ForQuestionAnswering.generate` takes, and `row` ``(B,)``."""
        prompts = [self._prompt_ids(row["question"]) for row in rows]
        return {
            # between image and prompt, where absolute positions skip it; T5's are relative, so there it comes last
            "input_ids": padded(prompts, self.tokenizer.pad_token_id, left=self.decoder_only),
            "attention_mask": padded([[1] * len(ids) for ids in prompts], 0, left=self.decoder_only),
            **self._image_batch([row["image"] for row in rows]),
            "row": torch.tensor([row["row"] for row in rows]),
        }

    def _image_batch(self, images: Sequence[str]) -> dict[str, torch.Tensor]:
        distinct = {image: i for i, image in enumerate(dict.fromkeys(images))}
        batch = {"image_index": torch.tensor([distinct[image] for image in images])}
        if self.features is not None:
            return batch | {"image_embeds": torch.stack([self.features[image] for image in distinct])}
        pixels = self.processor.image_processor(
            [self.images[image] for image in distinct], do_resize=False, return_tensors="pt"
        )
        return batch | {"pixel_values": pixels["pixel_values"]}
