"""modeling.vlm.network: many questions an image, with the losses, gradients and answers of one question a sequence."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from modeling.vlm import separate
from modeling.vlm.network import PrefixReader
from modeling.vlm.self_test import check_shared_prefix
from modeling.writing.candidates import AnswerTrie
from processing.errors import UserError
from tests.modeling.vlm.questions import SHAPES
from tests.support.tiny_vlms import MAKERS, OTHERS

sharing = pytest.mark.parametrize("asked", MAKERS, indirect=True)  # the others read each question by itself
ANSWERS = ("yes", "no", "the liver", "the lung", "the lungs")


def prompts(asked):
    batch = asked.collator.prompts(asked.rows)
    del batch["row"]
    return batch


def greedy(asked):
    return GenerationConfig(max_new_tokens=8, pad_token_id=0, eos_token_id=[asked.end])


def test_prompts_are_those_of_the_processor(asked):
    batch = prompts(asked)
    for number, row in enumerate(asked.rows):
        image = batch["image_index"][number]
        trunk = batch["trunk_ids"][image][batch["trunk_mask"][image].bool()]
        rest = batch["input_ids"][number][batch["attention_mask"][number].bool()]
        assert torch.cat([trunk, rest]).tolist() == asked.inputs(row)["input_ids"][0].tolist()


@sharing
def test_questions_of_an_image_are_one_sequence(asked):
    batch = asked.collator(asked.rows)
    assert batch["input_ids"].shape[0] == len(SHAPES)
    apart = [len(asked.inputs(row, asked.answer_ids(row["answer"]))["input_ids"][0]) for row in asked.rows]
    assert batch["input_ids"].numel() + batch["trunk_ids"].numel() < 0.9 * sum(apart)  # tokens


def test_losses_and_gradients_are_those_of_one_question_a_sequence(asked):
    plain = asked.plain_loss()
    plain.backward()
    wanted = asked.gradients()
    shared = asked.reader.forward(**asked.collator(asked.rows)).loss
    shared.backward()
    assert shared.item() == pytest.approx(plain.item(), rel=1e-5)
    assert (asked.gradients() - wanted).norm() < 1e-5 * wanted.norm()


@sharing
def test_several_sequences_of_an_image_have_the_same_loss(asked):
    whole = asked.reader.forward(**asked.collator(asked.rows)).loss
    asked.collator.questions_per_image = 2
    batch = asked.collator(asked.rows)
    asked.collator.questions_per_image = 16
    assert len(batch["input_ids"]) == 2 * len(SHAPES)
    assert len(batch["trunk_ids"]) == len(SHAPES)
    assert asked.reader.forward(**batch).loss.item() == pytest.approx(whole.item(), rel=1e-5)


def test_answers_are_those_of_generate(asked):
    tokens, confidence = asked.reader.generate(**prompts(asked), generation_config=greedy(asked))
    assert list(asked.up_to_end(tokens)) == asked.written
    assert len({tuple(answer) for answer in asked.written}) > 3  # they depend on image and question
    assert ((confidence > 0) & (confidence <= 1)).all()


def test_beams_are_those_of_generate(asked):
    config = greedy(asked)
    config.num_beams = config.num_return_sequences = 2
    tokens, confidence = asked.reader.generate(**prompts(asked), generation_config=config)
    assert tokens.shape[0] == confidence.shape[0] == 2 * len(asked.rows)
    for number in (0, len(asked.rows) - 1):
        inputs = asked.inputs(asked.rows[number])
        with asked.reader.stock_forward():
            own = asked.model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :]
        found = tokens[2 * number : 2 * number + 2]
        assert list(asked.up_to_end(found)) == list(asked.up_to_end(own))


def test_likelihoods_of_candidates_are_those_of_each_by_itself(asked):
    trie = AnswerTrie([asked.answer_ids(answer) for answer in ANSWERS])
    scores = asked.reader.score([trie] * len(asked.rows), **prompts(asked))
    with torch.no_grad():
        wanted = [[asked.log_probabilities(row, answer).sum() for answer in ANSWERS] for row in asked.rows]
    np.testing.assert_allclose(scores.numpy(), np.array(wanted), atol=1e-4)


@pytest.mark.parametrize("asked", OTHERS, indirect=True)
def test_candidates_are_scored_a_few_at_a_time(asked, monkeypatch):
    trie = AnswerTrie([asked.answer_ids(answer) for answer in ANSWERS])
    together = asked.reader.score([trie] * len(asked.rows), **prompts(asked))
    monkeypatch.setattr(separate, "SCORED", 2)
    np.testing.assert_allclose(asked.reader.score([trie] * len(asked.rows), **prompts(asked)), together, atol=1e-4)


@sharing
def test_the_self_test_passes_and_its_figure_is_small(asked):
    assert check_shared_prefix(asked.reader, asked.collator, asked.rows[:2], "tiny") < 1e-5
    assert check_shared_prefix(asked.reader, asked.collator, [asked.rows[0]] * 2, "tiny") < 1e-5


def all_seen(reader, trunks):
    return trunks.mask[:, None].expand(-1, trunks.ids.shape[1], -1)


def flat_places(reader, trunks):
    order = (trunks.mask.cumsum(1) - 1).clamp_min(0)
    return order, order.expand(3, -1, -1), torch.zeros_like(order[:, :1])


FAULTS = {  # what is wrong instead, and the architectures that it is wrong for
    "seen_by_trunks": (all_seen, MAKERS.keys()),
    "places": (flat_places, ("qwen2_5_vl", "qwen3_vl")),
    "_within_images": (lambda reader, trunks: None, ("gemma3",)),
    "window": (None, ("gemma3",)),
}


WRONG = [(architecture, name) for name, (_, wrong_for) in FAULTS.items() for architecture in wrong_for]


@pytest.mark.parametrize(("asked", "name"), WRONG, indirect=["asked"])
def test_the_self_test_finds_what_is_wrong(asked, name, monkeypatch):
    fault, _ = FAULTS[name]
    if fault is None:
        monkeypatch.setattr(asked.reader, name, None)
    else:
        monkeypatch.setattr(PrefixReader, name, fault)
    with pytest.raises(UserError, match="^tiny: questions about one image can't share its prefix in this model: "):
        check_shared_prefix(asked.reader, asked.collator, asked.rows[2:4], "tiny")
