"""The evidence head of a model that writes its answers: what its texts are, and what it finds."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from modeling.parts.agreement import evidence_of_answers
from modeling.parts.evidence import Evidence, evidence_loss, moved_masks
from modeling.parts.evidence_targets import EvidenceTargets, Rows, Target
from modeling.parts.minilm import sentence_vectors
from processing.packing import padded

MODULE = "evidence"  # of the model, in the names of its weights
WEIGHTS = rf"^{MODULE}\."


class TextTokens:
    """The tokens of texts, as the language model has them within a sentence. They need no image and no prompt.

    Args:
        tokenizer: of the language model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Returns `text_ids` and `text_mask`, both ``(T, L)``; an empty text has no tokens, and L is at least 1."""
        tokens = [self._tokens(text) for text in texts]
        return {
            "text_ids": padded([own or [0] for own in tokens], 0),
            "text_mask": padded([[1] * len(own) or [0] for own in tokens], 0),
        }

    def _tokens(self, text: str) -> list[int]:
        if text not in self._known:
            words = f" {text.strip().lower()}"  # Liver and liver would be other tokens
            self._known[text] = self.tokenizer(words, add_special_tokens=False)["input_ids"] if text.strip() else []
        return self._known[text]


def text_vectors(embeddings: nn.Embedding, text_ids: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
    """The vectors of texts ``(T, L)`` by the language model's input embeddings, ``(T, width)``; zeros for no tokens.

    Args:
        embeddings: their weights alone count. Calling the module would add what training adds to it.
    """
    return sentence_vectors(nn.functional.embedding(text_ids, embeddings.weight.detach()).float(), text_mask)


def label_vectors(model: Any, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """The vectors of the labels of a model's evidence head, ``(labels, width)`` on its device."""
    tokens = TextTokens(tokenizer)(model.config.evidence_labels)
    embeddings = model.get_input_embeddings()
    return text_vectors(embeddings, **{name: ids.to(embeddings.weight.device) for name, ids in tokens.items()})


def evidence_targets(labels: Sequence[str], grid: int, tokenizer: PreTrainedTokenizerBase) -> EvidenceTargets:
    """What an evidence head learns from.

    Beside `masks`, a batch has `images` ``(Q,)``, which of its images each target is about; its distinct texts as
    `TextTokens` gives them, and which of them are each target's question and answer, `questions` and `answers`
    ``(Q,)``. The first text is empty and stands for none. Questions have no rows in a batch where they share
    sequences, so the targets bring them.

    Args:
        labels: of the data's boxes.
        grid: cells on a side of a map.
        tokenizer: of the language model.
    """
    return EvidenceTargets(labels, grid, _TextsOfTargets(TextTokens(tokenizer)))


class _TextsOfTargets:
    def __init__(self, tokens: TextTokens) -> None:
        self.tokens = tokens

    def __call__(self, rows: Rows, targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        texts = {"": 0}
        asked = [rows[target.row]["question"] if target.asked else "" for target in targets]
        questions = [texts.setdefault(text, len(texts)) for text in asked]
        answers = [texts.setdefault(target.answer or "", len(texts)) for target in targets]
        place = {image: i for i, image in enumerate(dict.fromkeys(row["image"] for row in rows))}  # as in the batch
        images = [place[rows[target.row]["image"]] for target in targets]
        columns = {"images": images, "questions": questions, "answers": answers}
        return {name: torch.tensor(own, dtype=torch.int64) for name, own in columns.items()} | self.tokens(list(texts))


def loss_of_evidence(
    model: Any,
    places: torch.Tensor,
    moves: torch.Tensor | None,
    targets: Mapping[str, torch.Tensor],
    embeddings: nn.Embedding,
) -> torch.Tensor:
    """What finding the targets adds to the loss of a batch.

    Args:
        model: with an evidence head, `evidence`, and its `config`.
        places: what the head sees of images, ``(I, width, grid, grid)``.
        moves: of the images, ``(I, 2, 3)``; None where they are as they were.
        targets: of `evidence_targets`.
        embeddings: of the language model.
    """
    images, masks = targets["images"], targets["masks"]
    if moves is not None:
        masks = moved_masks(masks, moves[images])
    vectors = text_vectors(embeddings, targets["text_ids"], targets["text_mask"])
    texts = model.evidence.embed_texts(vectors[targets["questions"]], vectors[targets["answers"]])
    return model.config.evidence_weight * evidence_loss(model.evidence(places, texts, images).float(), masks)


@torch.no_grad()
def find_evidence(
    model: Any, tokenizer: PreTrainedTokenizerBase, places: torch.Tensor, image_index: torch.Tensor, rows: Rows
) -> list[Evidence]:
    """Where a model with an evidence head finds the answers to questions.

    Args:
        model: as for `loss_of_evidence`.
        tokenizer: of the language model.
        places: as for `loss_of_evidence`.
        image_index: which of the images each row is about, ``(B,)``.
        rows: `question` and `answer` of each.
    """
    labels, head = model.config.evidence_labels, model.evidence
    texts = [*(row["question"] for row in rows), *(row["answer"] for row in rows), *labels]
    tokens = {name: ids.to(image_index.device) for name, ids in TextTokens(tokenizer)(texts).items()}
    vectors = text_vectors(model.get_input_embeddings(), **tokens).to(places.dtype)
    questions, answers, named = vectors.split([len(rows), len(rows), len(labels)])
    maps = head(places, head.embed_texts(questions, answers), image_index)
    of_labels = head.all_pairs(places, head.embed_texts(torch.zeros_like(named), named))
    return evidence_of_answers(rows, maps, of_labels, labels, image_index)
