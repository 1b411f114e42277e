"""Training the ViLT starter: this project against the same model trained plainly, on the same rows in the same order.

    python -m benchmarks.starter_training --dataset path/to/SLAKE

Plain is one image a question: decoded, resized and seen by the whole image network at each step, MiniLM run at each
step, and the network's blocks as their package has them, in fp32. Images are not moved and words not hidden, so that
the losses of each step can be compared.
"""

import argparse
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler

from benchmarks.vilt_training import Batch, run
from modeling.arguments import ViltTrainingArguments, cpu_has_bf16
from modeling.starter_parts import TrainedEfficientNet
from modeling.vilt import build_model, build_trainer
from processing.data import load_vqa_dataset
from processing.images import open_image
from processing.sampling import ImageGroupedSampler

STILL = {"max_rotation": 0.0, "max_scaling": 0.0, "max_shift": 0.0, "word_dropout": 0.0}


class PlainEfficientNet(TrainedEfficientNet):
    """The upper half with the blocks' own forward."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """As `TrainedEfficientNet`'s."""
        with torch.autocast(features.device.type, enabled=False):
            hidden = features.float()
            maps = {hidden.shape[-1]: hidden}
            for block in self.blocks:
                hidden = block(hidden)
                maps[hidden.shape[-1]] = hidden
            folded = [nn.functional.pixel_unshuffle(part, size // self.grid) for size, part in maps.items()]
            return (torch.cat(folded, dim=1) - self.mean) / self.std


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the starter's training against plain training.")
    parser.add_argument("--dataset", default="phantom", help="as train.py's")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of each variant; the first is not timed")
    parser.add_argument("--batch_size", type=int, default=32, help="questions a step")
    parser.add_argument("--questions_per_image", type=int, default=4, help="that stay together, as in the recipe")
    options = parser.parse_args()

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

    def plain(chosen: list[dict[str, Any]]) -> Batch:
        questions = processor.tokenizer([row["question"] for row in chosen], padding=True, return_tensors="pt")
        images = processor.image_processor([open_image(row["image"]) for row in chosen], return_tensors="pt")
        return {**questions, "pixel_values": images["pixel_values"], "labels": collator(chosen)["labels"]}

    baseline: list[tuple[float, list[float]]] = []

    def measure(name: str, upper: type, make: Callable[[list[dict]], Batch], fused: bool, bf16: bool) -> None:
        model.load_state_dict(weights)
        model.vision_top.__class__ = upper
        losses, seconds = run(model.train(), (make(batch) for batch in batches), fused, bf16)
        pace = sorted(seconds[1:])[(len(seconds) - 1) // 2]
        baseline.append((pace, losses))
        deviation = max(abs(a / b - 1) for a, b in zip(losses, baseline[0][1], strict=True))
        print(
            f"{name:34}  {options.batch_size / pace:11.2f}  {baseline[0][0] / pace:6.2f}  {deviation:12.1e}"
            f"  {losses[0]:8.3f} ... {losses[-1]:.3f}",
            flush=True,
        )

    print(f"{'':34}  questions/s   ratio  largest loss difference  loss of the first and last step")
    measure("plain, fp32", PlainEfficientNet, plain, False, False)
    measure("this project, fp32", TrainedEfficientNet, collator, True, False)
    if cpu_has_bf16():
        measure("this project, bf16 autocast", TrainedEfficientNet, collator, True, True)


if __name__ == "__main__":
    main()
