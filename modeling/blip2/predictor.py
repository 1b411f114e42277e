"""Asks a BLIP-2."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling.blip2 import evidence as blip2_evidence
from modeling.blip2.answering import Answering, decode_with, end_tokens, max_length
from modeling.blip2.candidates import AnswerTrie, select_prompts, trie_of_choices
from modeling.blip2.heat import blip2_heat
from modeling.parts.evidence import Evidence
from modeling.parts.family_predictor import FamilyPredictor, RankedAnswers, Row, most_probable
from processing.collators import Blip2Collator

T5_LENGTH = 512  # tokens; its relative positions have no limit, but it was trained with so many


class Blip2Predictor(FamilyPredictor):
    """Writes answers, or chooses the likeliest of a row's choices or of its candidates."""

    def __init__(self, model: Any, processor: Any, device: torch.device, answering: Answering) -> None:
        self.vision = model.take_frozen_vision().to(device).eval()
        super().__init__(model, processor, device)
        self.answering = answering
        self.abstention_threshold = answering.threshold
        self.ends = end_tokens(model, processor.tokenizer)
        self.trie = None
        if answering.candidates:
            self.trie = AnswerTrie([self._collator().answer_ids(answer) for answer in answering.candidates])
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

    def rank_answers(self, rows: Sequence[Row], encoded: Mapping[str, Any], top_k: int) -> list[RankedAnswers]:
        """The likeliest choices or candidates; without them the greedy answer, then other beams by confidence."""
        collator = self._collator(encoded)
        batch = self.to_device(collator.prompts(rows))
        lengths = batch["attention_mask"].sum(1).tolist()
        tries = [trie_of_choices(collator, row, length, self.trie) for row, length in zip(rows, lengths, strict=True)]
        ranked: list[RankedAnswers] = [[] for _ in rows]
        if chosen := [i for i, trie in enumerate(tries) if trie is not None]:
            scores = self.model.score([trie for trie in tries if trie is not None], **select_prompts(batch, chosen))
            for i, probabilities in zip(chosen, scores.softmax(-1), strict=True):
                texts = rows[i].get("choices") or self.answering.candidates or []
                ranked[i] = most_probable(probabilities[None, : len(texts)], texts, top_k)[0]
        if free := [i for i, trie in enumerate(tries) if trie is None]:
            for i, answers in zip(free, self._written(select_prompts(batch, free), top_k), strict=True):
                ranked[i] = answers
        return self._calibrated(ranked)

    def _written(self, batch: dict[str, torch.Tensor], top_k: int) -> list[RankedAnswers]:
        """The greedy answer to each prompt, then other beams by their confidence."""
        ranked = [[pair] for pair in self._generate(batch)]
        if top_k > 1:
            beams = self._generate(batch, num_beams=top_k, num_return_sequences=top_k)
            for number, answers in enumerate(ranked):
                others = sorted(beams[number * top_k : (number + 1) * top_k], key=lambda pair: pair[1])
                distinct = dict(others)  # beams may differ in spaces only; the most confident one stays
                distinct.pop(answers[0][0], None)
                answers += sorted(distinct.items(), key=lambda pair: -pair[1])[: top_k - 1]
        return ranked

    def find_evidence(self, rows: Sequence[Row], encoded: Mapping[str, Any]) -> list[Evidence] | list[None]:
        """By the evidence head, where the training had boxes."""
        if self.model.evidence is None:
            return [None] * len(rows)
        images = self.to_device(self._collator(encoded).images.batch([row["image"] for row in rows]))
        return blip2_evidence.find_evidence(self.model, self.processor.tokenizer, images, rows)

    def heat_map(self, row: Row, encoded: Mapping[str, Any]) -> np.ndarray:
        """By the gradient of the answer's log-likelihood."""
        return blip2_heat(self.model, self.to_device(self._collator(encoded)([row])))[0]

    def _collator(self, encoded: Mapping[str, Any] | None = None) -> Blip2Collator:
        decoder_only = self.model.config.use_decoder_only_language_model
        end = self.answering.end_token_id
        places = max_length(self.model)
        return Blip2Collator(self.processor, self.answering.prompt, 1, decoder_only, encoded, end, places)

    def _calibrated(self, ranked: list[RankedAnswers]) -> list[RankedAnswers]:
        return [
            [(text, float(self.answering.calibrated(np.array(confidence)))) for text, confidence in answers]
            for answers in ranked
        ]

    def _generate(self, batch: dict[str, torch.Tensor], **beams: int) -> list[tuple[str, float]]:
        config = self.answering.generation_config(self.processor.tokenizer, self.ends, **beams)
        tokens, confidence = self.model.generate(**batch, generation_config=config)
        return list(zip(decode_with(self.processor, self.ends)(tokens), confidence.tolist(), strict=True))
