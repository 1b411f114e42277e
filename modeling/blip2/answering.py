"""How a trained BLIP-2 is asked, and how its tokens become answers."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Blip2Processor, GenerationConfig, PreTrainedTokenizerBase

from metrics.abstention import SILENT_EVERYWHERE
from metrics.calibration import scaled
from modeling.parts.loading import find_file
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
        threshold: the model gives no answer whose confidence is below it. Above 1 it never gives one.
        quantization: of the base under it, 4bit or 8bit.
    """

    prompt: str = Blip2TrainingArguments.prompt
    max_new_tokens: int = 20
    num_beams: int = 1
    candidates: list[str] | None = None
    confidence_scale: list[float] | None = None
    threshold: float = 0.0
    quantization: str | None = None

    def calibrated(self, confidences: np.ndarray) -> np.ndarray:
        """Confidences of the model, 0 to 1, by `confidence_scale`."""
        return confidences if self.confidence_scale is None else scaled(confidences, *self.confidence_scale)

    def generation_config(
        self, tokenizer: PreTrainedTokenizerBase, num_beams: int | None = None, num_return_sequences: int = 1
    ) -> GenerationConfig:
        """What `Blip2ForQuestionAnswering.generate` takes.

        Args:
            tokenizer: its end token ends an answer.
            num_beams: by default the model's own.
            num_return_sequences: answers to each prompt, at most `num_beams`.
        """
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams if num_beams is None else num_beams,
            num_return_sequences=num_return_sequences,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )

    def save(self, folder: str | Path) -> None:
        """Writes it into a model's folder."""
        write_atomically(Path(folder) / ANSWERING_FILE, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def from_pretrained(cls, name: str) -> "Answering":
        """What a model's folder or Hub id says; the defaults where it says nothing.

        Raises:
            UserError: the file is damaged.
        """
        file = find_file(name, ANSWERING_FILE)
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
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: it does not say how to ask the model; save the model again.") from error
        return answering


def decode_with(processor: Blip2Processor) -> Callable[[Any], list[str]]:
    """A function from tokens ``(N, T)`` to answers."""

    def decode(tokens: Any) -> list[str]:
        tokens = torch.as_tensor(tokens)
        tokens = tokens.masked_fill(tokens < 0, processor.tokenizer.pad_token_id)  # Trainer pads with -100
        return [answer.strip() for answer in processor.batch_decode(tokens, skip_special_tokens=True)]

    return decode
