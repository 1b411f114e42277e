"""The images of a batch: kept features or pixels, one for all rows about an image or one a row."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from processing.images import errors_name_image, open_image
from processing.utils import normalize, resize

IMAGE_CACHE_BYTES = 2**30  # all of SLAKE at 384 px takes 240 MB


class FeatureLookup(Protocol):
    """Features of a frozen vision network by image path."""

    def __getitem__(self, image: str) -> torch.Tensor: ...


class ImageLookup(Protocol):
    """Resized images ``(3, height, width)`` uint8 by their path."""

    def __getitem__(self, image: str) -> np.ndarray: ...


class ResizedImages:
    """Decodes and resizes each image once and keeps the 8-bit result in memory.

    Beyond `max_bytes` the least recently used image is dropped first.
    """

    def __init__(self, image_processor: Any, max_bytes: int = IMAGE_CACHE_BYTES) -> None:
        self.image_processor = image_processor
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, path: str) -> np.ndarray:
        """The image as ``(3, height, width)`` uint8.

        Raises:
            ImageError: it can't be opened or resized.
        """
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        with errors_name_image(path):
            image = resize(self.image_processor, open_image(path))
        self._kept[path] = image
        self._bytes += image.nbytes
        while self._bytes > self.max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return image


@dataclass
class BatchImages:
    """Where the images of a batch come from, and whether rows share them.

    Attributes:
        image_processor: normalises resized images.
        resized: resized images by path.
        features: kept features by path; where there are any, batches hold them instead of pixels.
        features_name: what a batch calls them.
        shared: rows about one image share it. Otherwise each row has an image of its own.
    """

    image_processor: Any
    resized: ImageLookup
    features: FeatureLookup | None = None
    shared: bool = True
    features_name: str = "image_embeds"

    def batch(self, paths: Sequence[str]) -> dict[str, torch.Tensor]:
        """The images of a batch of rows, which name them by path.

        Returns:
            `image_index` ``(B,)``: which of the ``I`` images each row is about. And the features ``(I, ...)`` where
            they are kept, else `pixel_values` ``(I, 3, H, W)`` and what else the image processor gives.
        """
        if self.shared:
            images = list(dict.fromkeys(paths))
            position = {image: i for i, image in enumerate(images)}
            index = [position[path] for path in paths]
        else:
            images = list(paths)
            index = list(range(len(images)))
        batch = {"image_index": torch.tensor(index)}
        if self.features is not None:
            return batch | {self.features_name: torch.stack([self.features[image] for image in images])}
        return batch | dict(normalize(self.image_processor, [self.resized[image] for image in images]))
