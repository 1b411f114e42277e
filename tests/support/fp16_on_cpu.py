"""FP16 mixed precision on a CPU, which PyTorch can do and Accelerate leaves to GPUs: autocast and a loss scaler.

What overflows, underflows or can't be unscaled on a GPU does so here, only slowly. On a GPU it is FP16 as ever.
"""

from typing import Any

import pytest
import torch
from accelerate import Accelerator

from modeling.training.arguments import AnyTrainingArguments

INITIAL_SCALE = 64.0  # PyTorch's own, 65536, is found too large in the first steps of many models

_init = Accelerator.__init__


def _with_scaler(self: Accelerator, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    if self.mixed_precision == "fp16":
        self.native_amp = True
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=INITIAL_SCALE)


def use_fp16(args: AnyTrainingArguments, monkeypatch: pytest.MonkeyPatch) -> AnyTrainingArguments:
    """The arguments with FP16 as a GPU would have it; the Trainers of this test obey them on the CPU too."""
    monkeypatch.setattr(Accelerator, "__init__", _with_scaler)
    args.fp16, args.bf16, args.mixed_precision = True, False, "fp16"
    return args
