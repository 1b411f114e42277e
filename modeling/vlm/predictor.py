"""Asks an image-text-to-text model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling.parts.evidence import Evidence
from modeling.parts.family_predictor import Row
from modeling.vlm.heat import find_evidence, vlm_heat
from modeling.vlm.images import KeptImages, take_vision
from modeling.writing.answering import Answering, end_tokens
from modeling.writing.predictor import WritingPredictor
from processing.chat import ChatPrompts
from processing.chat_collator import ChatCollator

MAX_QUESTION_TOKENS = 256


class VlmPredictor(WritingPredictor):
    """Asks an image-text-to-text model, whose part that sees stands apart from the rest."""

    def __init__(self, model: Any, processor: Any, device: torch.device, answering: Answering) -> None:
        self.images = KeptImages(take_vision(model).to(device), processor, 0)
        self.writer = model.reader
        self.chat = ChatPrompts(processor, model.config.image_token_id, answering.prompt, answering.system)
        end = answering.end_token_id
        self.end_token_id = self.chat.end_token(end_tokens(model, processor.tokenizer)) if end is None else end
        super().__init__(model, processor, device, answering)

    def prepare_image(self, image: Image.Image) -> Image.Image:
        """The image as it is: the processor may cut it into tiles."""
        return image

    def fit_question(self, question: str) -> tuple[str, bool]:
        """The question, cut where it is longer than any that people ask."""
        tokenizer = self.processor.tokenizer
        ids = tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) <= MAX_QUESTION_TOKENS:
            return question, False
        return tokenizer.decode(ids[:MAX_QUESTION_TOKENS]), True

    def encode_images(self, images: list[Any]) -> Sequence[Any]:
        """What the model reads of each."""
        return [self.images.read(image) for image in images]

    def find_evidence(self, rows: Sequence[Row], encoded: Mapping[str, Any]) -> list[Evidence] | list[None]:
        """By the evidence head, where the training had boxes."""
        if self.model.evidence is None:
            return [None] * len(rows)
        batch = self.to_device(self.collator(encoded).prompts(rows))
        return find_evidence(self.writer, self.processor.tokenizer, batch, rows)

    def heat_map(self, row: Row, encoded: Mapping[str, Any]) -> np.ndarray:
        """By the gradient of the answer's log-likelihood."""
        batch = self.to_device(self.collator(encoded).with_image_for_each_row()([row]))
        return vlm_heat(self.writer, batch)[0]

    def collator(self, encoded: Mapping[str, Any] | None = None) -> ChatCollator:
        """As `WritingPredictor` says."""
        return ChatCollator(self.chat, encoded or {}, 1, self.end_token_id)

    def to_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """As `FamilyPredictor` says, for lists of tensors too."""
        return {
            name: [part.to(self.device) for part in value] if isinstance(value, list) else value.to(self.device)
            for name, value in batch.items()
            if name != "row"
        }
