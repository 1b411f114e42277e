"""What a data set would cost: work a question, kept features, rows; by counting, before anything is bought.

python -m benchmarks.cost_model --images 149000 --questions 227000 --epochs 10 --tflops 120

The work is that of matrix products, 2 FLOPs for each multiplication; `tests/test_cost_model.py` compares it with what
PyTorch counts in the models themselves.
"""

import argparse
import logging
from dataclasses import dataclass
from typing import Any

from transformers import Blip2Config

from processing.errors import run_command

ROW_BYTES = 281  # of a row of SLAKE in memory, its boxes included: `dataset.data.nbytes / len(dataset)`
OPT_27B = {  # facebook/opt-2.7b; Blip2Config's default is a small OPT
    **{"model_type": "opt", "hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240, "vocab_size": 50272},
    **{"num_hidden_layers": 32, "num_attention_heads": 32},
}


@dataclass(frozen=True)
class Layers:
    """A stack of transformer layers.

    Args:
        count: of the layers.
        width: of the states.
        inner: of the feed-forward part.
        gated: a feed-forward part of three matrices, as in Llama, instead of two.
        seen: width of the states of another sequence that every `every`-th layer attends to, 0 for none.
        every: see above.
    """

    count: int
    width: int
    inner: int
    gated: bool = False
    seen: int = 0
    every: int = 1

    def products(self, tokens: float, pairs: float, others: float = 0) -> tuple[float, float]:
        """FLOPs of the products with weights and of those among states, forward.

        Args:
            tokens: of all sequences.
            pairs: of tokens that attend to each other, those that a mask hides included, as they are computed too.
            others: tokens of the other sequence.
        """
        weights = 4 * self.width**2 + (3 if self.gated else 2) * self.width * self.inner
        linear, attention = 2 * tokens * weights * self.count, 4 * pairs * self.width * self.count
        if self.seen:
            crossing = len(range(0, self.count, self.every))
            linear += crossing * (4 * tokens * self.width**2 + 4 * others * self.seen * self.width)
            attention += crossing * 4 * tokens * others * self.width
        return linear, attention


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes."""

    image: float  # FLOPs of the frozen vision encoder, once for an image where features are kept
    feature_bytes: int  # kept of an image, in half precision
    training: float  # FLOPs a question in training, forward and backward, from kept features
    training_plain: float  # the same with the image encoded for each question, one question a sequence


def blip2_cost(
    config: Any, questions_per_image: float, question_tokens: float, answer_tokens: float = 2.5, longest: float = 0
) -> Cost:
    """The cost of a BLIP-2 with a decoder-only language model and LoRA on its Q-Former's attention.

    Args:
        config: a Blip2Config.
        questions_per_image: that share an image in one sequence.
        question_tokens: of a prompt and its answer.
        answer_tokens: of these, which alone are scored against the vocabulary.
        longest: of the data set, to which the plain recipe pads; by default `question_tokens`.
    """
    vision, text, bridge = config.vision_config, config.text_config, config.qformer_config
    patches = (vision.image_size // vision.patch_size) ** 2
    eyes = Layers(vision.num_hidden_layers, vision.hidden_size, vision.intermediate_size)
    linear, attention = eyes.products(patches + 1, (patches + 1) ** 2)
    image = linear + attention + 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    former = Layers(
        *(bridge.num_hidden_layers, bridge.hidden_size, bridge.intermediate_size),
        *(False, vision.hidden_size, bridge.cross_attention_frequency),
    )
    gated = hasattr(text, "num_key_value_heads")
    inner = text.intermediate_size if gated else text.ffn_dim
    words = Layers(text.num_hidden_layers, text.hidden_size, inner, gated)
    queries = config.num_query_tokens

    def step(sharing: float, length: float, scored: float) -> float:
        """Forward and backward of a sequence of questions about an image, by question."""
        bridge_linear, bridge_attention = former.products(queries, queries**2, patches + 1)
        word_linear, word_attention = words.products(length, length**2)
        word_linear += 2 * scored * text.hidden_size * text.vocab_size
        projection = 2 * queries * bridge.hidden_size * text.hidden_size
        # backward: of frozen weights the gradient of their input alone, of products of states that of both
        linear, attention = bridge_linear + word_linear + projection, bridge_attention + word_attention
        return (2 * linear + 3 * attention) / sharing

    shared = queries + questions_per_image * question_tokens
    alone = queries + (longest or question_tokens)
    return Cost(
        image=image,
        feature_bytes=2 * (patches + 1) * vision.hidden_size,
        training=step(questions_per_image, shared, questions_per_image * answer_tokens),
        training_plain=step(1, alone, alone) + image,
    )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cost_model", description="What a data set would cost blip2-opt-2.7b."
    )
    parser.add_argument("--images", type=int, default=450)
    parser.add_argument("--questions", type=int, default=4918)
    parser.add_argument("--question_tokens", type=float, default=17, help="of a prompt and its answer")
    parser.add_argument("--questions_per_image", type=int, default=8, help="that share an image in a sequence")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--tflops", type=float, default=120, help="that the machine reaches, in 1e12 a second")
    options = parser.parse_args(argv)
    sharing = min(options.questions_per_image, options.questions / options.images)
    cost = blip2_cost(Blip2Config(text_config=OPT_27B), sharing, options.question_tokens)
    asked = options.questions * options.epochs

    def hours(flops: float) -> float:
        return flops / options.tflops / 1e12 / 3600

    def line(name: str, value: float, unit: str) -> None:
        print(f"{name:<52}{value:>14,.2f} {unit}")

    line("a question in training, plain", cost.training_plain / 1e12, "TFLOP")
    line("a question in training, image shared, features kept", cost.training / 1e12, "TFLOP")
    line("an image, once", cost.image / 1e12, "TFLOP")
    line("kept features of an image", cost.feature_bytes / 1e6, "MB")
    line("kept features of all", cost.feature_bytes * options.images / 1e9, "GB")
    line("rows in memory", ROW_BYTES * options.questions / 1e9, "GB")
    line("features of all, once", hours(cost.image * options.images), "hours")
    line("training", hours(cost.training * asked), "hours")
    line("training, plain", hours(cost.training_plain * asked), "hours")


if __name__ == "__main__":
    run_command(main, logging.WARNING)
