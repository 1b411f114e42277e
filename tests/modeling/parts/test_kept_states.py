"""modeling.parts.kept_states: a frozen text encoder runs once per question."""

import datasets
import pytest
import torch
from transformers import BertConfig, BertModel

from modeling.parts import kept_states as module
from modeling.parts.kept_states import kept_states
from modeling.vilt.scratch import build_tokenizer

QUESTIONS = ["What is this?", "Is the left lung healthy?", "Where is the liver?"]


LONG = " ".join(["What is this?"] * 5)


def asked(questions):
    return datasets.Dataset.from_dict({"question": questions})


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=100, **sizes), add_pooling_layer=False)


@pytest.fixture
def tokenizer():
    return build_tokenizer(QUESTIONS)


def test_states_are_the_encoders_of_each_question_alone(encoder, tokenizer):
    states = kept_states(encoder, tokenizer, 12, {"train": asked(QUESTIONS * 2), "test": asked([LONG])})
    assert states.keys() == {*QUESTIONS, LONG}
    for question, kept in states.items():
        inputs = tokenizer(question, truncation=True, max_length=12, return_tensors="pt")
        with torch.no_grad():
            expected = encoder(inputs["input_ids"]).last_hidden_state[0]
        torch.testing.assert_close(kept.float(), expected, atol=2e-3, rtol=2e-3)
        assert kept.dtype == torch.float16
    assert len(states[LONG]) == 12


def test_states_of_too_many_questions_are_not_kept(encoder, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "MAX_QUESTIONS", 2)
    assert len(kept_states(encoder, tokenizer, 12, {"train": asked(QUESTIONS[:2] * 9)})) == 2
    assert kept_states(encoder, tokenizer, 12, {"train": asked(QUESTIONS)}) is None
