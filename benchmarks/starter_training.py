"""Training the ViLT starter: this project against the same model trained plainly, on the same rows in the same order.

    python -m benchmarks.starter_training --dataset path/to/SLAKE

Plain is one image a question: decoded, resized and seen by the whole image network at each step. Questions are padded
to 40 tokens and MiniLM runs at each step, the network's blocks are as their package has them, in fp32. Images are not
moved and words not hidden, so that the losses of each step can be compared.
"""

import argparse
import logging
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import BatchSampler

from benchmarks.vilt_training import Batch, Comparison, plain_batch
from modeling.parts.efficientnet import TrainedEfficientNet
from modeling.training.arguments import ViltTrainingArguments, cpu_has_bf16
from modeling.vilt.checkpoints import build_model
from modeling.vilt.family import build_trainer
from processing.data import load_vqa_dataset
from processing.errors import run_command
from processing.sampling import ImageGroupedSampler

STILL = {"max_rotation": 0.0, "max_scaling": 0.0, "max_shift": 0.0, "word_dropout": 0.0}


class PlainEfficientNet(TrainedEfficientNet):
    """The upper half with the blocks' own forward."""

    @staticmethod
    def run_block(block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """As the package has it, in PyTorch's usual order of channels."""
        return cast(torch.Tensor, block(hidden.contiguous()))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Speed of the starter's training against plain training.")
    parser.add_argument("--dataset", default="phantom", help="as train.py's")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of each variant; the first is not timed")
    parser.add_argument("--batch_size", type=int, default=64, help="questions a step, as in the recipe")
    parser.add_argument("--questions_per_image", type=int, default=8, help="that stay together, as there")
    options = parser.parse_args(argv)

    args = ViltTrainingArguments(output_dir="output/benchmark", model_name_or_path="starter", fp16=False, use_cpu=True)
    dataset = load_vqa_dataset(options.dataset)
    torch.manual_seed(0)
    model, processor = build_model(args, dataset)
    model.config.update(STILL)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    collator = build_trainer(args, model, processor, dataset).data_collator
    rows = dataset["train"]
    order = ImageGroupedSampler(rows["image"], options.questions_per_image, seed=0)
    batches = [[rows[i] for i in b] for b in islice(BatchSampler(order, options.batch_size, True), options.steps)]

    plain = partial(plain_batch, processor, collator.label_of, collator.num_labels)
    comparison = Comparison(options.batch_size)

    def measure(name: str, upper: type, make: Callable[[list[dict]], Batch], fused: bool, bf16: bool) -> None:
        model.load_state_dict(weights)
        model.vision_top.__class__ = upper
        comparison.measure(name, model, (make(batch) for batch in batches), fused, bf16)

    measure("plain, fp32", PlainEfficientNet, plain, False, False)
    measure("this project, fp32", TrainedEfficientNet, collator, True, False)
    if cpu_has_bf16():
        measure("this project, bf16 autocast", TrainedEfficientNet, collator, True, True)


if __name__ == "__main__":
    run_command(main, logging.WARNING)
