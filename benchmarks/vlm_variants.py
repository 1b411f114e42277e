"""The sides of `benchmarks.vlm_training`, over the same image-text-to-text model with random weights.

`benchmarks.gpu` has the plain side too, over large ones."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BatchFeature, GenerationConfig

from modeling.training.arguments import VlmTrainingArguments
from modeling.vlm.adapter import LORA_TARGETS
from modeling.vlm.images import GRID, KeptImages, VisionPart, process_image, take_vision
from modeling.vlm.network import PrefixReader
from processing.chat import ChatPrompts
from processing.chat_collator import ChatCollator
from processing.images import open_image
from processing.packing import padded
from tests.support.tiny_vlms import Sizes, tiny_vlm

Rows = Sequence[Mapping[str, Any]]
# A language model of 85 million weights beside its vocabulary, 32 million that see, 256 tokens an image.
TOY = Sizes(
    text={
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "head_dim": 64,
    },
    vision={"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 10, "num_attention_heads": 8},
    side=16,
    patch=14,
    tiles=1,
    std=None,
    vocabulary=32_000,
)
QUESTIONS_PER_IMAGE = 16
GREEDY = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=[1], num_beams=1)


def untrained(architecture: str, sizes: Sizes, rows: Rows) -> tuple[PeftModel, Any]:
    """A model of random weights with LoRA, the same at each call, and a processor that knows the words of the rows."""
    texts = tuple(text for row in rows for text in (row["question"], row["answer"]))
    tiny = tiny_vlm(architecture, replace(sizes, texts=texts))
    return add_lora(tiny.model), tiny.processor


def add_lora(model: Any, dropout: float = 0.0) -> PeftModel:
    """The model with LoRA on its language model."""
    path = next(name for name, part in model.named_modules() if part is model.get_decoder())
    layers = "|".join(LORA_TARGETS.values())
    targets = rf"{re.escape(path)}\.layers\.\d+\.({layers})"
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=dropout, target_modules=targets)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return get_peft_model(model, config)


class Side:
    """A way to train.

    Args:
        model: of `untrained`.
        processor: of the model.
        rows: of the whole run.
    """

    def __init__(self, model: PeftModel, processor: Any, rows: Rows) -> None:
        self.model, self.processor = model, processor
        self.base: Any = model.get_base_model()
        self.chat = ChatPrompts(processor, self.base.config.image_token_id, VlmTrainingArguments.prompt)
        self.end: int = processor.tokenizer.eos_token_id
        self.prepare(list(dict.fromkeys(row["image"] for row in rows)))

    def prepare(self, images: list[str]) -> None:
        """What is done once, before training."""

    def batch(self, rows: Rows) -> dict[str, Any]:
        """What the model takes to train on."""
        raise NotImplementedError

    def generate(self, rows: Rows, config: GenerationConfig = GREEDY) -> list[list[int]]:
        """The tokens of the answers."""
        raise NotImplementedError


class Plain(Side):
    """One question a sequence, its image opened and encoded each time, logits of the whole sequence."""

    def see(self, image: str) -> tuple[dict[str, torch.Tensor], str]:
        """What the model takes of an image, and the text in its place."""
        return process_image(self.processor, open_image(image))

    def batch(self, rows: Rows) -> dict[str, Any]:
        """As `Side` says."""
        seen = [self.see(row["image"]) for row in rows]
        prompts = [self.prompt(row, text) for row, (_, text) in zip(rows, seen, strict=True)]
        answers = [self.chat.answer_ids(row["answer"], self.end) for row in rows]
        pairs = list(zip(prompts, answers, strict=True))
        labels = padded([[-100] * len(prompt) + answer for prompt, answer in pairs], -100)
        return self.inputs([prompt + answer for prompt, answer in pairs], seen) | {"labels": labels}

    def prompt(self, row: Mapping[str, Any], image_text: str) -> list[int]:
        """The tokens of image and question."""
        prompt = self.chat(row["question"], image_text)
        return prompt.trunk + prompt.rest

    def inputs(self, sequences: list[list[int]], seen: Sequence[Any], left: bool = False) -> dict[str, Any]:
        """What the model of transformers takes of sequences, each with what it sees of an image."""
        ids = padded(sequences, 0, left=left)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": padded([[1] * len(sequence) for sequence in sequences], 0, left=left),
        }
        if hasattr(self.base.model, "get_rope_index"):
            inputs["mm_token_type_ids"] = (ids == self.base.config.image_token_id).long()
        if self.base.config.model_type == "gemma3":
            inputs["token_type_ids"] = (ids == self.base.config.image_token_id).long()
        return inputs | self.of_images([pixels for pixels, _ in seen])

    def of_images(self, seen: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """What the model takes of the image of each sequence."""
        return {name: torch.cat([own[name] for own in seen]) for name in seen[0]}

    def generate(self, rows: Rows, config: GenerationConfig = GREEDY) -> list[list[int]]:
        """As `Side` says."""
        seen = [self.see(row["image"]) for row in rows]
        prompts = [self.prompt(row, text) for row, (_, text) in zip(rows, seen, strict=True)]
        inputs = BatchFeature(self.inputs(prompts, seen, left=True)).to(self.model.device)
        return self.model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :].tolist()


class Conversation(Plain):
    """The questions of an image as turns of one conversation. A later one sees the answers before: another loss."""

    def batch(self, rows: Rows) -> dict[str, Any]:
        """As `Side` says."""
        seen = {image: self.see(image) for image in dict.fromkeys(row["image"] for row in rows)}
        turns: dict[str, tuple[list[int], list[int]]] = {image: ([], []) for image in seen}
        for row in rows:
            ids, labels = turns[row["image"]]
            text = seen[row["image"]][1]
            prompt = self.chat(row["question"], text).rest if ids else self.prompt(row, text)
            answer = self.chat.answer_ids(row["answer"], self.end)
            ids += prompt + answer
            labels += [-100] * len(prompt) + answer
        inputs = self.inputs([ids for ids, _ in turns.values()], list(seen.values()))
        return inputs | {"labels": padded([labels for _, labels in turns.values()], -100)}


class Kept(Plain):
    """One question a sequence, its image's features kept, logits of the whole sequence."""

    def prepare(self, images: list[str]) -> None:
        """As `Side` says."""
        self.reader = PrefixReader(self.base)
        vision = VisionPart(self.base)
        self.kept: dict[str, tuple[dict[str, torch.Tensor], str]] = {}
        for image in images:
            pixels, text = super().see(image)
            grid = {name: value for name, value in pixels.items() if name == GRID}
            self.kept[image] = grid | {"features": vision(pixels)}, text

    def see(self, image: str) -> tuple[dict[str, torch.Tensor], str]:
        """As `Plain` says."""
        return self.kept[image]

    def of_images(self, seen: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """As `Plain` says."""
        outputs = self.reader.image_outputs([own["features"] for own in seen])
        grids = [own[GRID] for own in seen if GRID in own]
        return {"mm_encoder_outputs": outputs} | ({GRID: torch.cat(grids)} if grids else {})


class Shared(Side):
    """This project: features kept, questions of an image in one sequence, logits of answers alone."""

    def prepare(self, images: list[str]) -> None:
        """As `Side` says."""
        kept = KeptImages(take_vision(self.base), self.processor, 0)
        read = {image: kept.read(open_image(image)) for image in images}
        self.reader = PrefixReader(self.base)
        self.reader.take_over()
        self.collator = ChatCollator(self.chat, read, QUESTIONS_PER_IMAGE, self.end)

    def batch(self, rows: Rows) -> dict[str, Any]:
        """As `Side` says."""
        return self.collator(rows)

    def generate(self, rows: Rows, config: GenerationConfig = GREEDY) -> list[list[int]]:
        """As `Side` says."""
        batch = self.collator.prompts(rows)
        del batch["row"]
        return self.reader.generate(**batch, generation_config=config)[0].tolist()


VARIANTS: dict[str, type[Side]] = {"plain": Plain, "conversation": Conversation, "kept": Kept, "project": Shared}
