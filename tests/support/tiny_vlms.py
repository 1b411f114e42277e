"""Untrained models of each architecture of the family vlm, with processors of their own: from configs alone."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from modeling.vlm.base import still_images

# The roles of ChatML; IMAGE is the placeholder.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Sizes:
    """How large a model is: tiny, if nothing else is said.

    Attributes:
        text: of the config of the language model.
        vision: of the config of what sees.
        side: tokens on a side of an image, or of a tile.
        merged: patches on a side of a token; LLaVA merges none.
        patch: pixels on a side of a patch.
        tiles: at most so many on a side of an image, where the architecture has them; 1 for the image as a whole.
        std: of new weights; None for those that the model would draw itself.
        texts: what the tokenizer learns its words from; without them each byte is a token.
        vocabulary: number of tokens that the language model knows; by default those of the tokenizer.
    """

    text: dict[str, Any] = field(
        default_factory=lambda: {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
        }
    )
    vision: dict[str, Any] = field(
        default_factory=lambda: {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
    )
    side: int = 2
    merged: int = 2
    patch: int = 8
    tiles: int = 2
    std: float | None = 0.2  # wider than a new model's, or the image would hardly be seen
    texts: tuple[str, ...] = ()
    vocabulary: int | None = None

    def text_config(self, tokenizer: Any, **own: Any) -> dict[str, Any]:
        """Of the language model; `own` is of the architecture where `text` doesn't say otherwise."""
        return {"max_position_embeddings": 8192, "vocab_size": self.vocabulary or len(tokenizer), **own, **self.text}

    @property
    def pixels(self) -> int:
        """On a side of a tile."""
        return self.side * self.merged * self.patch

    def vision_config(self, **own: Any) -> dict[str, Any]:
        """Of what sees."""
        return {**self.vision, "image_size": self.pixels, "patch_size": self.patch, **own}


TINY = Sizes()


def tokenizer(sizes: Sizes, *specials: str, **named: str) -> PreTrainedTokenizerFast:
    """With special tokens, some of them with a name, such as ``image_token``."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    learned: Iterable[str] = sizes.texts
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<pad>", "<|im_end|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(learned, trainer)
    tokens = {"pad_token": "<pad>", "eos_token": "<|im_end|>", "extra_special_tokens": named}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *specials]})
    return made


def _template(placeholder: str) -> str:
    return TEMPLATE.replace("IMAGE", placeholder)


def _square(pixels: int) -> dict[str, int]:
    return {"height": pixels, "width": pixels}


def _idefics(name: str, sizes: Sizes) -> tuple[Any, Any]:
    numbers = range(1, sizes.tiles + 1)
    tags = [f"<row_{row}_col_{column}>" for row in numbers for column in numbers]
    text = tokenizer(
        sizes,
        *tags,
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    pixels = sizes.pixels
    edges = {"size": {"longest_edge": sizes.tiles * pixels}, "max_image_size": {"longest_edge": pixels}}
    kind = "SmolVLM" if name == "smolvlm" else "Idefics3"
    images = {"smolvlm": SmolVLMImageProcessorPil, "idefics3": Idefics3ImageProcessorPil}[name]
    parts = {"video_processor": None} if name == "smolvlm" else {}
    processor = still_images(getattr(transformers, f"{kind}Processor"))(
        images(**edges, do_image_splitting=sizes.tiles > 1),
        text,
        image_seq_len=sizes.side**2,
        chat_template=_template("<image>"),
        **parts,
    )
    config = getattr(transformers, f"{kind}Config")(
        text_config=sizes.text_config(text, model_type="llama", pad_token_id=0),
        vision_config=sizes.vision_config(),
        image_token_id=text.convert_tokens_to_ids("<image>"),
        scale_factor=sizes.merged,
    )
    return config, processor


def _llava(sizes: Sizes) -> tuple[Any, Any]:
    sizes = replace(sizes, merged=1)
    text = tokenizer(sizes, image_token="<image>")
    pixels = sizes.pixels
    processor = still_images(transformers.LlavaProcessor)(
        CLIPImageProcessorPil(size={"shortest_edge": pixels}, crop_size=_square(pixels)),
        text,
        patch_size=sizes.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>\n"),
    )
    config = transformers.LlavaConfig(
        text_config=sizes.text_config(text, model_type="llama"),
        vision_config=sizes.vision_config(model_type="clip_vision_model", projection_dim=24),
        image_token_index=text.convert_tokens_to_ids("<image>"),
    )
    return config, processor


def _llava_onevision(sizes: Sizes) -> tuple[Any, Any]:
    sizes = replace(sizes, merged=1)
    text = tokenizer(sizes, image_token="<image>", video_token="<video>")
    pixels = sizes.pixels
    sides = range(1, sizes.tiles + 1)
    grids = [[rows * pixels, columns * pixels] for rows in sides for columns in sides]
    processor = still_images(transformers.LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil(size=_square(pixels), image_grid_pinpoints=grids),
        text,
        None,
        num_image_tokens=sizes.side**2,
        vision_feature_select_strategy="full",
        chat_template=_template("<image>"),
    )
    config = transformers.LlavaOnevisionConfig(
        text_config=sizes.text_config(text, model_type="qwen2"),
        vision_config=sizes.vision_config(model_type="siglip_vision_model", vision_use_head=False),
        image_token_index=text.convert_tokens_to_ids("<image>"),
        video_token_index=text.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
    )
    return config, processor


def _internvl(sizes: Sizes) -> tuple[Any, Any]:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    text = tokenizer(sizes, **names, video_token="<video>")
    pixels = sizes.pixels
    processor = still_images(transformers.InternVLProcessor)(
        GotOcr2ImageProcessorPil(size=_square(pixels), crop_to_patches=sizes.tiles > 1, max_patches=sizes.tiles**2),
        text,
        None,
        image_seq_length=sizes.side**2,
        chat_template=_template("<IMG_CONTEXT>\n"),
    )
    config = transformers.InternVLConfig(
        text_config=sizes.text_config(text, model_type="qwen2"),
        vision_config={**sizes.vision, "image_size": [pixels, pixels], "patch_size": [sizes.patch, sizes.patch]},
        image_token_id=text.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=sizes.side**2,
    )
    return config, processor


def _gemma3(sizes: Sizes) -> tuple[Any, Any]:
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    text = tokenizer(sizes, **names)
    processor = still_images(transformers.Gemma3Processor)(
        Gemma3ImageProcessorPil(size=_square(sizes.pixels)),
        text,
        image_seq_length=sizes.side**2,
        chat_template=_template("<start_of_image>"),
    )
    depth = sizes.text["num_hidden_layers"]
    layers = ["full_attention" if layer % 3 == 1 else "sliding_attention" for layer in range(depth)]
    window = 5 * sizes.side**2 + 4  # beyond which an image lies before the end of a long question
    config = transformers.Gemma3Config(
        text_config=sizes.text_config(text, sliding_window=window, layer_types=layers),
        vision_config=sizes.vision_config(vision_use_head=False),
        mm_tokens_per_image=sizes.side**2,
        **{f"{name}_index": text.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    return config, processor


def _qwen3_5(sizes: Sizes) -> tuple[Any, Any]:
    """Two of its three layers are recurrent."""
    config, processor = _qwen("qwen3_vl", sizes)
    text = config.text_config
    linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
    layers = ["linear_attention", "full_attention", "linear_attention"]
    own = {**sizes.text, "vocab_size": text.vocab_size, "rope_parameters": text.rope_parameters, "layer_types": layers}
    vision = config.vision_config.to_dict()
    del vision["model_type"], vision["deepstack_visual_indexes"]
    tokens = {name: value for name, value in vars(config).items() if name.endswith("_token_id")}
    made = transformers.Qwen3_5Config(
        text_config=own | linear | {"linear_num_value_heads": 4}, vision_config=vision, **tokens
    )
    return made, processor


def _qwen(name: str, sizes: Sizes) -> tuple[Any, Any]:
    text = tokenizer(
        sizes, "<|vision_start|>", "<|vision_end|>", image_token="<|image_pad|>", video_token="<|video_pad|>"
    )
    area = sizes.pixels**2
    bounds = {"shortest_edge": area // sizes.tiles**2, "longest_edge": sizes.tiles**2 * area}
    kind = {"qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[name]
    processor = still_images(getattr(transformers, f"{kind}Processor"))(
        Qwen2VLImageProcessorPil(patch_size=sizes.patch, merge_size=sizes.merged, size=bounds),
        text,
        None,
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    half = sizes.text["head_dim"] // 2
    sections = [half - 2 * (half // 4), half // 4, half // 4]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 10_000.0}
    names = {"num_hidden_layers": "depth", "num_attention_heads": "num_heads"}
    vision = {names.get(key, key): value for key, value in sizes.vision.items()}
    vision |= {"patch_size": sizes.patch, "spatial_merge_size": sizes.merged}
    vision |= {"out_hidden_size": sizes.text["hidden_size"]}
    last = vision["depth"] - 1
    own = {"qwen2_5_vl": {"fullatt_block_indexes": [last], "window_size": 4 * sizes.patch}}
    own["qwen3_vl"] = {"deepstack_visual_indexes": [0, last], "num_position_embeddings": 64}
    tokens = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    config = getattr(transformers, f"{kind}Config")(
        text_config=sizes.text_config(text, rope_parameters=rope),
        vision_config=own[name] | vision,
        **{f"{key}_token_id": text.convert_tokens_to_ids(f"<|{token}|>") for key, token in tokens.items()},
    )
    return config, processor


def _aya_vision(sizes: Sizes) -> tuple[Any, Any]:
    text = tokenizer(sizes, "<image>", *AYA_TOKENS)
    pixels = sizes.pixels
    processor = still_images(transformers.AyaVisionProcessor)(
        GotOcr2ImageProcessorPil(size=_square(pixels), crop_to_patches=sizes.tiles > 1, max_patches=sizes.tiles**2),
        text,
        patch_size=sizes.patch,
        img_size=pixels,
        downsample_factor=2,
        chat_template=_template("<image>"),
    )
    own = {"layer_types": ["full_attention"] * sizes.text["num_hidden_layers"]}
    config = transformers.AyaVisionConfig(
        text_config=sizes.text_config(text, model_type="cohere2", bos_token_id=None, eos_token_id=1, **own),
        vision_config=sizes.vision_config(model_type="siglip_vision_model", vision_use_head=False),
        image_token_index=text.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    return config, processor


AYA_TOKENS = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE", "TILE_GLOBAL")
MAKERS: dict[str, Callable[[Sizes], tuple[Any, Any]]] = {
    "smolvlm": lambda sizes: _idefics("smolvlm", sizes),
    "idefics3": lambda sizes: _idefics("idefics3", sizes),
    "gemma3": _gemma3,
    "qwen2_5_vl": lambda sizes: _qwen("qwen2_5_vl", sizes),
    "qwen3_vl": lambda sizes: _qwen("qwen3_vl", sizes),
    "internvl": _internvl,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
}
OTHERS = {"aya_vision": _aya_vision, "qwen3_5": _qwen3_5}  # in which no prefix is shared


@dataclass
class TinyVlm:
    """A model and its processor."""

    model: Any
    processor: Any


def tiny_vlm(name: str, sizes: Sizes = TINY) -> TinyVlm:
    """An untrained model of an architecture, the same at each call, in evaluation mode."""
    config, processor = (MAKERS | OTHERS)[name](sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        for parameter in model.parameters() if sizes.std is not None else ():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=sizes.std)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return TinyVlm(model.eval(), processor)


def save_tiny_vlm(name: str, folder: Path, sizes: Sizes = TINY) -> Path:
    """Saves an untrained model, as the Hub's are laid out."""
    tiny = tiny_vlm(name, sizes)
    tiny.model.save_pretrained(folder)
    tiny.processor.save_pretrained(folder)
    return folder
