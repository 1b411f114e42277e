"""The evidence head of a ViLT: what it is made of, and what its texts are."""

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from transformers import PreTrainedTokenizerBase

from modeling.parts.evidence import Evidence, as_evidence
from modeling.parts.evidence_targets import labels_of_boxes
from modeling.parts.minilm import sentence_vectors
from modeling.training.arguments import ViltTrainingArguments

BATCH_SIZE = 64  # texts a forward


def evidence_config(args: ViltTrainingArguments, rows: datasets.Dataset) -> dict[str, Any]:
    """What the config of a model that is to train on rows says of its evidence head."""
    if args.evidence_weight == 0:
        return {"evidence_labels": None}
    labels = labels_of_boxes(rows["boxes"])
    return {"evidence_labels": labels or None, "evidence_weight": args.evidence_weight}


@torch.no_grad()
def set_evidence_vectors(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Computes the vectors of a starter's answers and labels, which the model keeps."""
    config = model.config
    for texts, vectors in (
        ([config.id2label[i] for i in range(config.num_labels)], model.answer_vectors),
        (config.evidence_labels, model.label_vectors),
    ):
        for start in range(0, len(texts), BATCH_SIZE):
            chunk = texts[start : start + BATCH_SIZE]
            batch = tokenizer(
                chunk, padding=True, truncation=True, max_length=config.max_position_embeddings, return_tensors="pt"
            )
            states = model.text_encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
            vectors[start : start + len(chunk)] = sentence_vectors(states, batch["attention_mask"])


def evidence_vectors(model: Any) -> dict[str, torch.Tensor]:
    """The vectors of labels and answers by their text in lower case, for training."""
    config = model.config
    texts = [*(config.id2label[i] for i in range(config.num_labels)), *config.evidence_labels]
    vectors = torch.cat([model.answer_vectors, model.label_vectors]).cpu()
    return dict(zip((text.lower() for text in texts), vectors, strict=True))


@torch.no_grad()
def vilt_evidence(model: Any, batch: dict[str, torch.Tensor], labels: Sequence[int]) -> list[Evidence]:
    """Where a model with an evidence head finds the answers to questions.

    Args:
        batch: questions as `ViltCollator` gives them.
        labels: of their answers.
    """
    maps, of_labels, image_index = model.evidence_maps(torch.tensor(labels), **batch)
    names = model.config.evidence_labels
    of_labels = of_labels.cpu().numpy()
    rows = zip(maps.cpu().numpy(), image_index.tolist(), strict=True)
    return [as_evidence(cells, of_labels[image], names) for cells, image in rows]
