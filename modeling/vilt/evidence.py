"""The evidence head of a ViLT: what it is made of, what its texts are, and what it finds."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, ViltConfig

from modeling.parts.agreement import evidence_of_answers
from modeling.parts.evidence import Evidence, EvidenceHead, evidence_loss, moved_masks
from modeling.parts.evidence_targets import EvidenceTargets, Rows, Target
from modeling.parts.minilm import sentence_vectors

BATCH_SIZE = 64  # texts a forward
Targets = dict[str, torch.Tensor]


class AnswerEvidence(nn.Module):
    """An evidence head, and the vectors of the texts that it is asked for: answers of the vocabulary, labels of boxes.

    Args:
        config: has `num_labels`, `evidence_labels` and `evidence_weight`.
        num_channels: of the image features.
        text_width: of the vectors of texts.
        grid: cells on a side of a map.
    """

    answers: torch.Tensor
    labels: torch.Tensor

    def __init__(self, config: ViltConfig, num_channels: int, text_width: int, grid: int) -> None:
        super().__init__()
        self.weight = config.evidence_weight
        self.head = EvidenceHead(num_channels, text_width, grid)
        self.register_buffer("answers", torch.zeros(config.num_labels, text_width))
        self.register_buffer("labels", torch.zeros(len(config.evidence_labels), text_width))

    def loss(
        self, places: torch.Tensor, questions: torch.Tensor, targets: Targets, images: torch.Tensor, moves: Any = None
    ) -> torch.Tensor:
        """What finding the targets adds to the loss of a batch.

        Args:
            places: of `EvidenceHead.embed_images`, ``(I, width, grid, grid)``.
            questions: vectors of the batch's questions, ``(B, text width)``.
            targets: of `evidence_targets`.
            images: which of the images each target is about, ``(Q,)``.
            moves: of the images, ``(I, 2, 3)``; None where they are as they were.
        """
        masks = targets["masks"] if moves is None else moved_masks(targets["masks"], moves[images])
        texts = self.head.embed_texts(questions[targets["rows"]] * targets["asked"], targets["answers"])
        return self.weight * evidence_loss(self.head(places, texts, images).float(), masks)

    def label_logits(self, places: torch.Tensor) -> torch.Tensor:
        """The logit of each cell for each label, ``(I, labels, grid, grid)``."""
        return self.head.all_pairs(places, self.head.embed_texts(torch.zeros_like(self.labels), self.labels))

    def answer_maps(
        self, places: torch.Tensor, questions: torch.Tensor, answers: torch.Tensor, image_index: torch.Tensor
    ) -> torch.Tensor:
        """The logit of each cell for each question with its answer, ``(B, grid, grid)``.

        Args:
            places: as for `loss`.
            questions: as for `loss`.
            answers: label ids ``(B,)``.
            image_index: which of the images each question is about, ``(B,)``.
        """
        texts = self.head.embed_texts(questions, self.answers[answers])
        return cast(torch.Tensor, self.head(places, texts, image_index))


@torch.no_grad()
def set_evidence_vectors(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Computes the vectors of a model's answers and labels, which it keeps."""
    config = model.config
    for texts, vectors in (
        ([config.id2label[i] for i in range(config.num_labels)], model.evidence.answers),
        (config.evidence_labels, model.evidence.labels),
    ):
        for start in range(0, len(texts), BATCH_SIZE):
            chunk = texts[start : start + BATCH_SIZE]
            batch = tokenizer(
                chunk, padding=True, truncation=True, max_length=config.max_position_embeddings, return_tensors="pt"
            )
            vectors[start : start + len(chunk)] = sentence_vectors(
                model.text_states(batch["input_ids"], batch["attention_mask"]), batch["attention_mask"]
            )


def evidence_targets(model: Any) -> EvidenceTargets:
    """What a model's evidence head learns from.

    Beside `masks`, a batch has `answers` ``(Q, text width)``, zeros for a question alone; `asked` ``(Q, 1)``, 1 where
    the question counts and 0 for a label alone; and `rows` ``(Q,)``, the place of a row in the batch, whose image and
    question it is.
    """
    config, evidence = model.config, model.evidence
    texts = [*(config.id2label[i] for i in range(config.num_labels)), *config.evidence_labels]
    vectors = torch.cat([evidence.answers, evidence.labels]).cpu()
    by_text = dict(zip((text.lower() for text in texts), vectors, strict=True))
    vectors_of = functools.partial(_vectors_of_targets, by_text)
    return EvidenceTargets(config.evidence_labels, evidence.head.grid, vectors_of, by_text)


def _vectors_of_targets(by_text: Mapping[str, torch.Tensor], _: Rows, targets: Sequence[Target]) -> Targets:
    none = torch.zeros_like(next(iter(by_text.values())))
    answers = [none if target.answer is None else by_text[target.answer.lower()] for target in targets]
    return {
        "answers": torch.stack(answers) if answers else none.new_zeros(0, len(none)),
        "asked": torch.tensor([float(target.asked) for target in targets])[:, None],
        "rows": torch.tensor([target.row for target in targets], dtype=torch.int64),
    }


@torch.no_grad()
def find_evidence(
    model: Any, batch: dict[str, torch.Tensor], labels: Sequence[int], rows: Sequence[Mapping[str, Any]]
) -> list[Evidence]:
    """Where a model with an evidence head finds the answers to questions.

    Args:
        batch: questions as `ViltCollator` gives them.
        labels: of their answers.
        rows: `question` and `answer` of each.
    """
    places, questions, image_index = model.evidence_inputs(**batch)
    answers = torch.tensor(labels, device=questions.device)
    maps = model.evidence.answer_maps(places, questions, answers, image_index)
    of_labels = model.evidence.label_logits(places)
    return evidence_of_answers(rows, maps, of_labels, model.config.evidence_labels, image_index)
