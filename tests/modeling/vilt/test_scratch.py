"""modeling.vilt.scratch: tokenizers and models from nothing."""

import pytest

from modeling.vilt.checkpoints import check_base
from modeling.vilt.scratch import build_tokenizer
from processing.errors import UserError
from tests.modeling.vilt.arguments import arguments

QUESTIONS = ["Is this CT?", "Where is the liver?", "这是什么?"]


def test_tokenizer_knows_the_words_it_was_made_from_and_spells_others():
    tokenizer = build_tokenizer(QUESTIONS)
    assert tokenizer.tokenize("Where is this LIVER?") == ["where", "is", "this", "liver", "?"]
    assert tokenizer.tokenize("test") == ["t", "##e", "##s", "##t"]
    assert tokenizer.tokenize("什么") == ["什", "么"]
    ids = tokenizer("Is this CT?")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "is", "this", "ct", "?", "[SEP]"]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)


def test_tokenizer_does_not_depend_on_the_order_of_questions():
    one, two = (build_tokenizer(order).get_vocab() for order in (QUESTIONS, QUESTIONS[::-1]))
    assert one == two


def test_unknown_scratch_size_names_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="scratch:huge: unknown size; choose small or tiny"):
        check_base(arguments(tmp_path, model_name_or_path="scratch:huge"))
