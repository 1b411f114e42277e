"""Training the ViLT starter: this project against the same model trained plainly, on the same rows in the same order.

    python -m benchmarks.starter_training --dataset path/to/SLAKE

Plain is one image a question: decoded, resized and encoded by the whole image network at each step. Questions are
padded to 40 tokens, MiniLM runs at each step, and the blocks of the network are as their package has them, in fp32.
There is no augmentation of images or questions, so that the losses of each step can be compared.
"""

import argparse
import logging
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import BatchSampler

from benchmarks.comparison import Batch, Comparison, plain_batch
from benchmarks.options import at_least, load_splits
from modeling.training.arguments import ViltTrainingArguments
from modeling.training.precision import cpu_has_bf16
from modeling.vilt.checkpoints import build_model
from modeling.vilt.trainer import build_trainer
from processing.errors import UserError, run_command
from processing.row_values import numbers_of
from processing.sampling import ImageGroupedSampler

NO_AUGMENTATION = {"max_rotation": 0.0, "max_scaling": 0.0, "max_shift": 0.0, "word_dropout": 0.0}


def run_block_of_package(block: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A block of the image network as its package computes it, in PyTorch's usual order of channels."""
    return cast(torch.Tensor, block(hidden.contiguous()))


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: the data set can't be used or has too few training rows, or a package of the starter is missing.
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.starter_training", description="Speed of the starter's training against plain training."
    )
    parser.add_argument("--dataset", default="phantom", help="as for train.py")
    parser.add_argument(
        "--steps", type=at_least(2), default=6, help="optimizer steps of each variant; the first is not timed"
    )
    parser.add_argument("--batch_size", type=at_least(1), default=64, help="questions a step, as in the recipe")
    parser.add_argument("--questions_per_image", type=at_least(1), default=8, help="that stay together, as there")
    options = parser.parse_args(argv)

    dataset = load_splits(options.dataset, "train")
    rows = dataset["train"]
    order = ImageGroupedSampler(numbers_of(rows, "image"), options.questions_per_image, seed=0)
    batches = [
        [rows[i] for i in batch] for batch in islice(BatchSampler(order, options.batch_size, True), options.steps)
    ]
    if len(batches) < options.steps:
        raise UserError(
            f"--steps {options.steps}: the {len(rows)} training rows of {options.dataset} give {len(batches)} batches "
            "only; give fewer steps or a smaller --batch_size."
        )
    args = ViltTrainingArguments(
        output_dir="output/benchmark",
        model_name_or_path="starter",
        eval_strategy="no",
        fp16=False,
        use_cpu=True,
    )
    torch.manual_seed(0)
    model, processor = build_model(args, dataset)
    model.config.update(NO_AUGMENTATION)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    collator = build_trainer(args, model, processor, dataset).data_collator
    comparison = Comparison(options.batch_size)

    def measure(name: str, collate: Callable[[list[dict]], Batch], **how: bool) -> None:
        model.load_state_dict(weights)
        comparison.measure(name, model, (collate(batch) for batch in batches), **how)

    run_block = model.vision_top.run_block
    model.vision_top.run_block = run_block_of_package
    measure("plain, fp32", partial(plain_batch, processor, collator.label_of, collator.num_labels), fused=False)
    model.vision_top.run_block = run_block
    measure("this project, fp32", collator)
    if cpu_has_bf16():
        measure("this project, bf16 autocast", collator, bf16=True)


if __name__ == "__main__":
    run_command(main, logging.WARNING)
