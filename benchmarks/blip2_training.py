"""BLIP-2 training and evaluation: this project against the plain recipe, on the same rows in the same order.

    python -m benchmarks.blip2_training --dataset path/to/SLAKE

The model has the proportions of blip2-opt-2.7b, scaled to a laptop: per question the vision encoder, the Q-Former and
the language model cost 0.51, 0.04 and 0.55 TFLOP there (forward, and backward but for the frozen encoder), and the
vocabulary is a twentieth of the language model. Weights are random and equal on both sides.

Plain is what public notebooks do: the image encoded for each of its questions at every step, one question a sequence,
padded to the longest of the data set. Each variant runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import logging
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.utils.flop_counter import FlopCounterMode
from transformers import Blip2Config, Blip2Processor, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from modeling.blip2.adapter import LORA_TARGETS
from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.training.arguments import cpu_has_bf16
from processing.collators import Blip2Collator
from processing.data import load_vqa_dataset
from processing.errors import run_command
from processing.sampling import ImageGroupedSampler

PROMPT = "Question: {} Answer:"
VOCABULARY = 5400
CONFIG: dict[str, Any] = {
    "vision_config": {
        **{"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 10, "num_attention_heads": 8},
        **{"image_size": 224, "patch_size": 14},
    },
    "qformer_config": {
        **{"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4},
        **{"vocab_size": 10, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    },
    "text_config": {
        **{"model_type": "opt", "vocab_size": VOCABULARY, "hidden_size": 768, "word_embed_proj_dim": 768},
        **{"ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "dropout": 0.0},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1},
    },
    "num_query_tokens": 32,
    "image_token_index": VOCABULARY - 1,
}
GENERATE = {"max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": 1}


@dataclass
class Result:
    """What one variant measured; times in seconds."""

    losses: list[float] = field(default_factory=list)
    total: float = 0.0  # of the timed steps
    outside: float = 0.0  # of it spent outside forward and backward
    flops: float = 0.0  # of the first step, forward and backward
    peak_memory: float = 0.0  # bytes above the process before the model
    evaluation: float = 0.0
    answers: list[list[int]] = field(default_factory=list)
    features: float = 0.0  # once per image, before training


def make_processor(texts: list[str]) -> Blip2Processor:
    """A byte-level tokenizer of the data set's words, with OPT's start token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "</s>", "padding_side": "left"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    return Blip2Processor(BlipImageProcessorPil(size={"height": 224, "width": 224}), fast, 32)


class Plain:
    """The public recipe."""

    model_class = transformers.Blip2ForConditionalGeneration

    def __init__(self, collator: Blip2Collator, model: Any, rows: list[dict]) -> None:
        self.collator, self.model = collator, model
        lengths = [len(self.ids(row)[0]) + len(collator.answer_ids(row["answer"])) for row in rows]
        self.length = max(lengths)

    def ids(self, row: dict) -> tuple[list[int], list[int]]:
        """Image places and prompt, and the answer."""
        prompt = self.collator.tokenizer(PROMPT.replace("{}", row["question"]))["input_ids"]
        return [VOCABULARY - 1] * 32 + prompt, self.collator.answer_ids(row["answer"])

    def pixels(self, rows: list[dict]) -> torch.Tensor:
        """Pixels of each row's image."""
        images = [self.collator.images.resized[row["image"]] for row in rows]
        return self.collator.processor.image_processor(images, do_resize=False, return_tensors="pt")["pixel_values"]

    def batch(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """A training batch."""
        ids, labels = [], []
        for row in rows:
            prompt, answer = self.ids(row)
            fill = self.length - len(prompt) - len(answer)
            ids.append(prompt + answer + [0] * fill)
            labels.append([-100] * len(prompt) + answer + [-100] * fill)
        input_ids = torch.tensor(ids)
        mask = (torch.tensor(labels) != -100) | (input_ids != 0)
        inputs = {"input_ids": input_ids, "attention_mask": mask.long(), "labels": torch.tensor(labels)}
        return {"pixel_values": self.pixels(rows), **inputs}

    def generate(self, rows: list[dict]) -> list[list[int]]:
        """Answers by the stock class, prompts padded on the left."""
        prompts = [self.ids(row)[0] for row in rows]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        inputs = {"pixel_values": self.pixels(rows), "input_ids": ids, "attention_mask": mask}
        return self.model.generate(**inputs, do_sample=False, **GENERATE)[:, longest:].tolist()


class Project:
    """This project: kept features, shared prefixes."""

    model_class = Blip2ForQuestionAnswering

    def __init__(self, collator: Blip2Collator, model: Any, rows: list[dict]) -> None:
        self.collator, self.model = collator, model
        base = model.get_base_model()
        self.features: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for image in dict.fromkeys(row["image"] for row in rows):
                pixels = collator.processor.image_processor(
                    [collator.images.resized[image]], do_resize=False, return_tensors="pt"
                )["pixel_values"]
                self.features[image] = base.vision_model(pixels).last_hidden_state[0].half()
        base.vision_model = None
        collator.images.features = self.features

    def batch(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """A training batch."""
        return self.collator(rows)

    def generate(self, rows: list[dict]) -> list[list[int]]:
        """Answers; each image is read once."""
        batch = self.collator.prompts(rows)
        batch.pop("row")
        return self.model.get_base_model().generate(**batch, **GENERATE)[0].tolist()


VARIANTS = {"plain": Plain, "project": Project}


def measure(variant: str, rows: list[dict], steps: int, batch_size: int, bf16: bool, threads: int) -> Result:
    """Trains and evaluates one variant in this process."""
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    result = Result()
    processor = make_processor([text for row in rows for text in (row["question"], row["answer"])])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    torch.manual_seed(0)
    config = Blip2Config(**CONFIG)
    model = VARIANTS[variant].model_class(config)
    torch.nn.init.normal_(model.query_tokens)
    for part in (model.vision_model, model.qformer, model.language_projection):
        for weight in (p for p in part.parameters() if p.ndim == 2):
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)  # so that answers depend on the image
    lora = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, target_modules=".*" + LORA_TARGETS["attention"])
    model = get_peft_model(model, lora).train()
    start = time.perf_counter()
    collator = Blip2Collator(processor, PROMPT, 16, decoder_only=True)
    side = VARIANTS[variant](collator, model, rows)
    result.features = time.perf_counter() - start
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)

    for step in range(steps):
        start = time.perf_counter()
        batch = side.batch(rows[step * batch_size : (step + 1) * batch_size])
        ready = time.perf_counter()
        counter = FlopCounterMode(display=False)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            if step == 0:
                with counter:
                    loss = model(**batch).loss
                    loss.backward()
            else:
                loss = model(**batch).loss
                loss.backward()
        computed = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        result.losses.append(loss.item())
        end = time.perf_counter()
        if step == 0:  # warms up, and is counted instead of timed
            result.flops = counter.get_total_flops()
        else:
            result.total += end - start
            result.outside += end - computed + ready - start
    result.peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before

    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        side.generate(rows[:batch_size])
        start = time.perf_counter()
        for at in range(0, steps * batch_size, batch_size):
            answers = side.generate(rows[at : at + batch_size])
            result.answers += [answer + [0] * (GENERATE["max_new_tokens"] - len(answer)) for answer in answers]
        result.evaluation = time.perf_counter() - start
    return result


def minimum_flops(rows: list[dict], threads: int) -> float:
    """FLOPs of a step without any padding: every image alone, its questions in one sequence, features at hand."""
    torch.set_num_threads(threads)
    processor = make_processor([text for row in rows for text in (row["question"], row["answer"])])
    model = Blip2ForQuestionAnswering(Blip2Config(**CONFIG))
    lora = LoraConfig(r=8, lora_alpha=32, target_modules=".*" + LORA_TARGETS["attention"])
    side = Project(Blip2Collator(processor, PROMPT, len(rows), decoder_only=True), get_peft_model(model, lora), rows)
    total = 0
    for image in dict.fromkeys(row["image"] for row in rows):
        with FlopCounterMode(display=False) as counter:
            side.model(**side.batch([row for row in rows if row["image"] == image])).loss.backward()
        total += counter.get_total_flops()
    return total


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of BLIP-2 training against the plain recipe.")
    parser.add_argument("--dataset", default="phantom", help="as train.py's")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps; the first is not timed")
    parser.add_argument("--batch_size", type=int, default=64, help="questions a step")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast instead of fp32")
    options = parser.parse_args(argv)
    if options.bf16 and not cpu_has_bf16():
        parser.error("--bf16: this CPU has no bf16 matrix units.")

    train = load_vqa_dataset(options.dataset)["train"]
    wanted = options.steps * options.batch_size
    order = list(ImageGroupedSampler(train["image"], 16, seed=0))[:wanted]
    if len(order) < wanted:
        parser.error(f"--steps {options.steps}: the data set has too few rows.")
    rows = [{name: train[i][name] for name in ("row", "image", "question", "answer")} for i in order]

    def apart(function: Any, *arguments: Any) -> Any:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *arguments, torch.get_num_threads()).result()

    results = {name: apart(measure, name, rows, options.steps, options.batch_size, options.bf16) for name in VARIANTS}
    plain, project = results["plain"], results["project"]
    minimum = apart(minimum_flops, rows[: options.batch_size])
    images = len({row["image"] for row in rows})
    precision = "bf16 autocast" if options.bf16 else "fp32"
    print(f"{wanted} questions over {images} images, {options.batch_size} a step, {precision}")
    print(f"{'':38}{'plain':>10}{'project':>10}{'ratio':>8}")

    def line(name: str, a: float, b: float, form: str, ratio: float | None = None) -> None:
        print(f"{name:38}{a:>10{form}}{b:>10{form}}" + (f"{ratio:>8.2f}" if ratio is not None else ""))

    timed = wanted - options.batch_size
    line(
        "training, questions a second", timed / plain.total, timed / project.total, ".2f", plain.total / project.total
    )
    line("peak memory, GB", plain.peak_memory / 1e9, project.peak_memory / 1e9, ".2f",
         project.peak_memory / plain.peak_memory)  # fmt: skip
    line("outside forward and backward, %", 100 * plain.outside / plain.total,
         100 * project.outside / project.total, ".1f")  # fmt: skip
    scale = options.batch_size * 1e9
    line("GFLOP a question", plain.flops / scale, project.flops / scale, ".1f", plain.flops / project.flops)
    line("over the minimum", plain.flops / minimum, project.flops / minimum, ".2f")
    line("evaluation, questions a second", wanted / plain.evaluation, wanted / project.evaluation, ".2f",
         plain.evaluation / project.evaluation)  # fmt: skip
    difference = max(abs(a / b - 1) for a, b in zip(project.losses, plain.losses, strict=True))
    same = sum(a == b for a, b in zip(project.answers, plain.answers, strict=True))
    print(f"largest relative difference of a loss: {difference:.1e}; same answers: {same} of {wanted}")
    print(f"features computed once, in {project.features / images:.2f} s an image")
    for step, (a, b) in enumerate(zip(plain.losses, project.losses, strict=True), 1):
        print(f"loss of step {step}: {a:.6f} {b:.6f}")


if __name__ == "__main__":
    run_command(main, logging.WARNING)
