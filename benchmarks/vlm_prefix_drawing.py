"""Draws the sequence in which a chat model reads several questions about one image, with its attention masks.

Tokens, masks and positions are those that language models get in training, of tiny models and of short questions whose
tokens are whole words.
"""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.canvas import BOLD, Canvas
from benchmarks.prefix_drawing import (
    BACKGROUND,
    END,
    IMAGE_TOKENS,
    INK,
    LABELS,
    MARGIN,
    QUESTIONS,
    WIDTH,
    Layout,
    draw_explanations,
    draw_mask,
    draw_sequence,
    owners_of,
)
from modeling.vlm.images import ReadImage
from modeling.vlm.network import PrefixReader
from processing.chat import ChatPrompts
from processing.chat_collator import ChatCollator
from tests.support.tiny_vlms import TINY, tiny_vlm

IMAGE_TOKEN = "<image>"
TEMPLATE = "User: " + IMAGE_TOKEN + " {{ messages[0]['content'][-1]['text'] }} Assistant:"  # SmolVLM's, in short
WINDOW = 7  # in the drawing; 1,024 in Gemma 3
CELL, BETWEEN = 16.0, 56.0  # of the masks


def lay_out_chat(architecture: str) -> Layout:
    """The sequence of questions and their answers about one image, a word a token.

    Args:
        architecture: one of `tests.support.tiny_vlms.MAKERS`, whose positions are those of a sequence.
    """
    model = tiny_vlm(architecture, replace(TINY, text=TINY.text | {"sliding_window": WINDOW})).model
    tokenizer = _word_tokenizer(model.config.image_token_id)
    processor = SimpleNamespace(tokenizer=tokenizer, image_token=IMAGE_TOKEN, chat_template=TEMPLATE)
    features = torch.zeros(1, IMAGE_TOKENS, TINY.text["hidden_size"])
    image = ReadImage(" ".join([IMAGE_TOKEN] * IMAGE_TOKENS), {"image_features": features})
    chat = ChatPrompts(processor, model.config.image_token_id)
    collator = ChatCollator(chat, {"": image}, len(QUESTIONS), tokenizer.eos_token_id)
    rows = [{"image": "", "question": question, "answer": answer} for question, answer in QUESTIONS]
    batch = collator(rows)
    got = _what_the_language_model_gets(model, batch)

    ids = torch.cat([batch["trunk_ids"], batch["input_ids"]], dim=1)[0]
    image_places = (ids == model.config.image_token_id).nonzero().flatten().tolist()
    tokens = tokenizer.convert_ids_to_tokens(ids)
    for number, place in enumerate(image_places):
        tokens[place] = f"i{number + 1}"
    learned = [
        None if label == -100 else tokenizer.convert_ids_to_tokens(label) for label in batch["labels"][0].tolist()
    ]
    labels = [None] * batch["trunk_ids"].shape[1] + learned
    masks = got["attention_mask"]
    if torch.is_tensor(masks):
        masks = {"full_attention": masks, "sliding_attention": masks}
    everywhere, visible = ((masks[kind][0, 0] == 0).numpy() for kind in ("full_attention", "sliding_attention"))
    alone = [collator([row]) for row in rows]
    return Layout(
        tokens=tokens,
        labels=labels,
        positions=got["position_ids"][0].tolist(),
        owners=owners_of(everywhere, labels, image_places),
        visible=visible,
        plain_tokens=sum(one["trunk_ids"].numel() + one["input_ids"].numel() for one in alone),
        beyond=everywhere & ~visible,
    )


def _word_tokenizer(image_token_id: int) -> PreTrainedTokenizerFast:
    words = sorted({word for pair in QUESTIONS for text in pair for word in text.split()} | {"User:", "Assistant:"})
    vocabulary = {word: place for place, word in enumerate(["<pad>", END, *words])} | {IMAGE_TOKEN: image_token_id}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token=END)


def _what_the_language_model_gets(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    got: dict[str, Any] = {}
    model.get_decoder().register_forward_pre_hook(lambda _, args, inputs: got.update(inputs), with_kwargs=True)
    with torch.no_grad():
        PrefixReader(model).forward(**batch)
    return got


def explanations_of_most(layout: Layout) -> list[tuple[str, str]]:
    """What the drawing shows of most models: a title and a sentence each."""
    return [
        ("One trunk", "The words before the image and its tokens (4 here, 64 to 1,088 in SmolVLM) stand once."),
        ("Separate questions", "Each sees the trunk and its own words, nothing of the others."),
        ("Positions", "Each question is numbered as if it stood alone after the image."),
        (
            f"{layout.plain_tokens} tokens become {len(layout.tokens)}",
            "Loss and gradients are the same as with one question a sequence.",
        ),
    ]


EXPLANATIONS_OF_GEMMA = [
    ("Image tokens see each other", "In both directions. All other tokens see only what is before them."),
    (
        "A window",
        f"Five of six layers see {WINDOW} tokens here, 1,024 in the model. The sixth also sees the outlined ones.",
    ),
    (
        "Counted along the conversation",
        "A question loses sight of the same tokens as if it stood alone, wherever it is in the sequence.",
    ),
]


def draw_chat_prefix() -> Image.Image:
    """The drawing: the mask of most models, and that of Gemma 3."""
    most, gemma = lay_out_chat("smolvlm"), lay_out_chat("gemma3")
    side = CELL * len(most.tokens)
    mask_top = 246 + LABELS
    text_top = mask_top + side + 38
    canvas = Canvas(WIDTH, text_top + 230, BACKGROUND)
    canvas.text(MARGIN, 40, "Three questions about one image, read in one sequence by a chat model", 21, INK, BOLD)
    draw_sequence(canvas, most, 92)
    columns = (
        ("Most models: each row reads the filled columns", most, explanations_of_most(most)),
        ("Gemma 3 and MedGemma", gemma, EXPLANATIONS_OF_GEMMA),
    )
    for number, (title, layout, told) in enumerate(columns):
        x = MARGIN + number * (LABELS + side + BETWEEN)
        canvas.text(x, 228, title, 15, INK, BOLD)
        draw_mask(canvas, layout, x + LABELS, mask_top, CELL)
        draw_explanations(canvas, told, x, text_top, LABELS + side)
    return canvas.finished()
