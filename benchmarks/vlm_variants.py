"""The sides of `benchmarks.vlm_training`, over the same image-text-to-text model with random weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from modeling.vlm.images import KeptImages, VisionPart, process_image
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
    tiles=False,
    std=None,
    vocabulary=32_000,
)
QUESTIONS_PER_IMAGE = 16
GREEDY = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=[1], num_beams=1)


class Side:
    """A way to train.

    Args:
        architecture: one of `tests.support.tiny_vlms.MAKERS`.
        rows: of the whole run.
    """

    def __init__(self, architecture: str, rows: Rows, sizes: Sizes = TOY) -> None:
        texts = tuple(text for row in rows for text in (row["question"], row["answer"]))
        tiny = tiny_vlm(architecture, replace(sizes, texts=texts))
        self.processor, self.base = tiny.processor, tiny.model
        self.chat = ChatPrompts(self.processor, self.base.config.image_token_id)
        self.end: int = self.processor.tokenizer.eos_token_id
        targets = r".*\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
        path = next(name for name, part in self.base.named_modules() if part is self.base.get_decoder())
        config = LoraConfig(r=16, lora_alpha=32, target_modules=path.replace(".", r"\.") + targets)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.model = get_peft_model(self.base, config)
        self.prepare(list(dict.fromkeys(row["image"] for row in rows)))

    def prepare(self, images: list[str]) -> None:
        """What is done once, before training."""
        made = {path: process_image(self.processor, open_image(path)) for path in images}
        self.pixels = {path: pixels for path, (pixels, _) in made.items()}
        self.texts = {path: text for path, (_, text) in made.items()}

    def loss(self, rows: Rows) -> torch.Tensor:
        """The mean loss of the answer tokens of a batch."""
        raise NotImplementedError

    def generate(self, rows: Rows) -> torch.Tensor:
        """The tokens of the answers, ``(B, T)``."""
        raise NotImplementedError

    def ids(self, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """Prompt and answer."""
        prompt = self.chat(row["question"], self.texts[row["image"]])
        return prompt.trunk + prompt.rest, self.chat.answer_ids(row["answer"], self.end)

    def stock(self, sequences: list[list[int]], images: list[str], left: bool = False) -> dict[str, Any]:
        """What the model of transformers takes of sequences, each with an image."""
        ids = padded(sequences, 0, left=left)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": padded([[1] * len(sequence) for sequence in sequences], 0, left=left),
        }
        if hasattr(self.base.model, "get_rope_index"):
            inputs["mm_token_type_ids"] = (ids == self.base.config.image_token_id).long()
        if self.base.config.model_type == "gemma3":
            inputs["token_type_ids"] = (ids == self.base.config.image_token_id).long()
        return inputs | self.of_images(images)

    def of_images(self, images: list[str]) -> dict[str, Any]:
        """The pixels of each sequence's image."""
        made = [self.pixels[path] for path in images]
        return {name: torch.cat([own[name] for own in made]) for name in made[0]}


class Plain(Side):
    """One question a sequence, its image encoded each time, logits of the whole sequence."""

    def loss(self, rows: Rows) -> torch.Tensor:
        """As `Side` says."""
        pairs = [self.ids(row) for row in rows]
        labels = padded([[-100] * len(prompt) + answer for prompt, answer in pairs], -100)
        inputs = self.stock([prompt + answer for prompt, answer in pairs], [row["image"] for row in rows])
        return self.model(**inputs, labels=labels).loss

    def generate(self, rows: Rows) -> torch.Tensor:
        """As `Side` says."""
        inputs = self.stock([self.ids(row)[0] for row in rows], [row["image"] for row in rows], left=True)
        return self.model.generate(**inputs, generation_config=GREEDY)[:, inputs["input_ids"].shape[1] :]


class Conversation(Plain):
    """The questions of an image as turns of one conversation. A later one sees the answers before: another loss."""

    def loss(self, rows: Rows) -> torch.Tensor:
        """As `Side` says."""
        turns: dict[str, tuple[list[int], list[int]]] = {}
        for row in rows:
            prompt, answer = self.ids(row)
            ids, labels = turns.setdefault(row["image"], ([], []))
            if ids:
                prompt = self.chat(row["question"], self.texts[row["image"]]).rest
            ids += prompt + answer
            labels += [-100] * len(prompt) + answer
        inputs = self.stock([ids for ids, _ in turns.values()], list(turns))
        return self.model(**inputs, labels=padded([labels for _, labels in turns.values()], -100)).loss


class Kept(Plain):
    """One question a sequence, its image's features kept, logits of the whole sequence."""

    def prepare(self, images: list[str]) -> None:
        """As `Side` says."""
        super().prepare(images)
        self.reader = PrefixReader(self.base)
        vision = VisionPart(self.base)
        self.features = {path: vision(pixels) for path, pixels in self.pixels.items()}

    def of_images(self, images: list[str]) -> dict[str, Any]:
        """As `Side` says."""
        outputs = self.reader.image_outputs([self.features[path] for path in images])
        grid = [self.pixels[path]["image_grid_thw"] for path in images if "image_grid_thw" in self.pixels[path]]
        return {"mm_encoder_outputs": outputs} | ({"image_grid_thw": torch.cat(grid)} if grid else {})


class Shared(Side):
    """This project: features kept, questions of an image in one sequence, logits of answers alone."""

    def prepare(self, images: list[str]) -> None:
        """As `Side` says."""
        kept = KeptImages(VisionPart(self.base), self.processor, 0)
        read = {path: kept.read(open_image(path)) for path in images}
        self.reader = PrefixReader(self.base)
        self.reader.take_over()
        self.collator = ChatCollator(self.chat, read, QUESTIONS_PER_IMAGE, self.end)

    def loss(self, rows: Rows) -> torch.Tensor:
        """As `Side` says."""
        return self.model(**self.collator(rows)).loss

    def generate(self, rows: Rows) -> torch.Tensor:
        """As `Side` says."""
        batch = self.collator.prompts(rows)
        del batch["row"]
        return self.reader.generate(**batch, generation_config=GREEDY)[0]


VARIANTS: dict[str, type[Side]] = {"plain": Plain, "conversation": Conversation, "kept": Kept, "project": Shared}
