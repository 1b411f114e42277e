"""What the published recipe does to one example: resizing, normalisation, prompts, tokenised question-answer pairs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

MAX_QUESTION_CHARACTERS = 1000  # models read 40 tokens; this bounds the work of cutting a question


def resize(image_processor: Any, image: Image.Image) -> np.ndarray:
    """An RGB image in the size that a model sees, not yet scaled: ``(3, height, width)`` uint8.

    ViLT's processor keeps the shape of an image, limits its longer side and cuts both to whole patches. Of a long and
    thin image, such as an ECG strip, this would leave no pixel. There the shorter side becomes one patch.
    """
    strip = _size_of_strip(image_processor, *image.size)
    if strip is not None:
        resized = np.asarray(image.resize(strip, image_processor.resample))
        return np.ascontiguousarray(resized.transpose(2, 0, 1))
    resized = image_processor(image, do_rescale=False, do_normalize=False, do_pad=False, return_tensors="np")
    return np.asarray(resized["pixel_values"][0], dtype=np.uint8)


def _size_of_strip(image_processor: Any, width: int, height: int) -> tuple[int, int] | None:
    """Width and height to resize to where the processor's own would be 0; None where they are not."""
    patch = getattr(image_processor, "size_divisor", None)
    if patch is None:  # the processor resizes to a fixed size
        return None
    from transformers.models.vilt.image_processing_pil_vilt import (
        MAX_LONGER_EDGE,
        MAX_SHORTER_EDGE,
        get_resize_output_image_size,
    )

    shorter = image_processor.size["shortest_edge"]
    longer = int(MAX_LONGER_EDGE / MAX_SHORTER_EDGE * shorter)
    shape = np.broadcast_to(np.uint8(0), (3, height, width))
    rows, columns = get_resize_output_image_size(shape, shorter, longer, patch, "channels_first")
    return None if rows and columns else (max(columns, patch), max(rows, patch))


def normalize(image_processor: Any, images: Sequence[np.ndarray]) -> Mapping[str, "torch.Tensor"]:
    """What a model takes of images that `resize` made.

    Returns:
        `pixel_values` ``(I, 3, H, W)``, scaled and normalised. ViLT's are padded to the largest image, which
        `pixel_mask` ``(I, H, W)`` tells from the padding.
    """
    return image_processor(images, do_resize=False, return_tensors="pt")


def tokenize_questions(
    tokenizer: "PreTrainedTokenizerBase", questions: Sequence[str], max_length: int
) -> dict[str, "torch.Tensor"]:
    """ViLT's `input_ids`, `token_type_ids` and `attention_mask`, ``(B, L)``, padded to the longest question.

    Args:
        max_length: in tokens, special tokens included; longer questions are cut.
    """
    encoded = tokenizer(
        questions,
        padding=True,
        truncation=True,
        max_length=max_length,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    return dict(encoded)


class QuestionAnswer(NamedTuple):
    """The token ids of a prompt and its answer."""

    prompt: list[int]
    answer: list[int]


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str, question: str) -> list[int]:
    """Token ids of BLIP-2's prompt about a question, special tokens included.

    Args:
        prompt: such as ``"Question: {} Answer:"``, with one `{}` for the question.
    """
    return tokenizer(prompt.replace("{}", question))["input_ids"]


def answer_ids(
    tokenizer: "PreTrainedTokenizerBase", answer: str, decoder_only: bool, end_token_id: int | None = None
) -> list[int]:
    """Token ids of an answer, the end token last.

    Args:
        decoder_only: the answer follows the prompt in the same text, so it begins with a space.
        end_token_id: by default the tokenizer's.
    """
    text = f" {answer}" if decoder_only else answer
    end = tokenizer.eos_token_id if end_token_id is None else end_token_id
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], end]


def question_answer_ids(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    row: Mapping[str, Any],
    decoder_only: bool,
    end_token_id: int | None = None,
) -> QuestionAnswer:
    """The tokenised pair of a row's `question` and `answer`; the arguments are those of the functions above."""
    return QuestionAnswer(
        prompt_ids(tokenizer, prompt, row["question"]),
        answer_ids(tokenizer, row["answer"], decoder_only, end_token_id),
    )
