"""From a ViLT's logits to answers and how sure the model is of them."""

import numpy as np
import torch
from transformers import ViltConfig

from metrics.calibration import TEMPERATURES


def answer_probabilities(logits: torch.Tensor, config: ViltConfig, temperature: float | None = None) -> torch.Tensor:
    """Logits ``(B, num_labels)`` to the probability of each answer. Only the starter's add up to one.

    Args:
        temperature: by default the config's `answer_temperature`, by which the model is calibrated, or 1.
    """
    exclusive = config.problem_type == "single_label_classification"  # else trained by binary cross entropy
    logits = logits.float() / (temperature or answer_temperature(config))
    return logits.softmax(-1) if exclusive else logits.sigmoid()


def answer_temperature(config: ViltConfig) -> float:
    """The temperature that calibrates the model, 1 where it was not calibrated."""
    return getattr(config, "answer_temperature", 1.0)


class ChosenAnswers:
    """The `preprocess_logits_for_metrics` hook: it keeps the chosen answers and not the logits.

    It turns logits ``(B, num_labels)`` into the best label ``(B,)``, its probability at each of `TEMPERATURES`
    ``(B, temperatures)``, and the probability of "no answer" ``(B,)``.
    """

    def __init__(self, config: ViltConfig) -> None:
        self.config = config
        self.no_answer_label = config.label2id.get("")

    def __call__(self, logits: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        probabilities = answer_probabilities(logits, self.config)
        label = probabilities.argmax(-1)
        confidences = [answer_probabilities(logits, self.config, at).max(-1).values for at in TEMPERATURES.tolist()]
        no_answer = torch.zeros_like(confidences[0])
        if self.no_answer_label is not None:
            no_answer = probabilities[:, self.no_answer_label]
        return label, torch.stack(confidences, 1), no_answer


def calibrated_confidences(confidences: np.ndarray, config: ViltConfig) -> np.ndarray:
    """Confidences at each of `TEMPERATURES` ``(N, temperatures)`` to those at the model's own ``(N,)``."""
    return confidences[:, np.abs(TEMPERATURES - answer_temperature(config)).argmin()]
