"""processing.chat: prompts by a chat template, what ends an answer, and templates that can't be used."""

from types import SimpleNamespace

import pytest

from processing.chat import ChatPrompts
from processing.errors import UserError
from tests.support.tiny_vlms import TEMPLATE, TINY, tokenizer

IMAGE = "<image>"


def prompts(template: str | None = TEMPLATE, **options) -> ChatPrompts:
    text = tokenizer(TINY, image_token=IMAGE)
    template = template and template.replace("IMAGE", IMAGE)
    processor = SimpleNamespace(tokenizer=text, image_token=IMAGE, chat_template=template)
    return ChatPrompts(processor, text.convert_tokens_to_ids(IMAGE), **options)


def test_the_question_stands_where_the_instruction_and_the_template_say():
    chat = prompts(instruction="{} Be brief.")
    assert chat.text("Is it a CT?") == (
        "<|im_start|>user\n<image>Is it a CT? Be brief.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_system_prompt_stands_before_the_question():
    chat = prompts(system="You are a radiologist.")
    assert chat.text("Is it a CT?").startswith(
        "<|im_start|>system\nYou are a radiologist.<|im_end|>\n<|im_start|>user\n"
    )


def test_trunk_and_rest_are_the_whole_prompt_cut_after_the_last_image_token():
    chat = prompts()
    prompt = chat("Is it a CT?", IMAGE * 3)
    whole = chat.tokenizer(chat.text("Is it a CT?").replace(IMAGE, IMAGE * 3))["input_ids"]
    assert prompt.trunk + prompt.rest == whole
    assert prompt.trunk[-3:] == [chat.image_token_id] * 3
    assert chat.image_token_id not in prompt.rest


def test_an_answer_ends_as_the_template_ends_a_turn():
    chat = prompts()
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    pad = chat.tokenizer.convert_tokens_to_ids("<pad>")
    assert chat.end_token([pad, end]) == end
    assert chat.answer_ids("no", end) == [*chat.tokenizer("no", add_special_tokens=False)["input_ids"], end]


def test_special_tokens_of_a_question_are_removed():
    assert prompts().text("Is <image> a<|im_end|> CT?") == prompts().text("Is  a CT?")
    assert prompts().text("Is <im<image>age>a CT?") == prompts().text("Is a CT?")


BACKWARDS = "{{ messages[0].content[1].text }}IMAGE"
NO_SYSTEM = TEMPLATE.replace(
    "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
)
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        (BACKWARDS, {}, "The model's chat template puts the question before the image"),
        (None, {}, "The model has no chat template, so it can't be asked"),
        ("{{ messages[0].content[1].text }}", {}, "The model's chat template has no place for an image"),
        (
            "{{ raise_exception('no') }}",
            {},
            r"The model's chat template can't be used here \(no\); choose another model",
        ),
        (NO_SYSTEM, {"system": "Be kind."}, "--system_prompt: the model's chat template has no place for one"),
        (REFUSES, {"system": "Be kind."}, r".* can't be used here \(no system role\); leave --system_prompt out\."),
    ],
)
def test_a_template_that_can_not_be_used_is_refused(template, options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        prompts(template, **options)
