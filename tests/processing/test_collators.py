"""processing.collators: what is in a batch of ViLT or BLIP-2, and which rows share an image."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from modeling.vilt.scratch import build_tokenizer
from processing.batch_images import ResizedImages
from processing.collators import Blip2Collator, ViltCollator
from processing.images import ImageError
from tests.support.tiny_blip2 import QUERIES, make_tokenizer

QUESTIONS = ["Is this CT?", "Where is the liver?", "这是什么?"]


def collator_for(tokenizer, labels: dict[str, int], length: int = 40, **options) -> ViltCollator:
    image_processor = ViltImageProcessorPil(size={"shortest_edge": 64}, size_divisor=16)
    processor = transformers.ViltProcessor(image_processor, tokenizer)
    return ViltCollator(processor, labels, len(labels), length, **options)


def row(image, question="Is this CT?", answer="yes", number=0) -> dict:
    return {"image": str(image), "question": question, "answer": answer, "row": number}


def test_batch_has_float_targets_masks_and_padding_to_its_longest(tmp_path):
    Image.new("L", (128, 64), 255).save(tmp_path / "wide.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "square.png")
    collate = collator_for(build_tokenizer(QUESTIONS), {"no": 0, "yes": 1})
    batch = collate(
        [row(tmp_path / "wide.png", number=4), row(tmp_path / "square.png", "Where is the liver?", "?", 9)]
    )
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (2, 7)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 0], [1] * 7]
    # 64 x 128 is limited to 53 x 106 by ViLT's ratio 1333/800 and cut to multiples of 16: 48 x 96
    assert batch["pixel_values"].shape == (2, 3, 64, 96)
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [48 * 96, 64 * 64]
    assert batch["labels"].tolist() == [[0.0, 1.0], [0.0, 0.0]]  # an answer outside the vocabulary has no target
    assert batch["row"].tolist() == [4, 9]


def test_pixels_equal_those_of_the_processor_alone(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    collate = collator_for(build_tokenizer(QUESTIONS), {"yes": 0})
    expected = collate.processor.image_processor(Image.fromarray(noise), return_tensors="pt")
    batch = collate([row(tmp_path / "a.png")])
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    assert torch.equal(batch["pixel_mask"], expected["pixel_mask"])


def test_question_is_cut_at_the_limit(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    collate = collator_for(build_tokenizer(QUESTIONS), {"yes": 0}, 9)
    assert collate([row(tmp_path / "a.png", "is this " * 40)])["input_ids"].shape == (1, 9)


def test_images_are_shared_only_where_asked_and_may_be_given_resized():
    images = {"a": np.full((3, 32, 48), 255, np.uint8), "b": np.zeros((3, 32, 48), np.uint8)}
    tokenizer, rows = build_tokenizer(QUESTIONS), [row(name) for name in "baba"]
    alone = collator_for(tokenizer, {"yes": 0}, images=images)(rows)
    assert alone["pixel_values"].mean((1, 2, 3)).tolist() == [-1, 1, -1, 1]
    assert alone["pixel_values"].shape == (4, 3, 32, 48), "a resized image stays as it is"
    assert "image_index" not in alone
    shared = collator_for(tokenizer, {"yes": 0}, images=images, share_images=True)(rows)
    assert shared["image_index"].tolist() == [0, 1, 0, 1]
    assert shared["pixel_values"].mean((1, 2, 3)).tolist() == [-1, 1]


def test_what_is_kept_of_images_and_questions_comes_instead_of_pixels():
    tokenizer = build_tokenizer(QUESTIONS)
    features = {name: torch.full((5, 2, 2), float(i)) for i, name in enumerate("ab")}
    states = {q: torch.randn(len(tokenizer(q)["input_ids"]), 8) for q in ("Is this CT?", "Where is the liver?")}
    collate = collator_for(tokenizer, {"yes": 0}, share_images=True, features=features, states=states)
    batch = collate([row("b"), row("a", "Where is the liver?"), row("b", "Where is the liver?")])
    assert "pixel_values" not in batch
    assert batch["image_embeds"].shape == (2, 5, 2, 2)
    assert batch["image_embeds"][batch["image_index"]].mean((1, 2, 3)).tolist() == [1, 0, 1]
    short, long = states.values()
    assert torch.equal(batch["text_states"][0], torch.cat([short, torch.zeros(1, 8)]))
    assert torch.equal(batch["text_states"][1:], torch.stack([long, long]))


def test_images_are_decoded_once_and_memory_stays_bounded(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("processing.batch_images.open_image", lambda p: opened.append(p) or Image.new("RGB", (64, 64)))
    images = ResizedImages(ViltImageProcessorPil(size={"shortest_edge": 64}), max_bytes=2 * 64 * 64 * 3)
    for name in ("a", "b", "a", "a", "b"):
        assert images[name].shape == (3, 64, 64)
    assert opened == ["a", "b"]
    assert images["c"] is not None  # "a" is the least recently used now
    assert images["b"] is not None
    assert opened == ["a", "b", "c"]
    assert images["a"] is not None
    assert opened == ["a", "b", "c", "a"]


def test_an_image_that_fails_in_a_batch_is_named(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    collate = collator_for(build_tokenizer(QUESTIONS), {"yes": 0})
    with pytest.raises(ImageError, match=r"^Cannot open '.*gone\.png': it does not exist; check the path\.$"):
        collate([row(tmp_path / "a.png"), row(tmp_path / "gone.png")])

    def fail(*_, **__):
        raise ValueError("height and width must be > 0\n" * 9)

    monkeypatch.setattr("processing.batch_images.resize", fail)
    expected = (
        r"^Cannot open '.*a\.png': preparing it for the model failed \(ValueError: height and .{60,70}\.{3}\); l"
    )
    with pytest.raises(ImageError, match=expected) as caught:
        ResizedImages(None)[str(tmp_path / "a.png")]
    assert isinstance(caught.value.__cause__, ValueError)


# BLIP-2 --------------------------------------------------------------------------------------------------------------


def blip2_collator(kind: str, questions_per_image: int = 16, **options) -> Blip2Collator:
    image_processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.Blip2Processor(image_processor, make_tokenizer(kind, QUESTIONS), QUERIES)
    return Blip2Collator(processor, "Question: {} Answer:", questions_per_image, kind != "t5", **options)


@pytest.fixture
def image_rows(tmp_path):
    """Three rows, of which two are about the same image."""
    Image.new("RGB", (40, 32), "white").save(tmp_path / "a.png")
    Image.new("RGB", (40, 32), "black").save(tmp_path / "b.png")
    return [
        row(tmp_path / "a.png", QUESTIONS[0], "yes", 0),
        row(tmp_path / "b.png", QUESTIONS[1], "left", 1),
        row(tmp_path / "a.png", QUESTIONS[1], "right side", 2),
    ]


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_blip2_gives_each_image_once_and_says_which_a_question_is_about(image_rows, kind):
    collate = blip2_collator(kind)
    for batch in (collate(image_rows), collate.prompts(image_rows)):
        assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert batch["image_index"].tolist() == [0, 1, 0]
    assert batch["row"].tolist() == [0, 1, 2]


def test_blip2_prompts_are_padded_where_the_answer_is_not():
    for kind, side in (("opt", 0), ("t5", -1)):
        collate = blip2_collator(kind, features={"a": torch.zeros(4, 8)})
        batch = collate.prompts([row("a", "CT?"), row("a", "Where is the liver?")])
        assert batch["attention_mask"][0, side] == 0
        assert batch["attention_mask"][1].all()
        assert batch["image_embeds"].shape == (1, 4, 8)
        assert "pixel_values" not in batch


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_blip2_can_give_each_row_an_image_and_a_sequence_of_its_own(image_rows, kind):
    shared = blip2_collator(kind)
    batch = shared.with_image_for_each_row()(image_rows)
    assert batch["image_index"].tolist() == [0, 1, 2]
    assert len(batch["input_ids"]) == len(batch["pixel_values"]) == 3
    assert torch.equal(batch["pixel_values"][0], batch["pixel_values"][2])
    for number, one in enumerate(image_rows):
        alone = shared([one])
        ids = alone["input_ids"][0].tolist()
        assert batch["input_ids"][number, : len(ids)].tolist() == ids
        labels = alone["labels"][0].tolist()
        assert batch["labels"][number, : len(labels)].tolist() == labels
    assert len(shared(image_rows)["pixel_values"]) == 2, "the collator itself still shares"
