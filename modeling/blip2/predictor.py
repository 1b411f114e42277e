"""Asks a BLIP-2."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling.blip2.base import max_length
from modeling.blip2.heat import blip2_heat
from modeling.parts.evidence import Evidence
from modeling.parts.family_predictor import Row
from modeling.writing.answering import Answering
from modeling.writing.evidence import find_evidence as find_by_head
from modeling.writing.predictor import WritingPredictor
from processing.collators import Blip2Collator

T5_LENGTH = 512  # tokens; its relative positions have no limit, but it was trained with so many


class Blip2Predictor(WritingPredictor):
    """Asks a BLIP-2, whose frozen vision encoder stands apart from the rest."""

    def __init__(self, model: Any, processor: Any, device: torch.device, answering: Answering) -> None:
        self.vision = model.take_frozen_vision().to(device).eval()
        self.writer = model
        super().__init__(model, processor, device, answering)
        length = max_length(model) or T5_LENGTH - processor.num_query_tokens
        prompt = processor.tokenizer(answering.prompt)["input_ids"]
        self.max_question_length = max(1, length - len(prompt) - answering.max_new_tokens)

    def fit_question(self, question: str) -> tuple[str, bool]:
        """The question, cut where prompt and answer leave it no room."""
        tokenizer = self.processor.tokenizer
        ids = tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) <= self.max_question_length:
            return question, False
        return tokenizer.decode(ids[: self.max_question_length]), True

    def encode_images(self, images: list[np.ndarray]) -> Sequence[Any]:
        """The features of the frozen vision encoder."""
        return self.vision(self.pixel_values(images)).cpu()

    def find_evidence(self, rows: Sequence[Row], encoded: Mapping[str, Any]) -> list[Evidence] | list[None]:
        """By the evidence head, where the training had boxes."""
        if self.model.evidence is None:
            return [None] * len(rows)
        images = self.to_device(self.collator(encoded).images.batch([row["image"] for row in rows]))
        places, index = self.model.places_of_images(**images)
        return find_by_head(self.model, self.processor.tokenizer, places, index, rows)

    def heat_map(self, row: Row, encoded: Mapping[str, Any]) -> np.ndarray:
        """By the gradient of the answer's log-likelihood."""
        return blip2_heat(self.model, self.to_device(self.collator(encoded)([row])))[0]

    def collator(self, encoded: Mapping[str, Any] | None = None) -> Blip2Collator:
        """As `WritingPredictor` says."""
        decoder_only = self.model.config.use_decoder_only_language_model
        end = self.answering.end_token_id
        places = max_length(self.model)
        return Blip2Collator(self.processor, self.answering.prompt, 1, decoder_only, encoded, end, places)
