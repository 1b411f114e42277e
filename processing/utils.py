"""What the published recipe does to one example: resizing, normalisation, prompts, tokenised question-answer pairs."""

from typing import Any

import numpy as np
from PIL import Image

MAX_QUESTION_CHARACTERS = 1000  # models read 40 tokens; this bounds the work of cutting a question


def resize(image_processor: Any, image: Image.Image) -> np.ndarray:
    """An RGB image in the size that a model sees, not yet scaled: ``(3, height, width)`` uint8."""
    resized = image_processor(image, do_rescale=False, do_normalize=False, do_pad=False, return_tensors="np")
    return np.asarray(resized["pixel_values"][0], dtype=np.uint8)
