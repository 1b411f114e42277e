"""The pictures of README and documentation say what the model answers and show what training does."""

import re
from itertools import groupby, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Blip2Processor, PreTrainedTokenizerFast

from benchmarks import pictures
from benchmarks.canvas import save_small, text_width, wrap
from benchmarks.hero import SLOTS, UNSURE, Card, choose_cards, draw_cards
from benchmarks.prefix_drawing import (
    END,
    IMAGE,
    PROMPT,
    QUESTIONS,
    SHARED,
    draw_shared_prefix,
    explanations,
    lay_out,
)
from benchmarks.vlm_prefix_drawing import WINDOW, lay_out_chat
from metrics.grounding import named_boxes, point
from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.predictor import Predictor
from processing.collators import Blip2Collator
from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.images import open_image
from spaces_app import content
from tests.support.tiny_blip2 import QUERIES, tiny_blip2


@pytest.fixture(scope="module")
def cards(phantoms, runs):
    rows = list(load_vqa_dataset(str(phantoms))["train"])  # the most kinds of questions
    return choose_cards(Predictor.from_pretrained(runs("vilt")), rows)


def test_cards_say_what_the_model_answers(cards, phantoms, runs):
    predictor = Predictor.from_pretrained(runs("vilt"))
    gold = {(row["image"], row["question"]): row for row in load_vqa_dataset(str(phantoms))["train"]}
    assert [card.title for card in cards] == [slot.title for slot in SLOTS]
    for card, slot in zip(cards, SLOTS, strict=True):
        row, answer = gold[card.image, card.question], predictor.answer(card.image, card.question, top_k=1)
        assert (row["modality"], row["location"]) == (slot.modality, slot.location)
        assert (card.answer, card.gold) == (answer.answer, row["answer"])
        assert card.confidence == pytest.approx(answer.confidence, abs=1e-5)
        assert card.right == (answer.answer == row["answer"])
        assert card.heat == pytest.approx(predictor.heat_map(card.image, card.question), abs=1e-6)


def test_the_words_of_a_card():
    card = Card("Chest CT", "x.jpg", "What is it?", "Nodule", 0.493, "None", False, np.ones((2, 2)), [])
    assert card.texts == ["Chest CT", "What is it?", "Nodule", "only 49% sure", "✗ should be: None"]
    right = card._replace(answer="None", confidence=0.5, right=True)
    assert right.texts[2:] == ["None", "50% sure", "✓ correct"]


def test_a_card_is_unsure_where_the_apps_are():
    assert UNSURE == content.UNSURE


def test_a_right_card_has_the_most_heat_on_what_is_named_and_a_wrong_one_the_least_confidence(phantoms):
    rows = [row for row in load_vqa_dataset(str(phantoms))["train"] if row["boxes"]]

    class Known:
        """Is right about all but the questions of the last slot; its heat and confidence go by the row's number."""

        def answer_batch(self, images, questions, top_k):
            wrong = slot_of(images[0], questions[0]) == SLOTS[-1]
            return [
                SimpleNamespace(answer="?" if wrong else row_of(image, question)["answer"], confidence=0.1 + i / 100)
                for i, (image, question) in enumerate(zip(images, questions, strict=True))
            ]

        def heat_map(self, image, question):
            heat = np.zeros((8, 8))
            heat.flat[18 + row_of(image, question)["row"] % 28] = 1
            return heat

    def row_of(image, question):
        return next(row for row in rows if (row["image"], row["question"]) == (image, question))

    def fits(row, slot):
        place = (row["modality"], row["location"]) == (slot.modality, slot.location)
        return place and re.match(slot.questions, row["question"]) is not None

    def slot_of(image, question):
        return next(slot for slot in SLOTS if fits(row_of(image, question), slot))

    def heat_inside(row):
        boxes = named_boxes(row["question"], row["answer"], row["boxes"])
        heat = Known().heat_map(row["image"], row["question"])
        return point(heat, boxes, open_image(row["image"]).size).mass if boxes else 0.0

    *right, wrong = choose_cards(Known(), rows)
    for card, slot in zip(right, SLOTS, strict=False):
        inside = [heat_inside(row) for row in rows if fits(row, slot)]
        assert heat_inside(row_of(card.image, card.question)) == max(inside)
    assert max(heat_inside(row_of(card.image, card.question)) for card in right) > 0
    assert (wrong.right, wrong.confidence) == (False, 0.1)


def test_the_picture_has_the_width_of_the_page_twice(cards):
    assert draw_cards(cards).width == 1800


def test_rows_that_lack_a_kind_of_image_are_refused(runs):
    with pytest.raises(UserError, match="No question of the test split that shows Abdomen CT"):
        choose_cards(Predictor.from_pretrained(runs("vilt")), [])


def test_the_sequence_that_is_drawn_is_that_of_training(phantoms, tmp_path, monkeypatch):
    """A BLIP-2 trains on the drawn questions, and what its language model gets is compared with the drawing."""
    words = sorted({word for pair in QUESTIONS for word in (*PROMPT.format(pair[0]).split(), pair[1])})
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["<pad>", END, *words])}, END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    word_tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token=END)
    folder = tiny_blip2("opt", load_vqa_dataset(str(phantoms)), tmp_path / "model")
    image_processor = Blip2Processor.from_pretrained(folder).image_processor
    collator = Blip2Collator(Blip2Processor(image_processor, word_tokenizer, QUERIES), PROMPT, 8, decoder_only=True)
    image = str(next((phantoms / "imgs").glob("*/source.jpg")))
    batch = collator([{"image": image, "question": question, "answer": answer} for question, answer in QUESTIONS])
    model = Blip2ForQuestionAnswering.from_pretrained(folder)
    seen = {}
    decoder = model.language_model.base_model
    forward = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda **inputs: seen.update(inputs) or forward(**inputs))
    model(**batch)

    layout = lay_out(image_tokens=QUERIES)
    assert layout.tokens[QUERIES:] == word_tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert layout.positions == seen["position_ids"][0].tolist()
    assert (layout.visible == (seen["attention_mask"][0, 0] == 0).numpy()).all()
    learned = [None if label == -100 else word_tokenizer.decode(label) for label in batch["labels"][0]]
    assert layout.labels[QUERIES:] == learned


def test_each_question_of_the_drawing_sees_the_image_and_its_own_words_alone():
    layout = lay_out()
    for place, (token, owner) in enumerate(zip(layout.tokens, layout.owners, strict=True)):
        if token in ("No", "Yes", "Liver"):
            question, answer = QUESTIONS[owner]
            read = [layout.tokens[column] for column in np.flatnonzero(layout.visible[place])]
            assert read == ["i1", "i2", "i3", "i4", *PROMPT.format(question).split(), answer]
            assert [layout.positions[column] for column in np.flatnonzero(layout.visible[place])] == [
                *range(len(read))
            ]
    assert explanations(layout)[-1][0] == "33 tokens become 21"
    assert draw_shared_prefix().width == 1800


@pytest.mark.parametrize("architecture", ["smolvlm", "gemma3"])
def test_each_question_of_a_chat_model_sees_the_trunk_and_its_own_words_alone(architecture):
    layout = lay_out_chat(architecture)
    seen = layout.visible | layout.beyond
    for place, (token, owner) in enumerate(zip(layout.tokens, layout.owners, strict=True)):
        if token in ("No", "Yes", "Liver"):
            question, answer = QUESTIONS[owner]
            read = [layout.tokens[column] for column in np.flatnonzero(seen[place])]
            assert read == ["User:", "i1", "i2", "i3", "i4", *question.split(), "Assistant:", answer]
            assert [layout.positions[column] for column in np.flatnonzero(seen[place])] == [*range(len(read))]
            assert layout.labels[place - 1 : place + 1] == [answer, END]
    assert sum(label is not None for label in layout.labels) == 2 * len(QUESTIONS)
    assert (layout.plain_tokens, len(layout.tokens)) == (33, 21)
    assert [owner for owner, _ in groupby(layout.owners)] == [SHARED, IMAGE, SHARED, 0, 1, 2]


def test_gemma_differs_by_images_that_see_all_and_by_a_window_along_the_conversation():
    most, gemma = lay_out_chat("smolvlm"), lay_out_chat("gemma3")
    assert not most.beyond.any()
    assert (gemma.tokens, gemma.positions) == (most.tokens, most.positions)
    image, positions = np.array(most.owners) == IMAGE, np.array(most.positions)
    whole = gemma.visible | gemma.beyond
    assert (whole == (most.visible | np.outer(image, image))).all()
    assert whole.sum() - most.visible.sum() == 6  # pairs of four image tokens, the later one seen by the earlier
    assert (gemma.beyond == (whole & (positions[:, None] - positions >= WINDOW))).all()
    assert (gemma.beyond.any(axis=1) == (positions >= WINDOW)).all()  # as if each question stood alone


def test_the_drawings_need_no_model(tmp_path):
    pictures.main([str(tmp_path), "--only", "prefix", "--folder", str(tmp_path / "docs")])
    for name in ("shared_prefix.png", "shared_prefix_vlm.png"):
        with Image.open(tmp_path / "docs" / name) as picture:
            assert picture.width == 1800
            assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_a_model_without_a_report_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"errors\.html is missing; train the model by `make demo`"):
        pictures.main([str(tmp_path), "--only", "errors", "--folder", str(tmp_path)])


def test_lines_are_as_wide_as_they_may_be():
    words = "What diseases are included in the picture?"
    lines = wrap(words, 120, 15)
    assert " ".join(lines) == words
    assert all(text_width(line, 15) <= 120 for line in lines)
    assert all(text_width(f"{a} {b.split()[0]}", 15) > 120 for a, b in pairwise(lines))


def test_large_areas_keep_their_colour_in_256(tmp_path):
    noise = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise[:, 32:] = torch.tensor([253, 254, 255], dtype=torch.uint8)
    save_small(Image.fromarray(noise.numpy()), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.mode == "P"
        assert (np.asarray(picture.convert("RGB"))[:, 32:] == (253, 254, 255)).all()
