"""Checkpoints that a run can go on from, whole ones alone: also after a kill, a preemption or a full disk."""

import json
import logging
import shutil
import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from processing.errors import DISK_FULL, UserError

logger = logging.getLogger(__name__)

WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")


class Stopped(UserError):
    """A run that was asked to end before its time; it is no fault."""

    exit_status = 128 + signal.SIGTERM


def damage(checkpoint: str | Path) -> str | None:
    """What is missing or incomplete in a checkpoint, None where it is whole.

    The Trainer writes weights, optimizer, scheduler, random states and last its own state; a kill leaves the file that
    was being written short, which both formats of weights show by their end.
    """
    folder = Path(checkpoint)
    weights = [file for pattern in WEIGHTS for file in folder.glob(pattern)]
    if not weights and not any(part.is_dir() for part in folder.iterdir()):  # FSDP and DeepSpeed write folders
        return "it has no weights"
    for file in weights:
        if not _opens(file):
            return f"{file.name} is incomplete"
    for file in sorted([*folder.glob("*.pt"), *folder.glob("*.pth"), *folder.glob("*.bin")]):
        if not zipfile.is_zipfile(file):
            return f"{file.name} is incomplete"
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "trainer_state.json is missing or incomplete"
    return None


def _opens(file: Path) -> bool:
    try:
        with safe_open(file, "pt"):
            return True
    except (OSError, SafetensorError):
        return False


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run, the last one first."""
    found = {
        int(folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")): folder
        for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdigit() and folder.is_dir()
    }
    return [folder for _, folder in sorted(found.items(), reverse=True)]


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The last whole checkpoint of a run, with a warning for each that is passed over; None where there is none."""
    for folder in checkpoints(output_dir):
        reason = damage(folder)
        if reason is None:
            return str(folder)
        logger.warning("%s was not finished (%s); passing it over.", folder, reason)
    return None


@contextmanager
def full_disk_told(output_dir: str | Path) -> Iterator[None]:
    """Turns a failure to write for want of room into one sentence, and removes the weights that it cut off.

    Raises:
        UserError: the disk, or the user's share of it, is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_full(error):
            raise
        for folder in checkpoints(output_dir):
            if damage(folder):
                shutil.rmtree(folder, ignore_errors=True)
        for file in Path(output_dir).glob("*.safetensors"):
            if not _opens(file):
                file.unlink()
        last = last_checkpoint(output_dir)
        after = f"goes on from {last}" if last else "starts anew, as there is no checkpoint yet"
        raise UserError(f"{output_dir}: no room left to write; make some, and the same command {after}.") from error


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    said = (*(f"os error {code}" for code in DISK_FULL), "inline_container.cc", "PytorchStreamWriter")
    return any(text in str(error) for text in said)  # by safetensors, and by torch


class StopOnSigterm(TrainerCallback):
    """Ends training after the step in which SIGTERM comes, with a checkpoint, so that going on is as if it had not
    come. Several processes agree on the step."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # Python has signals nowhere else
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.world_size > 1:
            asked = torch.tensor(float(self.asked), device=args.device)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
            self.asked = bool(asked)
        if self.asked:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
        if self.asked:
            raise Stopped(
                f"Stopped by SIGTERM after step {state.global_step} of {state.max_steps}; the same command goes on "
                "from there."
            )
