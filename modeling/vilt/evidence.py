"""The evidence head of a ViLT: what it is made of, what its texts are, and what it finds."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import datasets
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, ViltConfig

from modeling.parts.agreement import contradicts
from modeling.parts.evidence import Evidence, EvidenceHead, as_evidence, evidence_loss, moved_masks
from modeling.parts.evidence_targets import EvidenceTargets, labels_of_boxes
from modeling.parts.minilm import sentence_vectors
from modeling.training.arguments import ViltTrainingArguments

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
            targets: of `modeling.parts.evidence_targets`.
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
        """The probability of each cell for each question with its answer, ``(B, grid, grid)``.

        Args:
            places: as for `loss`.
            questions: as for `loss`.
            answers: label ids ``(B,)``.
            image_index: which of the images each question is about, ``(B,)``.
        """
        texts = self.head.embed_texts(questions, self.answers[answers])
        return cast(torch.Tensor, self.head(places, texts, image_index)).float().sigmoid()


def evidence_config(args: ViltTrainingArguments, rows: datasets.Dataset) -> dict[str, Any]:
    """What the config of a model that is to train on rows says of its evidence head."""
    labels = labels_of_boxes(rows["boxes"]) if args.evidence_weight else []
    return {"evidence_labels": labels or None, "evidence_weight": args.evidence_weight}


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
    """What a model's evidence head learns from."""
    config, evidence = model.config, model.evidence
    texts = [*(config.id2label[i] for i in range(config.num_labels)), *config.evidence_labels]
    vectors = torch.cat([evidence.answers, evidence.labels]).cpu()
    by_text = dict(zip((text.lower() for text in texts), vectors, strict=True))
    return EvidenceTargets(config.evidence_labels, by_text, evidence.head.grid)


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
    maps = model.evidence.answer_maps(places, questions, answers, image_index).cpu().numpy()
    of_labels = model.evidence.label_logits(places).float().sigmoid().cpu().numpy()
    names = model.config.evidence_labels
    found = [dict(zip(names, cells.max((1, 2)).tolist(), strict=True)) for cells in of_labels]
    evidence = []
    for cells, image, row in zip(maps, image_index.tolist(), rows, strict=True):
        wrong = contradicts(row["question"], row["answer"], found[image])
        evidence.append(as_evidence(cells, of_labels[image], names, wrong))
    return evidence
