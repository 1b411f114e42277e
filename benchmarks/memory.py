"""The memory of a GPU that training takes, counted without a GPU.

    python -m benchmarks.memory

The models are those of the published recipes in full size. Their steps run on tensors that have a shape and a type but
no values, and the bytes of every tensor are counted while it lives. It takes minutes. What is printed is a table in
Markdown, for `benchmarks/README.md`.

The count leaves out CUDA itself, what its libraries keep for their work, and gaps between tensors.
"""

import argparse
import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import nn
from transformers import Blip2Config, ViltConfig, ViltProcessor
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from benchmarks import vlm_variants
from benchmarks.blip2_variants import PROMPT, QUERY_TOKENS, add_lora, make_processor
from benchmarks.cost_model import OPT_27B
from benchmarks.gpu import IMAGE_SIZE, PHANTOMS, QUESTIONS_PER_IMAGE, TOKENS, full_size_models
from benchmarks.gpu_variants import untrained
from benchmarks.memory_counter import AsOnGpu, Batch, compute_features, count, train_steps
from benchmarks.options import at_least, load_splits
from benchmarks.published_vlms import PUBLISHED, PublishedVlm
from modeling.blip2.base import UNQUANTIZED
from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.parts.kept_features import BATCH_SIZE
from modeling.training.arguments import VlmTrainingArguments
from modeling.vilt.network import ViltForQuestionAnswering
from modeling.vilt.scratch import build_tokenizer
from modeling.vlm.images import ReadImage, process_image, take_vision
from modeling.vlm.network import PrefixReader
from modeling.vlm.trunks import Trunks
from processing.chat import ChatPrompts
from processing.chat_collator import ChatCollator
from processing.collators import Blip2Collator, ViltCollator
from processing.errors import run_command
from processing.phantom.files import write_phantoms
from processing.row_values import numbers_of
from processing.sampling import ImageGroupedSampler
from tests.support.tiny_vlms import MAKERS

NAMES = ("ViLT-B/32", "blip2-opt-2.7b", "blip2-opt-6.7b", "blip2-flan-t5-xl", *PUBLISHED)
OPT_67B = OPT_27B | {"hidden_size": 4096, "word_embed_proj_dim": 4096, "ffn_dim": 16384}  # facebook/opt-6.7b
VLM_QUESTIONS, VLM_DROPOUT = 8, 0.05  # questions that stay together, and LoRA's dropout, in the recipes
LORA_DROPOUT = 0.1  # of recipes/blip2_slake.yaml
BYTES_4BIT = 0.5 + 4 / 64  # of a weight in nf4: itself, and an FP32 scale for each 64


class WithoutValues(PrefixReader):
    """Reads no values of its masks and positions: those that it reads are as large, and the image's features count."""

    def answer_states(
        self, trunks: Trunks, input_ids: torch.Tensor, depths: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """As `PrefixReader` says, all zeros."""
        ids = torch.cat([trunks.ids, input_ids], dim=1)
        order = torch.zeros_like(ids)
        seen = torch.ones(*ids.shape, ids.shape[1], dtype=torch.bool)
        hidden = self.model.get_decoder()(
            inputs_embeds=self.model.get_input_embeddings()(ids).clone(),
            attention_mask=self._masks(seen, order, order),
            position_ids=order.expand(3, -1, -1) if self.has_grids else order,
            use_cache=False,
        ).last_hidden_state
        return hidden[:, trunks.ids.shape[1] :]


def build_vlm(
    published: PublishedVlm, dtype: torch.dtype, rows: list[dict]
) -> tuple[nn.Module, None, Callable[[list[dict]], Batch]]:
    """As `build`. What sees is not on the GPU in training, and takes less than what trains before."""
    texts = tuple(row[name] for row in rows for name in ("question", "answer"))
    config, processor = MAKERS[published.architecture](replace(published.sizes, texts=texts))
    with no_init_weights():
        model = untrained(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)], config, dtype, torch.device("meta"))
    take_vision(model)
    peft_model = vlm_variants.add_lora(model, VLM_DROPOUT).train()
    WithoutValues(model).take_over()
    model.evidence = None
    _, text = process_image(processor, Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE)))
    chat = ChatPrompts(processor, config.image_token_id, VlmTrainingArguments.prompt)
    tokens = chat("", text).trunk.count(config.image_token_id)
    levels = 1 + len(getattr(config.vision_config, "deepstack_visual_indexes", ()))
    features = torch.zeros(levels, tokens, config.get_text_config().hidden_size, dtype=dtype)
    images = defaultdict(lambda: ReadImage(text, {"image_features": features}))
    return peft_model, None, ChatCollator(chat, images, VLM_QUESTIONS, processor.tokenizer.eos_token_id)


def published_models() -> dict[str, tuple[Any, torch.dtype]]:
    """The configurations of the published recipes' models, with dropout, and the precision that they train in."""
    models: dict[str, Any] = full_size_models()
    big = Blip2Config(text_config=OPT_67B | TOKENS, image_token_index=models["blip2-opt-2.7b"].image_token_index)
    models["blip2-opt-6.7b"] = big
    for config in models.values():
        if isinstance(config, Blip2Config):
            config.qformer_config.hidden_dropout_prob = config.qformer_config.attention_probs_dropout_prob = 0.1
    in_bf16 = ("blip2-flan-t5-xl", *PUBLISHED)
    return {name: (models[name], torch.bfloat16 if name in in_bf16 else torch.float16) for name in NAMES}


def build(
    config: Any, dtype: torch.dtype, rows: list[dict]
) -> tuple[nn.Module, nn.Module | None, Callable[[list[dict]], Batch]]:
    """What trains, what computes features before, and what makes batches. The models are on the meta device.

    Args:
        dtype: of training; frozen weights have it too.
        rows: for the words of the tokenizer.
    """
    meta = torch.device("meta")
    if isinstance(config, PublishedVlm):
        return build_vlm(config, dtype, rows)
    if isinstance(config, ViltConfig):
        side = config.image_size
        image_processor = ViltImageProcessorPil(size={"shortest_edge": side}, size_divisor=config.patch_size)
        tokenizer = build_tokenizer([row["question"] for row in rows], config.max_position_embeddings)
        processor = ViltProcessor(image_processor, tokenizer)
        patch = np.zeros((3, config.patch_size, config.patch_size), np.uint8)
        images = defaultdict(lambda: patch)  # takes no time, and is square like those that replace it
        collator = ViltCollator(processor, {}, config.num_labels, config.max_position_embeddings, images=images)

        def collate(questions: list[dict]) -> Batch:
            pixels = torch.zeros(len(questions), 3, side, side)
            return collator(questions) | {"pixel_values": pixels, "pixel_mask": torch.ones_like(pixels[:, 0]).long()}

        with no_init_weights():
            return untrained(ViltForQuestionAnswering, config, torch.float32, meta).train(), None, collate
    decoder_only = config.use_decoder_only_language_model
    processor = make_processor(rows, config.vision_config.image_size, decoder_only)
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1
    feature = torch.zeros(patches, config.vision_config.hidden_size, dtype=torch.float16)
    with no_init_weights(), meta:
        model = untrained(Blip2ForQuestionAnswering, config, dtype, meta)
        vision = model.take_frozen_vision().eval()
        model = add_lora(model, LORA_DROPOUT).train()
    features = defaultdict(lambda: feature)
    return model, vision, Blip2Collator(processor, PROMPT, QUESTIONS_PER_IMAGE, decoder_only, features)


def quantize(model: nn.Module) -> int:
    """Lets frozen layers return what those of bitsandbytes do, and says how many bytes they take less in 4 bit.

    A layer gives back the type that it gets. In the backward pass it makes its whole matrix for a moment; the largest
    is subtracted from what is saved.
    """
    saved, largest = 0.0, 0
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and not any(part in name for part in UNQUANTIZED):
            layer.register_forward_hook(lambda _, args, output: output.to(args[0].dtype))
            size = layer.weight.numel()
            saved += size * (layer.weight.element_size() - BYTES_4BIT)
            largest = max(largest, size * layer.weight.element_size())
    return int(saved) - largest


def count_model(
    config: Any, dtype: torch.dtype, rows: list[dict], batch_sizes: list[int]
) -> dict[str, list[int | None]]:
    """Bytes by precision: while features of images are computed (None where they are not), then of each batch size."""
    model, vision, collate = build(config, dtype, rows)
    largest = []
    for size in batch_sizes:
        batches = (collate(rows[start : start + size]) for start in range(0, len(rows), size))
        largest.append(max(batches, key=_tokens))
    precision = {torch.float16: "FP16", torch.bfloat16: "bf16", torch.float32: "FP32"}[dtype]
    peaks = [count(train_steps, model, batch, dtype, AsOnGpu()) for batch in largest]
    if isinstance(config, ViltConfig):
        return {precision: [None, *peaks]}
    if vision is None:
        saved = quantize(model)
        peaks_in_4bit = [count(train_steps, model, batch, dtype, AsOnGpu()) - saved for batch in largest]
        return {precision: [None, *peaks], "4bit": [None, *peaks_in_4bit]}
    pixels = {"pixel_values": torch.zeros(BATCH_SIZE, 3, *[config.vision_config.image_size] * 2)}
    features = count(compute_features, vision, pixels, torch.float32, AsOnGpu())
    saved, saved_of_vision = quantize(model), quantize(vision)
    peaks_in_4bit = [count(train_steps, model, batch, dtype, AsOnGpu()) - saved for batch in largest]
    features_in_4bit = count(compute_features, vision, pixels, torch.float32, AsOnGpu()) - saved_of_vision
    return {precision: [features, *peaks], "4bit": [features_in_4bit, *peaks_in_4bit]}


def _tokens(batch: Batch) -> int:
    rows, length = batch["input_ids"].shape
    return rows * (length + (batch["trunk_ids"].shape[1] if "trunk_ids" in batch else QUERY_TOKENS))


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: the data set can't be used.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.memory", description="Memory on a GPU, counted.")
    parser.add_argument("--dataset", help="as for train.py; by default generated images")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES, help="which to count")
    parser.add_argument("--batch_sizes", nargs="+", type=at_least(1), default=[64, 32, 16, 8], help="questions a step")
    options = parser.parse_args(argv)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        dataset = options.dataset or str(write_phantoms(f"{folder}/phantoms", PHANTOMS, image_size=96))
        rows = load_splits(dataset, "train")["train"]
        order = ImageGroupedSampler(numbers_of(rows, "image"), QUESTIONS_PER_IMAGE, seed=0)
        rows = list(rows.select(list(order)))
    print(f"| GB | features | {' | '.join(f'batch {size}' for size in options.batch_sizes)} |")
    print("|---" * (len(options.batch_sizes) + 2) + "|")
    for name, (config, dtype) in published_models().items():
        if name in options.models:
            for precision, peaks in count_model(config, dtype, rows, options.batch_sizes).items():
                cells = ["-" if peak is None else f"{peak / 1e9:.1f}" for peak in peaks]
                print(f"| {name}, {precision} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run_command(main, logging.WARNING)
