"""Questions about images, as the models of transformers read them by themselves: one a sequence."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from modeling.vlm.images import TEXT_INPUTS, KeptImages, VisionPart
from modeling.vlm.separate import make_reader
from processing.chat import ChatPrompts
from processing.chat_collator import ChatCollator
from tests.support.tiny_vlms import TinyVlm

SHAPES = ((40, 70), (64, 64), (30, 90))  # rows and columns: tiles and grids of several kinds
PAIRS = (
    ("Is it a CT?", "yes"),
    ("Is it an MRI?", "no"),
    ("What organ is it?", "the liver"),
    ("What is abnormal in it?", "a nodule"),
)


class Asked:
    """A model and questions about images.

    Attributes:
        name: of its architecture.
        model: of transformers, whole.
        reader: of the model.
        rows: `image`, `question` and `answer` of each; images are named by their number.
        collator: of the rows.
    """

    def __init__(self, name: str, tiny: TinyVlm, images: list[Image.Image]) -> None:
        self.name, self.model, self.processor = name, tiny.model, tiny.processor
        self.reader = make_reader(self.model, self.processor, name)
        self.images = images
        self.chat = ChatPrompts(self.processor, self.model.config.image_token_id, "{} Be brief.")
        kept = KeptImages(VisionPart(self.model), self.processor, 0)
        read = {str(number): kept.read(image) for number, image in enumerate(images)}
        self.end: int = self.processor.tokenizer.eos_token_id
        self.collator = ChatCollator(self.chat, read, 16, self.end)
        if not self.reader.shares_prefix:
            self.collator = self.collator.with_image_for_each_row()
        pairs = [(number, *pair) for number in range(len(images)) for pair in PAIRS]
        self.rows = [
            {"row": row, "image": str(number), "question": question, "answer": answer}
            for row, (number, question, answer) in enumerate(pairs)
        ]

    def inputs(self, row: dict[str, Any], answer: list[int] | None = None) -> dict[str, torch.Tensor]:
        """What the model's own processor makes of a row's image and prompt, and an answer after it."""
        image, text = self.images[int(row["image"])], self.chat.text(row["question"])
        inputs = dict(self.processor(images=[image], text=[text], return_tensors="pt"))
        if answer:
            for name in set(TEXT_INPUTS) & inputs.keys():
                value = (
                    torch.tensor([answer])
                    if name == "input_ids"
                    else inputs[name].new_full((1, len(answer)), int(name == "attention_mask"))
                )
                inputs[name] = torch.cat([inputs[name], value], dim=1)
        return inputs

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer, the end token last."""
        return self.chat.answer_ids(answer, self.end)

    def log_probabilities(self, row: dict[str, Any], answer: str) -> torch.Tensor:
        """Of an answer's tokens, by the model's own forward."""
        ids = self.answer_ids(answer)
        inputs = self.inputs(row, ids)
        with self.reader.stock_forward():
            logits = self.model(**inputs).logits[0, -len(ids) - 1 : -1].float()
        return logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]

    def plain_loss(self) -> torch.Tensor:
        """The mean loss of the tokens of all answers."""
        return -torch.cat([self.log_probabilities(row, row["answer"]) for row in self.rows]).mean()

    def gradients(self) -> torch.Tensor:
        """Those of the language model, which are then forgotten."""
        parameters = list(self.model.get_decoder().parameters())
        found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).clone()
        self.model.zero_grad()
        return found

    @cached_property
    def written(self) -> list[list[int]]:
        """The answer that the model itself generates to each row."""
        return [self._generated(self.inputs(row)) for row in self.rows]

    def _generated(self, inputs: dict[str, torch.Tensor]) -> list[int]:
        with self.reader.stock_forward():
            tokens = self.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        return tokens[0, inputs["input_ids"].shape[1] :].tolist()

    def up_to_end(self, tokens: torch.Tensor) -> Iterator[list[int]]:
        """Answers without what comes after their end token."""
        for answer in tokens.tolist():
            yield answer[: answer.index(self.end) + 1] if self.end in answer else answer
