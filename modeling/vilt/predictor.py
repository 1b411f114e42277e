"""Asks a ViLT or its starter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling.parts.evidence import Evidence
from modeling.parts.family_predictor import FamilyPredictor, RankedAnswers, Row, most_probable
from modeling.parts.vocabulary import labels_of
from modeling.vilt import evidence as vilt_evidence
from modeling.vilt.confidence import Options, answer_probabilities
from modeling.vilt.heat import vilt_heat
from processing.collators import ViltCollator
from processing.errors import UserError, quoted


class ViltPredictor(FamilyPredictor):
    """Chooses among the answers of the training, or among those of a row's choices that are known from it."""

    def __init__(self, model: Any, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(model, processor, device)
        self.dtype = dtype
        self.options = Options(model.config)
        self.abstention_threshold = getattr(model.config, "answer_threshold", 0.0)
        self.max_question_length = model.config.max_position_embeddings
        self.has_image_network = hasattr(model, "patches")  # which does not see the question

    def fit_question(self, question: str) -> tuple[str, bool]:
        """The question as it is: the collator cuts it."""
        length = len(self.processor.tokenizer(question, verbose=False)["input_ids"])
        return question, length > self.max_question_length

    def encode_images(self, images: list[np.ndarray]) -> Sequence[Any]:
        """The starter's image tokens; ViLT itself sees images and questions together."""
        return self.model.patches(self.pixel_values(images)).cpu() if self.has_image_network else images

    def rank_answers(self, rows: Sequence[Row], encoded: Mapping[str, Any], top_k: int) -> list[RankedAnswers]:
        """The most probable choices of a row that the model knows; without any, those of the vocabulary."""
        batch = self._batch(rows, encoded)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(**batch).logits
        config = self.model.config
        ranked = most_probable(answer_probabilities(logits, config), config.id2label, top_k)
        for i, row in enumerate(rows):
            if known := self.options.known(row):
                ranked[i] = most_probable(self.options.probabilities(logits[i], row), list(known.values()), top_k)[0]
        return ranked

    def find_evidence(self, rows: Sequence[Row], encoded: Mapping[str, Any]) -> list[Evidence] | list[None]:
        """By the evidence head, where the training had boxes."""
        if getattr(self.model, "evidence", None) is None:
            return [None] * len(rows)
        labels = [self._label_of(row["answer"]) for row in rows]
        return vilt_evidence.find_evidence(self.model, self._batch(rows, encoded), labels, rows)

    def heat_map(self, row: Row, encoded: Mapping[str, Any]) -> np.ndarray:
        """By the gradient of the answer's logit, in float32."""
        return vilt_heat(self.model, self._batch([row], encoded), [self._label_of(row["answer"])])[0]

    def _label_of(self, answer: str) -> int:
        config = self.model.config
        label = config.label2id.get(answer, labels_of([answer], config.label2id).get(answer))
        if label is None:
            raise UserError(
                f"answer {quoted(answer)}: not among the {config.num_labels} that the model knows; ask about one of "
                "its answers, model.config.label2id."
            )
        return label

    def _batch(self, rows: Sequence[Row], encoded: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        collator = ViltCollator(
            self.processor,
            {},
            self.model.config.num_labels,
            self.max_question_length,
            share_images=self.has_image_network,
            features=encoded if self.has_image_network else None,
            images=None if self.has_image_network else encoded,
            features_name="image_patches",
        )
        return self.to_device(collator.prompts(rows))
