"""Training ViLT-B/32: this project against the stock class trained plainly, on the same rows in the same order.

    python -m benchmarks.vilt_training --dataset path/to/SLAKE

Plain is what public notebooks do: `transformers.ViltForQuestionAnswering` in fp32, every image decoded and resized for
each of its questions, questions padded to 40 tokens, AdamW as it comes. Weights are random and equal on both sides, so
that no download is needed and the losses of each step can be compared.
"""

import argparse
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
import transformers
from transformers import ViltConfig, ViltProcessor
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from benchmarks.comparison import Batch, Comparison, plain_batch
from benchmarks.options import at_least, load_splits
from modeling.parts.vocabulary import build_vocabulary, labels_of
from modeling.training.precision import cpu_has_bf16
from modeling.vilt.network import ViltForQuestionAnswering
from modeling.vilt.scratch import build_tokenizer
from processing.collators import ViltCollator
from processing.errors import run_command


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: the data set can't be used or has no training rows.
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.vilt_training", description="Speed of ViLT training against the plain recipe."
    )
    parser.add_argument("--dataset", default="phantom", help="as for train.py")
    parser.add_argument(
        "--steps", type=at_least(2), default=6, help="optimizer steps of each variant; the first is not timed"
    )
    parser.add_argument("--batch_size", type=at_least(1), default=8, help="questions a step")
    options = parser.parse_args(argv)

    rows = load_splits(options.dataset, "train")["train"]
    answers = build_vocabulary(Counter(rows["answer"]))
    label_of = labels_of(rows["answer"], {answer: i for i, answer in enumerate(answers)})
    processor = ViltProcessor(ViltImageProcessorPil(), build_tokenizer(rows["question"]))
    config = ViltConfig(vocab_size=len(processor.tokenizer), num_labels=len(answers), pad_token_id=0)
    generator = torch.Generator().manual_seed(0)
    # A few images with all their questions, as an epoch meets each image eleven times.
    wanted = options.steps * options.batch_size
    pool = torch.randperm(min(len(rows), wanted), generator=generator)
    order = [int(pool[i % len(pool)]) for i in range(wanted)]
    batches = [[rows[i] for i in order[at : at + options.batch_size]] for at in range(0, wanted, options.batch_size)]
    collator = ViltCollator(processor, label_of, len(answers), 40)

    torch.manual_seed(0)
    stock = transformers.ViltForQuestionAnswering
    weights = stock(config).state_dict()
    comparison = Comparison(options.batch_size)

    def measure(name: str, model_class: type, collate: Callable[[list[dict]], Batch], **how: bool) -> None:
        model = model_class(config)
        model.load_state_dict(weights)
        comparison.measure(name, model, (collate(batch) for batch in batches), **how)

    measure("plain: stock class, fp32", stock, partial(plain_batch, processor, label_of, len(answers)), fused=False)
    measure("this project, fp32", ViltForQuestionAnswering, collator)
    if cpu_has_bf16():
        measure("this project, bf16 autocast", ViltForQuestionAnswering, collator, bf16=True)


if __name__ == "__main__":
    run_command(main, logging.WARNING)
