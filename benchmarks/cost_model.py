"""What a data set would cost, by counting: FLOPs of its questions, kept features, rows.

    python -m benchmarks.cost_model --images 149000 --questions 227000 --epochs 10 --tflops 120
    python -m benchmarks.cost_model --model medgemma-4b --question_tokens 26

The work is that of matrix products, with 2 FLOPs for each multiplication. `tests/benchmarks/test_cost_model.py`
compares it with what PyTorch counts in the models themselves.
"""

import argparse
import logging
from dataclasses import dataclass
from typing import Any

from transformers import Blip2Config

from benchmarks.options import at_least
from benchmarks.published_vlms import PUBLISHED, PublishedVlm
from processing.errors import UserError, run_command
from tests.support.tiny_vlms import MAKERS

ROW_BYTES = 281  # of a row of SLAKE on disk, with its boxes: `dataset.data.nbytes / len(dataset)`
BLIP2 = "blip2-opt-2.7b"
OPT_27B = {  # facebook/opt-2.7b; the default of Blip2Config is a small OPT
    "model_type": "opt",
    "hidden_size": 2560,
    "word_embed_proj_dim": 2560,
    "ffn_dim": 10240,
    "vocab_size": 50272,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


@dataclass(frozen=True)
class Layers:
    """A stack of transformer layers.

    Args:
        count: number of layers.
        width: of the states.
        inner_width: of the feed-forward part.
        gated: whether the feed-forward part has three matrices, as in Llama, instead of two.
        cross_width: width of the states of another sequence that some layers attend to; 0 for none.
        cross_frequency: every how many layers attend to it, the first one included.
        query_width: of all queries of a token together; 0 for that of the states.
        key_width: of all its keys, and of all its values, which heads may share; 0 for that of the states.
    """

    count: int
    width: int
    inner_width: int
    gated: bool = False
    cross_width: int = 0
    cross_frequency: int = 1
    query_width: int = 0
    key_width: int = 0

    def forward_flops(self, tokens: float, pairs: float, cross_tokens: float = 0) -> tuple[float, float]:
        """FLOPs of the products with weights, and of those among states.

        Args:
            tokens: of all sequences.
            pairs: of tokens that attend to each other. Those that a mask hides count, as they are computed too.
            cross_tokens: of the other sequence.
        """
        queries, keys = self.query_width or self.width, self.key_width or self.width
        weights = 2 * self.width * (queries + keys) + (3 if self.gated else 2) * self.width * self.inner_width
        linear, attention = 2 * tokens * weights * self.count, 4 * pairs * queries * self.count
        if self.cross_width:
            crossing = len(range(0, self.count, self.cross_frequency))
            linear += crossing * (4 * tokens * self.width**2 + 4 * cross_tokens * self.cross_width * self.width)
            attention += crossing * 4 * tokens * cross_tokens * self.width
        return linear, attention


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes."""

    image: float  # FLOPs of the frozen vision encoder for an image, once where features are kept
    feature_bytes: int  # of the kept features of an image, in half precision
    training: float  # FLOPs of a training question, forward and backward, from kept features
    training_plain: float  # the same where the image is encoded for each question, one question a sequence


def blip2_cost(
    config: Any, questions_per_image: float, question_tokens: float, answer_tokens: float = 2.5, longest: float = 0
) -> Cost:
    """The cost of a BLIP-2 with a decoder-only language model and LoRA on its Q-Former's attention.

    Args:
        config: a Blip2Config.
        questions_per_image: how many share an image in a sequence.
        question_tokens: of a prompt and its answer.
        answer_tokens: of the answer. Only these are scored against the vocabulary.
        longest: tokens of the longest question and answer of the data set, to which the plain recipe pads; by default
            `question_tokens`.
    """
    vision, qformer, text = config.vision_config, config.qformer_config, config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    vision_layers = Layers(vision.num_hidden_layers, vision.hidden_size, vision.intermediate_size)
    linear, attention = vision_layers.forward_flops(patches + 1, (patches + 1) ** 2)
    image = linear + attention + 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    qformer_layers = Layers(
        qformer.num_hidden_layers,
        qformer.hidden_size,
        qformer.intermediate_size,
        cross_width=vision.hidden_size,
        cross_frequency=qformer.cross_attention_frequency,
    )
    gated = hasattr(text, "num_key_value_heads")
    inner_width = text.intermediate_size if gated else text.ffn_dim
    text_layers = Layers(text.num_hidden_layers, text.hidden_size, inner_width, gated)
    queries = config.num_query_tokens

    def training_flops(questions: float, length: float, scored: float) -> float:
        """FLOPs a question, forward and backward, where a sequence of this length has that many questions."""
        qformer_linear, qformer_attention = qformer_layers.forward_flops(queries, queries**2, patches + 1)
        text_linear, text_attention = text_layers.forward_flops(length, length**2)
        text_linear += 2 * scored * text.hidden_size * text.vocab_size
        projection = 2 * queries * qformer.hidden_size * text.hidden_size
        linear, attention = qformer_linear + text_linear + projection, qformer_attention + text_attention
        return _with_backward(linear, attention) / questions

    shared = queries + questions_per_image * question_tokens
    alone = queries + (longest or question_tokens)
    return Cost(
        image=image,
        feature_bytes=2 * (patches + 1) * vision.hidden_size,
        training=training_flops(questions_per_image, shared, questions_per_image * answer_tokens),
        training_plain=training_flops(1, alone, alone) + image,
    )


def _with_backward(linear: float, attention: float) -> float:
    """FLOPs forward and backward, of those forward."""
    # Frozen weights need the gradient of their input only, products of states that of both factors.
    return 2 * linear + 3 * attention


def vlm_cost(
    model: PublishedVlm,
    questions_per_image: float,
    question_tokens: float,
    answer_tokens: float = 2.5,
    longest: float = 0,
    trunk_words: float = 0,
) -> Cost:
    """The cost of an image-text-to-text model with LoRA on its language model.

    The projector is left out, and so are the matrices of LoRA: each is 1 to 4 % of the whole.

    Args:
        model: an Idefics3, a Gemma 3, a Qwen2.5-VL or a Qwen3-VL.
        questions_per_image: as for `blip2_cost`, and the arguments that follow.
        trunk_words: tokens before the image.
    """
    config, _ = MAKERS[model.architecture](model.sizes)
    text = config.get_text_config()
    text_layers = Layers(
        text.num_hidden_layers,
        text.hidden_size,
        text.intermediate_size,
        gated=True,
        query_width=text.num_attention_heads * text.head_dim,
        key_width=text.num_key_value_heads * text.head_dim,
    )
    image, image_tokens = model.crops * _crop_flops(model, config.vision_config), model.crops * model.sizes.side**2

    def training_flops(questions: float, length: float, scored: float) -> float:
        linear, attention = text_layers.forward_flops(length, length**2)
        return _with_backward(linear + 2 * scored * text.hidden_size * text.vocab_size, attention) / questions

    levels = 1 + len(getattr(config.vision_config, "deepstack_visual_indexes", ()))
    trunk = trunk_words + image_tokens
    shared = trunk + questions_per_image * question_tokens
    alone = trunk + (longest or question_tokens)
    return Cost(
        image=image,
        feature_bytes=2 * levels * image_tokens * text.hidden_size,
        training=training_flops(questions_per_image, shared, questions_per_image * answer_tokens),
        training_plain=training_flops(1, alone, alone) + image,
    )


def _crop_flops(model: PublishedVlm, vision: Any) -> float:
    """FLOPs of what sees, for one crop. Most layers of Qwen2.5-VL's attend within windows."""
    patches = (model.sizes.side * model.sizes.merged) ** 2
    embedding = 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    if model.architecture != "qwen2_5_vl":
        layers = Layers(vision.num_hidden_layers, vision.hidden_size, vision.intermediate_size)
        return embedding + sum(layers.forward_flops(patches, patches**2))
    whole = len(vision.fullatt_block_indexes)
    window = min((vision.window_size // vision.patch_size) ** 2, patches)
    flops = embedding
    for count, seen in ((whole, patches), (vision.depth - whole, window)):
        layers = Layers(count, vision.hidden_size, vision.intermediate_size, gated=True)
        flops += sum(layers.forward_flops(patches, patches * seen))
    return flops


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: a number is not above 0.
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cost_model", description="What a data set would cost to train on."
    )
    parser.add_argument("--model", choices=[BLIP2, *PUBLISHED], default=BLIP2)
    parser.add_argument("--images", type=at_least(1), default=450)
    parser.add_argument("--questions", type=at_least(1), default=4918)
    parser.add_argument("--question_tokens", type=float, default=17, help="of a prompt and its answer")
    parser.add_argument("--questions_per_image", type=at_least(1), default=8, help="that share an image in a sequence")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--tflops", type=float, default=120, help="that the machine reaches, in 1e12 a second")
    options = parser.parse_args(argv)
    for name in ("question_tokens", "epochs", "tflops"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name} {getattr(options, name):g}: give a number above 0.")
    sharing = min(options.questions_per_image, options.questions / options.images)
    if options.model == BLIP2:
        cost = blip2_cost(Blip2Config(text_config=OPT_27B), sharing, options.question_tokens)
    else:
        cost = vlm_cost(PUBLISHED[options.model], sharing, options.question_tokens)
    trained = options.questions * options.epochs

    def hours(flops: float) -> float:
        return flops / options.tflops / 1e12 / 3600

    def line(name: str, value: float, unit: str) -> None:
        print(f"{name:<52}{value:>14,.2f} {unit}")

    line("a question in training, plain", cost.training_plain / 1e12, "TFLOP")
    line("a question in training, image shared, features kept", cost.training / 1e12, "TFLOP")
    line("an image, once", cost.image / 1e12, "TFLOP")
    line("kept features of an image", cost.feature_bytes / 1e6, "MB")
    line("kept features of all", cost.feature_bytes * options.images / 1e9, "GB")
    line("rows on disk", ROW_BYTES * options.questions / 1e9, "GB")
    line("features of all, once", hours(cost.image * options.images), "hours")
    line("training", hours(cost.training * trained), "hours")
    line("training, plain", hours(cost.training_plain * trained), "hours")


if __name__ == "__main__":
    run_command(main, logging.WARNING)
