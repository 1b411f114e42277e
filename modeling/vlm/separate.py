"""Models of other architectures: each question reads the kept features of its image by the model's own forward."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import CausalLMOutputWithPast

from modeling.vlm.architectures import ARCHITECTURES, Architecture
from modeling.vlm.images import process_image, take_vision
from modeling.vlm.network import PrefixReader
from modeling.vlm.self_test import tolerance
from modeling.vlm.trunks import Trunks, whole_sequences
from modeling.writing.candidates import AnswerTrie
from processing.chat import ChatPrompts
from processing.errors import UserError, describe_error

QUESTION, SHAPE = "Is it a square?", (96, 64)  # of the test
SCORED = 16  # answers at a time


class SeparateReader(PrefixReader):
    """Reads the features of an image again for each of its questions, in a sequence of its own.

    It takes rows with one question each. It has no maps of where it looked.
    """

    shares_prefix = False

    def stock_inputs(self, trunks: Trunks, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        """As `PrefixReader` says, with whatever the model asks about the places of images."""
        inputs = super().stock_inputs(trunks, ids, mask)
        asked = inspect.signature(type(self.model).forward).parameters
        names = {"mm_token_type_ids", "token_type_ids"} & asked.keys()
        return inputs | dict.fromkeys(names, (ids == self.image_token_id).long())

    def answer_losses(
        self, trunks: Trunks, input_ids: torch.Tensor, real: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss at each of the last places of sequences, and their logits; 0 where there is no label.

        Args:
            trunks: one a row.
            input_ids: what follows them, ``(B, L)``.
            real: which of these are no padding, ``(B, L)``.
            labels: the token that follows each of these where it belongs to an answer, else -100, ``(B, L)``.
        """
        ids, mask, order = whole_sequences(trunks, input_ids, real)
        targets = nn.functional.pad(labels, (trunks.ids.shape[1], 0), value=-100).gather(1, order)
        last = targets.shape[1] - int((targets != -100).any(0).nonzero()[0])  # the vocabulary is the widest layer
        with self.stock_forward():
            output = self.model(**self.stock_inputs(trunks, ids, mask), logits_to_keep=last)
        logits, targets = output.logits[:, -last:].float(), targets[:, -last:]
        return nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none"), logits[targets != -100]

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor,
        visible: torch.Tensor,
        image_index: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        evidence: dict[str, torch.Tensor] | None = None,
        **images: Any,
    ) -> CausalLMOutputWithPast:
        """As `PrefixReader` says."""
        answered = labels != -100
        real = answered.flip(1).cumsum(1).flip(1) > 0  # an answer is the end of its row
        losses, logits = self.answer_losses(self.trunks(**images).of(image_index), input_ids, real, labels)
        count = answered.sum() if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutputWithPast(loss=losses.sum() / count, logits=logits)

    @torch.no_grad()
    def score(
        self,
        tries: Sequence[AnswerTrie],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        **images: Any,
    ) -> torch.Tensor:
        """As `PrefixReader` says, each answer in a sequence of its own."""
        trunks = self.trunks(**images)
        scores = []
        for trie, prompt, mask, image in zip(tries, input_ids, attention_mask, image_index, strict=True):
            answers = trie.sequences.to(prompt.device)
            count = len(answers)
            labels = torch.cat([prompt.new_full((count, len(prompt) - 1), -100), answers], dim=1)
            ids = torch.cat([prompt.expand(count, -1), answers[:, :-1].clamp_min(0)], dim=1)
            real = torch.cat([mask.bool().expand(count, -1), answers[:, :-1] != -100], dim=1)
            parts = zip(ids.split(SCORED), real.split(SCORED), labels.split(SCORED), strict=True)
            losses = [self.answer_losses(trunks.of(image.expand(len(part[0]))), *part)[0].sum(1) for part in parts]
            scores.append(-torch.cat(losses))
        return pad_sequence(scores, batch_first=True, padding_value=-torch.inf)


def make_reader(model: Any, processor: Any, name: str) -> PrefixReader:
    """What reads images with a model: once for all of their questions where its architecture is a known one.

    Args:
        model: whole, without an adapter.
        processor: of the model.
        name: of the model.

    Raises:
        UserError: it is another one and does not answer alike from kept features.
    """
    if model.config.model_type in ARCHITECTURES:
        return PrefixReader(model)
    try:
        reader, difference = _try_separate(model, processor)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # of its processor or its forward, which nobody has tried
        raise UserError(_refusal(model, name, describe_error(error))) from error
    if not difference <= tolerance(model):
        raise UserError(_refusal(model, name, f"its logits differ by {difference:.1%}"))
    return reader


def _refusal(model: Any, name: str, reason: str) -> str:
    known = ", ".join(ARCHITECTURES)
    return (
        f"{name}: a model of type {model.config.model_type} can't answer from kept features of its images ({reason}); "
        f"choose one of {known}."
    )


@torch.no_grad()
def _try_separate(model: Any, processor: Any) -> tuple[SeparateReader, float]:
    """A reader of a model, and by how much its logits for a question differ from those by pixels, relative."""
    image = Image.linear_gradient("L").resize(SHAPE).convert("RGB")
    chat = ChatPrompts(processor, model.config.image_token_id)
    pixels, text = process_image(processor, image)
    pixels = {name: value.to(model.device) for name, value in pixels.items()}
    prompt = chat(QUESTION, text)
    ids = torch.tensor([prompt.trunk + prompt.rest], device=model.device)
    plain = processor(images=[image], text=[chat.text(QUESTION)], return_tensors="pt", **chat.options)
    wanted = model(**{name: value.to(model.device) for name, value in plain.items()}).logits.float()
    inner = dict(model.model._modules)
    vision = take_vision(model)
    try:
        output = vision.model.get_image_features(**pixels, return_dict=True)
        reader = SeparateReader(model, Architecture(one_tensor=torch.is_tensor(output.pooler_output)))
        grid = [pixels["image_grid_thw"][0]] if "image_grid_thw" in pixels else None
        trunks = Trunks(ids[:, :0], ids[:, :0], [vision(pixels)], grid)
        found = model(**reader.stock_inputs(trunks, ids, torch.ones_like(ids))).logits.float()
    finally:
        model.model._modules.update(inner)
    return reader, float((found - wanted).norm() / wanted.norm())
