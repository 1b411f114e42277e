"""processing.utils: what the recipe makes of an image, a question and an answer."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from processing.utils import answer_ids, normalize, prompt_ids, question_answer_ids, resize, tokenize_questions
from tests.support.tiny_blip2 import make_tokenizer

TEXTS = ["Question: Is this CT? Answer:", "yes", "no"]


def test_resizing_and_then_normalising_is_what_the_processor_does_at_once():
    image_processor = BlipImageProcessorPil(size={"height": 24, "width": 24})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8))
    resized = resize(image_processor, image)
    assert (resized.shape, resized.dtype) == ((3, 24, 24), np.uint8)
    expected = image_processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(normalize(image_processor, [resized])["pixel_values"], expected)


PROCESSORS = {
    "ViLT": ViltImageProcessorPil(),
    "tiny ViLT": ViltImageProcessorPil(size={"shortest_edge": 64}, size_divisor=16),
    "starter": ViTImageProcessorPil(size={"height": 224, "width": 224}),
    "BLIP-2": BlipImageProcessorPil(size={"height": 224, "width": 224}),
}
STRIPS = [(2100, 100), (100, 2100), (10_000, 30), (1, 3_000), (3_000, 1), (3, 2_000), (2_000, 3), (70_000, 1)]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(512, 512), (640, 480), (333, 512), (1280, 200), (100, 631), (1, 1), (3, 3), (6, 1)])
def test_images_of_a_usual_shape_are_resized_by_the_processor_to_the_bit(name, size):
    image = noise(*size)
    options = {"do_rescale": False, "do_normalize": False, "do_pad": False, "return_tensors": "np"}
    expected = PROCESSORS[name](image, **options)["pixel_values"][0]
    assert np.array_equal(resize(PROCESSORS[name], image), expected)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", STRIPS)
def test_the_shorter_side_of_a_strip_is_at_least_one_patch(name, size):
    image_processor = PROCESSORS[name]
    resized = resize(image_processor, noise(*size))
    patch = getattr(image_processor, "size_divisor", 224)
    height, width = resized.shape[1:]
    assert min(height, width) == patch
    assert height % patch == width % patch == 0
    assert (width > height) == (size[0] > size[1]) or patch == 224
    batch = normalize(image_processor, [resized, resize(image_processor, noise(64, 64))])
    assert torch.isfinite(batch["pixel_values"]).all()


def test_a_strip_keeps_its_left_and_right():
    pixels = np.zeros((10, 3_000, 3), np.uint8)
    pixels[:, 2_000:] = 250
    resized = resize(PROCESSORS["ViLT"], Image.fromarray(pixels))
    assert resized.shape == (3, 32, 608)  # 608 of the 639 that ViLT allows for its longer side
    assert resized[:, :, :390].max() <= 10
    assert resized[:, :, 420:].min() >= 240


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_prompt_and_answer_of_a_row_become_a_pair_of_token_ids(kind):
    tokenizer = make_tokenizer(kind, TEXTS)
    row = {"question": "Is this CT?", "answer": "yes"}
    pair = question_answer_ids(tokenizer, "Question: {} Answer:", row, decoder_only=kind == "opt")
    assert tokenizer.decode(pair.prompt, skip_special_tokens=True) == "Question: Is this CT? Answer:"
    assert pair.prompt == tokenizer("Question: Is this CT? Answer:")["input_ids"]
    assert pair.prompt == prompt_ids(tokenizer, "Question: {} Answer:", "Is this CT?")
    assert pair.answer[-1] == tokenizer.eos_token_id
    assert pair.answer == answer_ids(tokenizer, "yes", decoder_only=kind == "opt")
    assert tokenizer.decode(pair.answer[:-1]) == (" yes" if kind == "opt" else "yes")


def test_questions_are_padded_to_the_longest_and_cut_at_the_limit():
    tokenizer = make_tokenizer("opt", TEXTS)
    tokenizer.padding_side = "right"
    questions = ["Is this CT?", "yes", "Is this CT? " * 20]
    batch = tokenize_questions(tokenizer, questions, max_length=9)
    assert batch.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    assert batch["input_ids"].shape == (3, 9)
    lengths = [len(tokenizer(question)["input_ids"]) for question in questions]
    assert batch["attention_mask"].sum(1).tolist() == [min(length, 9) for length in lengths]
    assert max(lengths) > 9
