"""What chat models of images and text read: a question after its image, as their own template says."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from processing.errors import UserError

MOST_KNOWN = 4096  # questions whose tokens are kept
PLACEHOLDER = "\N{REPLACEMENT CHARACTER}answer\N{REPLACEMENT CHARACTER}"  # in no template


class ChatPrompt(NamedTuple):
    """The token ids of a prompt: up to its image's last token, which all questions of an image share, and after it."""

    trunk: list[int]
    rest: list[int]


class ChatPrompts:
    """Prompts by a processor's chat template, ready for the answer.

    Args:
        processor: with `tokenizer`, `image_token` and a chat template.
        image_token_id: fills the places of an image in the model's input.
        instruction: what the user says, with one `{}` for the question.
        system: what stands before it; None for what the template has by itself.

    Attributes:
        options: of the tokenizer for a whole prompt.

    Raises:
        UserError: there is no chat template, or it has no place for an image or a system prompt.
    """

    def __init__(
        self, processor: Any, image_token_id: int, instruction: str = "{}", system: str | None = None
    ) -> None:
        self.tokenizer = processor.tokenizer
        self.image_token = processor.image_token
        self.image_token_id = image_token_id
        self.image_token_text = self.tokenizer.convert_ids_to_tokens(image_token_id)
        self.instruction = instruction
        self.system = system
        self.template = getattr(processor, "chat_template", None) or self.tokenizer.chat_template
        if self.template is None:
            raise UserError("The model has no chat template, so it can't be asked; choose an instruction-tuned one.")
        specials = {*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab(), self.image_token}
        self._special = re.compile("|".join(re.escape(token) for token in sorted(specials, key=len, reverse=True)))
        try:
            text = self._render([])
        except TemplateError as error:
            mend = "choose another model" if system is None else "leave --system_prompt out"
            raise UserError(f"The model's chat template can't be used here ({error}); {mend}.") from error
        if system is not None and system.strip() not in text:
            raise UserError("--system_prompt: the model's chat template has no place for one; put it into --prompt.")
        if text.count(self.image_token) != 1:
            raise UserError("The model's chat template has no place for an image; choose a model of images and text.")
        if PLACEHOLDER in self.text(PLACEHOLDER).partition(self.image_token)[0]:
            raise UserError("The model's chat template puts the question before the image; choose another model.")
        begins = bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)
        self.options = {"add_special_tokens": not begins}
        self._trunks: dict[str, list[int]] = {}
        self._rests: dict[tuple[str, str], list[int]] = {}
        self._space = "" if text[-1:].isspace() else " "

    def _render(self, turns: list[dict[str, Any]], question: str = "", **options: Any) -> str:
        while self._special.search(question):  # what is left may be another
            question = self._special.sub("", question)
        said = self.instruction.replace("{}", question)
        user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": said}]}
        system = (
            [] if self.system is None else [{"role": "system", "content": [{"type": "text", "text": self.system}]}]
        )
        options = {"add_generation_prompt": not turns} | options
        return self.tokenizer.apply_chat_template(
            [*system, user, *turns], chat_template=self.template, tokenize=False, **options
        )

    def text(self, question: str) -> str:
        """The prompt as text, with one placeholder for the image. Special tokens in a question are left out."""
        return self._render([], question)

    def __call__(self, question: str, image_text: str) -> ChatPrompt:
        """The token ids of a prompt. What comes after a special token doesn't depend on what comes before it.

        Args:
            image_text: what the processor puts in the placeholder's place for the image.
        """
        if len(self._rests) > MOST_KNOWN:
            self._trunks.clear()
            self._rests.clear()
        after_image = image_text.rpartition(self.image_token_text)[2]
        if image_text not in self._trunks or (question, after_image) not in self._rests:
            text = self.text(question).replace(self.image_token, image_text, 1)
            ids = self.tokenizer(text, **self.options)["input_ids"]
            cut = len(ids) - ids[::-1].index(self.image_token_id)
            self._trunks[image_text], self._rests[question, after_image] = ids[:cut], ids[cut:]
        return ChatPrompt(self._trunks[image_text], self._rests[question, after_image])

    def answer_ids(self, answer: str, end_token_id: int) -> list[int]:
        """Token ids of an answer, the end token last. A space stands before it where the prompt doesn't end in one."""
        return [*self.tokenizer(f"{self._space}{answer}", add_special_tokens=False)["input_ids"], end_token_id]

    def end_token(self, ends: Sequence[int]) -> int:
        """The token by which the template ends an answer.

        Args:
            ends: the tokens at which generation ends; the first one where the template has none of them.
        """
        turn = {"role": "assistant", "content": [{"type": "text", "text": PLACEHOLDER}]}
        after = self._render([turn]).partition(PLACEHOLDER)[2]
        found = [token for token in self.tokenizer(after, add_special_tokens=False)["input_ids"] if token in ends]
        return found[0] if found else ends[0]
