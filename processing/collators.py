"""Rows in, batches of tensors out."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers import ViltProcessor

from processing.images import open_image

IMAGE_CACHE_BYTES = 2**30  # all of SLAKE at 384 px takes 240 MB


class FeatureLookup(Protocol):
    """Features by image path."""

    def __getitem__(self, image: str) -> torch.Tensor: ...


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
        resized = self.image_processor(
            open_image(path), do_rescale=False, do_normalize=False, do_pad=False, return_tensors="np"
        )
        image = np.asarray(resized["pixel_values"][0], dtype=np.uint8)
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
    """

    def __init__(
        self,
        processor: ViltProcessor,
        label_of: dict[str, int],
        num_labels: int,
        max_question_length: int,
        share_images: bool = False,
        features: FeatureLookup | None = None,
    ) -> None:
        self.processor = processor
        self.label_of = label_of
        self.num_labels = num_labels
        self.max_question_length = max_question_length
        self.share_images = share_images
        self.features = features
        self.images = ResizedImages(processor.image_processor)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `token_type_ids`, `attention_mask` ``(B, L)`` padded to the longest question,
        `pixel_values` ``(I, 3, H, W)`` and `pixel_mask` ``(I, H, W)`` padded to the largest image, or `image_embeds`
        ``(I, channels, height, width)`` where features are kept, `labels` ``(B, num_labels)`` as float targets, all
        zero for an unknown answer, and `row` ``(B,)``. The images are those of the rows, or with `share_images` the
        distinct ones, and `image_index` ``(B,)`` says which of them a row is about."""
        batch = self.processor.tokenizer(
            [row["question"] for row in rows],
            padding=True,
            truncation=True,
            max_length=self.max_question_length,
            return_token_type_ids=True,
            return_tensors="pt",
        )
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
        labels = torch.zeros(len(rows), self.num_labels)
        for position, row in enumerate(rows):
            label = self.label_of.get(row["answer"])
            if label is not None:
                labels[position, label] = 1.0
        return {**batch, "labels": labels, "row": torch.tensor([row["row"] for row in rows])}
