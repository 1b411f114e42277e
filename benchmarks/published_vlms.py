"""Image-text-to-text models at the size in which they are published, for benchmarks that need none of their weights.

What `tests/support/tiny_vlms.py` makes of these sizes has the config.json of the published model, but for the numbers
of special tokens, and its processor, but for the words of the tokenizer.
"""

from typing import NamedTuple

from tests.support.tiny_vlms import Sizes


class PublishedVlm(NamedTuple):
    """A model.

    Attributes:
        architecture: one of `tests.support.tiny_vlms.MAKERS`.
        sizes: of the model, and of what it sees of an image of 512 x 512 pixels.
    """

    architecture: str
    sizes: Sizes

    @property
    def crops(self) -> int:
        """Images that it makes of a square one: its tiles, and the whole beside them."""
        return self.sizes.tiles**2 + 1 if self.sizes.tiles > 1 else 1


PUBLISHED = {
    "smolvlm-500m": PublishedVlm(  # HuggingFaceTB/SmolVLM-500M-Instruct, which enlarges each image to 2048 pixels
        "idefics3",
        Sizes(
            text={
                "hidden_size": 960,
                "intermediate_size": 2560,
                "num_hidden_layers": 32,
                "num_attention_heads": 15,
                "num_key_value_heads": 5,
                "head_dim": 64,
            },
            vision={
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
            },
            side=8,
            merged=4,
            patch=16,
            tiles=4,
            std=None,
            vocabulary=49_280,
        ),
    ),
    "qwen2.5-vl-3b": PublishedVlm(  # Qwen/Qwen2.5-VL-3B-Instruct, which makes 504 x 504 pixels of 512 x 512
        "qwen2_5_vl",
        Sizes(
            text={
                "hidden_size": 2048,
                "intermediate_size": 11_008,
                "num_hidden_layers": 36,
                "num_attention_heads": 16,
                "num_key_value_heads": 2,
                "head_dim": 128,
                "tie_word_embeddings": True,
                "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
            },
            vision={
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_hidden_layers": 32,
                "num_attention_heads": 16,
                "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31],
            },
            side=18,
            merged=2,
            patch=14,
            tiles=1,
            std=None,
            vocabulary=151_936,
        ),
    ),
    "qwen3-vl-4b": PublishedVlm(  # Qwen/Qwen3-VL-4B-Instruct
        "qwen3_vl",
        Sizes(
            text={
                "hidden_size": 2560,
                "intermediate_size": 9728,
                "num_hidden_layers": 36,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "tie_word_embeddings": True,
                "rope_parameters": {"rope_type": "default", "mrope_section": [24, 20, 20], "rope_theta": 5e6},
            },
            vision={
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "deepstack_visual_indexes": [5, 11, 17],
                "num_position_embeddings": 2304,
            },
            side=16,
            merged=2,
            patch=16,
            tiles=1,
            std=None,
            vocabulary=151_936,
        ),
    ),
    "medgemma-4b": PublishedVlm(  # google/medgemma-4b-it
        "gemma3",
        Sizes(
            text={
                "hidden_size": 2560,
                "intermediate_size": 10_240,
                "num_hidden_layers": 34,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 256,
                "sliding_window": 1024,
                "layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(34)],
            },
            vision={
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
            },
            side=16,
            merged=4,
            patch=14,
            tiles=1,
            std=None,
            vocabulary=262_208,
        ),
    ),
}
