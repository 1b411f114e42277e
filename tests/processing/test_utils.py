"""processing.utils: what the recipe makes of an image, a question and an answer."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

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
