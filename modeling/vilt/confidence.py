"""From a ViLT's logits to answers and how sure the model is of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import ViltConfig

from metrics.calibration import TEMPERATURES
from processing.answers import answer_identity


def answer_probabilities(logits: torch.Tensor, config: ViltConfig, temperature: float | None = None) -> torch.Tensor:
    """Logits ``(B, num_labels)`` to the probability of each answer. Only the starter's add up to one.

    Args:
        temperature: by default the config's `answer_temperature`, by which the model is calibrated, or 1.
    """
    logits = logits.float() / (temperature or answer_temperature(config))
    return logits.softmax(-1) if is_exclusive(config) else logits.sigmoid()


def is_exclusive(config: ViltConfig) -> bool:
    """Whether the probabilities of all answers add up to one; else the model was trained by binary cross entropy."""
    return config.problem_type == "single_label_classification"


def answer_temperature(config: ViltConfig) -> float:
    """The temperature that calibrates the model, 1 where it was not calibrated."""
    return getattr(config, "answer_temperature", 1.0)


class Options:
    """The options of rows with `choices`, as label ids of a model.

    Args:
        config: with the answers that the model knows.
    """

    def __init__(self, config: ViltConfig) -> None:
        self.config = config
        self._ids = {answer_identity(label): i for label, i in config.label2id.items()}

    def known(self, row: Mapping[str, Any]) -> dict[int, str]:
        """The row's options that the model knows, by their label id; empty where a row has no choices."""
        options = [(self._ids.get(answer_identity(text)), text) for text in row.get("choices") or ()]
        return {label: text for label, text in options if label is not None}

    def probabilities(
        self, logits: torch.Tensor, row: Mapping[str, Any], temperatures: Sequence[float] | None = None
    ) -> torch.Tensor:
        """The probability of each of the row's known options at each temperature, ``(temperatures, known)``.

        It is that among the options where the model knows them all. Where it does not, all its other answers stand for
        those that it doesn't know, so that the only option it knows is not certain.

        Args:
            logits: of one row, ``(num_labels,)``.
            row: with choices, of which the model knows some.
            temperatures: by default the model's own alone.
        """
        labels = list(self.known(row))
        at = torch.tensor(temperatures or [answer_temperature(self.config)], device=logits.device)
        logits = logits.float() / at[:, None].float()
        log_p = logits.log_softmax(-1) if is_exclusive(self.config) else nn.functional.logsigmoid(logits)
        own = log_p[:, labels]
        return own.softmax(-1) if len(labels) == len(row["choices"]) else own.exp()


class ChosenAnswers:
    """The `preprocess_logits_for_metrics` hook: it keeps the chosen answers and not the logits.

    It turns logits ``(B, num_labels)`` into the best label ``(B,)``, its probability at each of `TEMPERATURES`
    ``(B, temperatures)``, and the probability of "no answer" ``(B,)``. For a row with choices of which the model knows
    any, the label is the likeliest of these, and its probability that of `Options`.

    Args:
        config: of the model.
        gold: rows by their number, which is what the Trainer has for labels.
    """

    def __init__(self, config: ViltConfig, gold: Mapping[int, Mapping[str, Any]]) -> None:
        self.config = config
        self.no_answer_label = config.label2id.get("")
        self.gold = gold
        self.has_choices = any("choices" in row for row in gold.values())
        self.options = Options(config)

    def __call__(self, logits: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        probabilities = answer_probabilities(logits, self.config)
        label = probabilities.argmax(-1)
        temperatures = TEMPERATURES.tolist()
        confidences = torch.stack(
            [answer_probabilities(logits, self.config, at).max(-1).values for at in temperatures], 1
        )
        for i, number in enumerate(rows.tolist() if self.has_choices else ()):
            row = self.gold[number]
            if known := list(self.options.known(row)):
                best = int(logits[i, known].argmax())
                label[i] = known[best]
                confidences[i] = self.options.probabilities(logits[i], row, temperatures)[:, best]
        no_answer = torch.zeros_like(confidences[:, 0])
        if self.no_answer_label is not None:
            no_answer = probabilities[:, self.no_answer_label]
        return label, confidences, no_answer


def calibrated_confidences(confidences: np.ndarray, config: ViltConfig) -> np.ndarray:
    """Confidences at each of `TEMPERATURES` ``(N, temperatures)`` to those at the model's own ``(N,)``."""
    return confidences[:, np.abs(TEMPERATURES - answer_temperature(config)).argmin()]
