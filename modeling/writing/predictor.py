"""Asks a model that writes its answers."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modeling.parts.family_predictor import FamilyPredictor, RankedAnswers, Row, most_probable
from modeling.writing.answering import Answering, decode_with, end_tokens
from modeling.writing.candidates import AnswerTrie, select_prompts, trie_of_choices


class WritingPredictor(FamilyPredictor):
    """Writes answers, or chooses the likeliest of a row's choices or of its candidates.

    Attributes:
        writer: has the model's `generate` and `score`.
    """

    writer: Any

    def __init__(self, model: Any, processor: Any, device: torch.device, answering: Answering) -> None:
        super().__init__(model, processor, device)
        self.answering = answering
        self.abstention_threshold = answering.threshold
        self.ends = end_tokens(model, processor.tokenizer)
        self.trie = None
        if answering.candidates:
            self.trie = AnswerTrie([self.collator().answer_ids(answer) for answer in answering.candidates])

    @abstractmethod
    def collator(self, encoded: Mapping[str, Any] | None = None) -> Any:
        """The collator of the model's family.

        Args:
            encoded: by the key of an image, what `encode_images` made of it.
        """

    def rank_answers(self, rows: Sequence[Row], encoded: Mapping[str, Any], top_k: int) -> list[RankedAnswers]:
        """The likeliest choices or candidates; without them the greedy answer, then other beams by confidence."""
        collator = self.collator(encoded)
        batch = self.to_device(collator.prompts(rows))
        lengths = batch["attention_mask"].sum(1).tolist()
        tries = [trie_of_choices(collator, row, length, self.trie) for row, length in zip(rows, lengths, strict=True)]
        ranked: list[RankedAnswers] = [[] for _ in rows]
        if chosen := [i for i, trie in enumerate(tries) if trie is not None]:
            scores = self.writer.score([trie for trie in tries if trie is not None], **select_prompts(batch, chosen))
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

    def _calibrated(self, ranked: list[RankedAnswers]) -> list[RankedAnswers]:
        return [
            [(text, float(self.answering.calibrated(np.array(confidence)))) for text, confidence in answers]
            for answers in ranked
        ]

    def _generate(self, batch: dict[str, torch.Tensor], **beams: int) -> list[tuple[str, float]]:
        config = self.answering.generation_config(self.processor.tokenizer, self.ends, **beams)
        tokens, confidence = self.writer.generate(**batch, generation_config=config)
        return list(zip(decode_with(self.processor, self.ends)(tokens), confidence.tolist(), strict=True))
