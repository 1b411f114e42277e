"""How a trained model that writes answers is asked, and how its tokens become answers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, ProcessorMixin

from metrics.abstention import SILENT_EVERYWHERE
from metrics.calibration import scaled
from modeling.parts.model_files import ModelFiles
from modeling.training.arguments import Blip2TrainingArguments
from processing.errors import UserError
from processing.storage import write_atomically

ANSWERING_FILE = "answering.json"


@dataclass(frozen=True)
class Answering:
    """How a trained model is asked; its trainer leaves this beside the weights.

    Args:
        prompt: with one `{}` for the question.
        max_new_tokens: length of the longest answer.
        num_beams: 1 is greedy.
        candidates: the answers to choose from, where they are not free text.
        confidence_scale: slope and offset that calibrate its confidence, by `metrics.calibration.scaled`.
        end_token_id: ended each answer in training; None stands for the tokenizer's.
        threshold: the model gives no answer whose confidence is below it. Above 1 it never gives one.
        quantization: of the base under it, 4bit or 8bit.
        evidence_labels: of the boxes that its evidence head learned from; None without a head.
        family: of the model, as `modeling.families.FAMILIES` names it; None stands for blip2.
        system: what a chat model is told before the question; None for what its template says by itself.
        max_pixels: of an image at most, where a model's tokens grow with it; None for what is usual.
    """

    prompt: str = Blip2TrainingArguments.prompt
    max_new_tokens: int = 20
    num_beams: int = 1
    candidates: list[str] | None = None
    confidence_scale: list[float] | None = None
    threshold: float = 0.0
    end_token_id: int | None = None
    quantization: str | None = None
    evidence_labels: list[str] | None = None
    family: str | None = None
    system: str | None = None
    max_pixels: int | None = None

    def calibrated(self, confidences: np.ndarray) -> np.ndarray:
        """Confidences of the model, 0 to 1, by `confidence_scale`."""
        return confidences if self.confidence_scale is None else scaled(confidences, *self.confidence_scale)

    def generation_config(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ends: Sequence[int],
        num_beams: int | None = None,
        num_return_sequences: int = 1,
    ) -> GenerationConfig:
        """What a model's `generate` takes.

        Args:
            tokenizer: its padding token fills the answers up.
            ends: the tokens that end an answer.
            num_beams: by default the model's own.
            num_return_sequences: answers to each prompt, at most `num_beams`.
        """
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams if num_beams is None else num_beams,
            num_return_sequences=num_return_sequences,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=list(ends),
        )

    def save(self, folder: str | Path) -> None:
        """Writes it into a model's folder."""
        values = asdict(self)
        for name in ("evidence_labels", "family", "system", "max_pixels"):
            if values[name] is None:
                del values[name]  # which earlier versions would not know
        write_atomically(Path(folder) / ANSWERING_FILE, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def from_pretrained(cls, files: ModelFiles) -> "Answering":
        """What a model's files say; the defaults where they say nothing.

        Raises:
            UserError: the file is damaged.
        """
        file = files.find(ANSWERING_FILE)
        if file is None:
            return cls()
        try:
            answering = cls(**json.loads(file.read_text(encoding="utf-8")))
            if answering.prompt.count("{}") != 1 or min(answering.max_new_tokens, answering.num_beams) < 1:
                raise ValueError
            if not 0 <= answering.threshold <= SILENT_EVERYWHERE:
                raise ValueError
            if answering.quantization not in (None, "4bit", "8bit"):
                raise ValueError
            answering.calibrated(np.array([0.5]))
            if not all(isinstance(number, int | None) for number in (answering.end_token_id, answering.max_pixels)):
                raise TypeError
            labels = answering.evidence_labels
            if labels is not None and not (labels and all(isinstance(label, str) for label in labels)):
                raise ValueError
            if not all(isinstance(text, str | None) for text in (answering.family, answering.system)):
                raise TypeError
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: it does not say how to ask the model; save the model again.") from error
        return answering


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens at which a model's answer ends: its own and the tokenizer's. The first one is for training to append.

    BLIP-2 over OPT learned to end at a new line, which its `generation_config.json` says and its tokenizer does not.

    Args:
        model: with a generation config.
        tokenizer: of the model.
    """
    own = model.generation_config.eos_token_id
    own = [] if own is None else own if isinstance(own, list) else [own]
    if tokenizer.eos_token_id in own:
        return [tokenizer.eos_token_id, *(token for token in own if token != tokenizer.eos_token_id)]
    return [*own, tokenizer.eos_token_id]


def decode_with(processor: ProcessorMixin, ends: Sequence[int]) -> Callable[[Any], list[str]]:
    """A function from tokens ``(N, T)`` to answers, without the tokens that end them."""

    def decode(tokens: Any) -> list[str]:
        tokens = torch.as_tensor(tokens)
        skipped = (tokens < 0) | torch.isin(tokens, torch.tensor(ends))  # Trainer pads with -100
        tokens = tokens.masked_fill(skipped, processor.tokenizer.pad_token_id)
        return [answer.strip() for answer in processor.batch_decode(tokens, skip_special_tokens=True)]

    return decode
