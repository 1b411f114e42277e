"""Exponential average of weights: a model that is better than any of the last steps that it averages.

As in Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780; the decay of an early step t is lower,
``(1 + t) / (10 + t)``, so that the average forgets the start.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

LIVE_WEIGHTS = "live.safetensors"  # of a checkpoint: what training goes on from; its model.safetensors is the average


class AveragingTrainer(Trainer):
    """A Trainer that evaluates and saves the average of its weights where `args.weight_average_decay` is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.average: dict[str, torch.Tensor] | None = None  # while it trains
        if self.args.weight_average_decay is not None:
            self.add_callback(_Average(self))

    def weights(self) -> dict[str, torch.Tensor]:
        """What training changes: trained parameters, and statistics of normalisations."""
        model: nn.Module = self.accelerator.unwrap_model(self.model)
        buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
        return {name: p.data for name, p in model.named_parameters() if p.requires_grad} | buffers

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the average instead of its own weights."""
        if self.average is None:
            yield
            return
        live = {name: value.clone() for name, value in self.weights().items()}
        self.set_weights(self.average)
        try:
            yield
        finally:
            self.set_weights(live)

    @torch.no_grad()
    def set_weights(self, values: dict[str, torch.Tensor]) -> None:
        """Copies tensors into `weights`."""
        for name, weight in self.weights().items():
            weight.copy_(values[name])

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As the Trainer's, of the average."""
        with self.averaged():
            return super().evaluation_loop(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with self.averaged():
            super()._save(output_dir)
        if self.average is not None and self.args.should_save:
            live = {name: value.contiguous() for name, value in self.weights().items()}
            save_file(live, Path(output_dir or self.args.output_dir) / LIVE_WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        live = Path(resume_from_checkpoint) / LIVE_WEIGHTS
        if self.args.weight_average_decay is not None and live.is_file():
            self.average = {name: value.clone() for name, value in self.weights().items()}
            self.set_weights(load_file(live))


class _Average(TrainerCallback):
    def __init__(self, trainer: AveragingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        if self.trainer.average is None:
            self.trainer.average = {name: value.clone() for name, value in self.trainer.weights().items()}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, *_: Any, **kwargs: Any) -> None:
        average, live = self.trainer.average or {}, self.trainer.weights()
        decay = min(args.weight_average_decay, (1 + state.global_step) / (10 + state.global_step))
        torch._foreach_lerp_([average[name] for name in live], list(live.values()), 1 - decay)

    def on_train_end(self, args: Any, *_: Any, **kwargs: Any) -> None:
        average, self.trainer.average = self.trainer.average or {}, None
        if not args.load_best_model_at_end:  # else the best checkpoint's is in the model
            self.trainer.set_weights(average)
