"""What each family of models does for the `Predictor`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling.parts.evidence import Evidence
from processing.utils import normalize, resize

Row = dict[str, Any]
RankedAnswers = list[tuple[str, float]]  # answers and their confidence, the best first


class FamilyPredictor(ABC):
    """A loaded model of one family.

    A row has `row`, `question` and `image`, the key of an image among the encoded ones; some have `choices`, two or
    more texts of which the answer is one.

    Args:
        model: is moved to `device`.
        processor: of images and text.
        device: where the model computes.
    """

    abstention_threshold: float  # the model gives no answer below this confidence

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.processor = processor
        self.device = device

    @abstractmethod
    def fit_question(self, question: str) -> tuple[str, bool]:
        """The question in the length that the model reads, and whether it was cut."""

    def prepare_image(self, image: Image.Image) -> Any:
        """What is to be encoded of an RGB image: by default its pixels in the model's size, ``(3, height, width)``
        uint8."""
        return resize(self.processor.image_processor, image)

    @abstractmethod
    def encode_images(self, images: list[Any]) -> Sequence[Any]:
        """What the model makes of images without the question, one entry an image.

        Args:
            images: as `prepare_image` gives them.
        """

    @abstractmethod
    def rank_answers(self, rows: Sequence[Row], encoded: Mapping[str, Any], top_k: int) -> list[RankedAnswers]:
        """The best `top_k` answers to each row's question.

        Args:
            encoded: by the key of an image, what `encode_images` made of it.
        """

    @abstractmethod
    def heat_map(self, row: Row, encoded: Mapping[str, Any]) -> np.ndarray:
        """Where the model looked for the row's `answer`, ``(rows, columns)``; needs gradients.

        Raises:
            UserError: the model does not know the answer.
        """

    @abstractmethod
    def find_evidence(self, rows: Sequence[Row], encoded: Mapping[str, Any]) -> list[Evidence] | list[None]:
        """Where the model finds what each row's question and its `answer` are about; None without an evidence head."""

    def pixel_values(self, images: list[np.ndarray]) -> torch.Tensor:
        """Resized images as the network takes them, ``(B, 3, height, width)`` on the model's device."""
        return normalize(self.processor.image_processor, images)["pixel_values"].to(self.device)

    def to_device(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A collator's batch on the model's device, without the row numbers."""
        return {name: tensor.to(self.device) for name, tensor in batch.items() if name != "row"}


def most_probable(probabilities: torch.Tensor, answers: Any, top_k: int) -> list[RankedAnswers]:
    """The `top_k` answers of the highest probability, from probabilities ``(B, answers)``.

    Args:
        answers: the text of each answer by its number.
    """
    values, order = (part[:, :top_k].tolist() for part in probabilities.sort(descending=True, stable=True))
    return [[(answers[i], value) for i, value in zip(*row, strict=True)] for row in zip(order, values, strict=True)]
