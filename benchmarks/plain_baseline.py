"""A plain baseline for the starter: an MLP over pooled features of its frozen networks, trained in under a minute.

    python -m benchmarks.plain_baseline --dataset path/to/SLAKE [--box_questions]

The image is the EfficientNet-Lite0 of the starter, all of it frozen. Its maps are pooled to 3 x 3 cells, and the first
256 principal components of the training images are kept. The question is the mean of MiniLM's states. The MLP chooses
among the training answers, as the starter does.

The settings of the MLP were chosen on SLAKE's validation rows, as those of the starter were.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Mapping
from typing import Any

import datasets
import torch
from torch import nn
from transformers import ViltProcessor

from benchmarks.options import load_splits
from metrics.intervals import interval_text, mean_with_interval
from metrics.vqa import all_scores
from modeling.parts.kept_features import KeptFeatures
from modeling.parts.kept_states import MAX_QUESTIONS, kept_states
from modeling.parts.vocabulary import labels_of
from modeling.training.arguments import ViltTrainingArguments
from modeling.vilt.checkpoints import build_model
from processing.box_questions import add_box_questions
from processing.errors import UserError, run_command

CELLS = 3  # a side, of a pooled map
COMPONENTS = 256  # of an image
WIDTH = 512  # of both hidden layers
DROPOUT = 0.5
LABEL_SMOOTHING = 0.1
EPOCHS = 30
BATCH_SIZE = 64
LEARNING_RATE = 1e-3  # the highest; it rises for a tenth of the steps and falls as a cosine
WEIGHT_DECAY = 0.05
SEEDS = (42, 43, 44)


def frozen_features(model: Any, processor: ViltProcessor, dataset: datasets.DatasetDict) -> dict[str, torch.Tensor]:
    """The input of the MLP for each row of each split, ``(N, components + text width)``.

    Args:
        model: a starter, untrained.
        processor: its image processor and tokenizer.
        dataset: principal components are fitted on the images of its split `train`.

    Raises:
        UserError: the data set has too many different questions to keep their states.
    """
    images = sorted({image for rows in dataset.values() for image in rows["image"]})
    kept = KeptFeatures(model.vision, processor.image_processor, max_gb=20)
    kept.fill(images)
    with torch.no_grad():
        maps = (model.patches(image_embeds=kept[image].unsqueeze(0)) for image in images)
        pooled = torch.cat([nn.functional.adaptive_avg_pool2d(part, CELLS).flatten(1) for part in maps])
    training = set(dataset["train"]["image"])
    of_image = dict(zip(images, principal_components(pooled, [image in training for image in images]), strict=True))

    states = kept_states(model.text_encoder, processor.tokenizer, model.config.max_position_embeddings, dataset)
    if states is None:
        raise UserError(f"The data set has more than {MAX_QUESTIONS:,} different questions; choose a smaller one.")
    of_question = {question: tokens.float().mean(0) for question, tokens in states.items()}
    # of variance 1 in the mean, like the principal components
    of_question = {text: nn.functional.normalize(mean, dim=0) * len(mean) ** 0.5 for text, mean in of_question.items()}
    return {
        split: torch.stack([torch.cat([of_image[row["image"]], of_question[row["question"]]]) for row in rows])
        for split, rows in dataset.items()
    }


def principal_components(values: torch.Tensor, fitted: list[bool]) -> torch.Tensor:
    """Rows ``(N, D)`` as their first principal components ``(N, at most COMPONENTS)``.

    Args:
        values: the rows.
        fitted: whether the components are fitted on a row, for each. Of these rows they have variance 1 in the mean.
    """
    sample = values[torch.tensor(fitted)]
    _, _, directions = torch.linalg.svd(sample - sample.mean(0), full_matrices=False)
    projected = (values - sample.mean(0)) @ directions[:COMPONENTS].T
    return projected / projected[torch.tensor(fitted)].square().mean().sqrt()


def train_mlp(features: torch.Tensor, labels: torch.Tensor, num_labels: int, seed: int) -> nn.Module:
    """An MLP trained on features ``(N, D)`` to give the labels ``(N,)``."""
    torch.manual_seed(seed)
    mlp = nn.Sequential(
        nn.Linear(features.shape[1], WIDTH),
        nn.GELU(),
        nn.Dropout(DROPOUT),
        nn.Linear(WIDTH, WIDTH),
        nn.GELU(),
        nn.Dropout(DROPOUT),
        nn.Linear(WIDTH, num_labels),
    )
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(features) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(features)).split(BATCH_SIZE):
            logits = mlp(features[chosen])
            nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=LABEL_SMOOTHING).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return mlp.eval()


def answer(mlp: nn.Module, features: torch.Tensor, id2label: Mapping[int, str]) -> list[str]:
    """The most probable answer to each row of features ``(N, D)``."""
    with torch.no_grad():
        return [id2label[int(label)] for label in mlp(features).argmax(-1)]


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: the data set has no training or no validation rows, or too many different questions.
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.plain_baseline", description="An MLP over frozen features, on validation rows."
    )
    parser.add_argument("--dataset", default="phantom", help="as for train.py")
    parser.add_argument("--box_questions", action="store_true", help="also train on the questions that boxes answer")
    options = parser.parse_args(argv)

    dataset = load_splits(options.dataset, "train", "validation")
    args = ViltTrainingArguments(output_dir="output/benchmark", model_name_or_path="starter", fp16=False, use_cpu=True)
    model, processor = build_model(args, dataset)
    if options.box_questions:
        dataset["train"] = add_box_questions(dataset["train"])
    features = frozen_features(model.eval(), processor, dataset)
    answers, rows = dataset["train"]["answer"], dataset["validation"]
    label_of = labels_of(answers, model.config.label2id)
    labels = torch.tensor([label_of[text] for text in answers])
    print(f"{len(labels):,} training questions, {len(rows):,} validation questions")

    figures = []
    for seed in SEEDS:
        start = time.process_time()
        mlp = train_mlp(features["train"], labels, model.config.num_labels, seed)
        seconds = time.process_time() - start
        scores = 100 * all_scores(rows, answer(mlp, features["validation"], model.config.id2label))
        exact_match, f1 = (mean_with_interval(scores[:, column], rows["image_id"]) for column in (0, 1))
        figures.append((exact_match[0], f1[0]))
        print(f"seed {seed}: EM {interval_text(exact_match)}, F1 {interval_text(f1)}, {seconds:.0f} processor seconds")
    for name, values in zip(("EM", "F1"), zip(*figures, strict=True), strict=True):
        print(f"{name}, mean and standard deviation: {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}")


if __name__ == "__main__":
    run_command(main, logging.WARNING)
