"""What a run shows while it trains: a bar, a short line for each log, and how long it will take."""

import math
import time
from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

WARM_UP_STEPS = 3  # not timed: the first ones also compile, allocate and read files for the first time
TIMED_STEPS = 10  # from which the time of the others is told, or TIMED_SHARE of them where that is more
TIMED_SHARE = 0.05
SCORES = {"exact_match": "EM", "f1": "F1"}


def duration_text(seconds: float) -> str:
    """About how long, in words."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} second{'s' if round(seconds) > 1 else ''}"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"


class TrainingLines(ProgressCallback):
    """The progress bar, a short line for each log of the Trainer, and how long the run will take.

    The time is told after the first steps, for training alone. It is told again after the first evaluation, with
    all that follow.

    Args:
        bar: whether there is a progress bar.
        final_rows: rows that are evaluated after training.
    """

    def __init__(self, bar: bool = True, final_rows: int = 0) -> None:
        super().__init__()
        self.bar = bar
        self.final_rows = final_rows
        self.seconds: list[float] = []  # of the timed steps
        self.clock = time.monotonic
        self._last: float | None = None
        self._first_step = 0
        self._told = {"training": False, "evaluations": False}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._first_step = state.global_step
        if self.bar:
            super().on_train_begin(args, state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar:
            super().on_step_end(args, state, control)
        now = self.clock()
        if self._last is not None and state.global_step - self._first_step > WARM_UP_STEPS:
            self.seconds.append(now - self._last)
        self._last = now
        left = state.max_steps - state.global_step
        timed = max(TIMED_STEPS, math.ceil(TIMED_SHARE * (state.max_steps - self._first_step)))
        if state.is_world_process_zero and not any(self._told.values()) and len(self.seconds) >= timed and left:
            self._told["training"] = True
            more = ", evaluations not included" if self._evaluates(args) else ""
            self._write(f"About {duration_text(left * self._step_seconds())} to go{more}.")

    def on_save(self, *_: Any, **__: Any) -> None:
        self._last = None  # the next step would be timed with the checkpoint

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        if self.bar:
            super().on_prediction_step(args, state, control, eval_dataloader)
            if self.prediction_bar is not None and not self.prediction_bar.desc:
                self.prediction_bar.set_description("Evaluating", refresh=False)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        super().on_evaluate(args, state, control)
        self._last = None
        left = state.max_steps - state.global_step
        runtime, rows = (metrics or {}).get("eval_runtime"), (metrics or {}).get("eval_total")
        if not (state.is_world_process_zero and self.seconds and runtime and rows and left > 0):
            return
        if not self._told["evaluations"]:
            self._told["evaluations"] = True
            evaluations = math.ceil(left / self._steps_between(args, state))
            seconds = left * self._step_seconds() + runtime * (evaluations + self.final_rows / rows)
            self._write(f"About {duration_text(seconds)} to go, evaluations included.")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and (line := log_line(logs or {}, state.global_step, state.max_steps)):
            self._write(line)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.training_bar is not None:
            super().on_train_end(args, state, control)

    def _evaluates(self, args: TrainingArguments) -> bool:
        return args.eval_strategy != "no" or self.final_rows > 0

    def _step_seconds(self) -> float:
        return sum(self.seconds) / len(self.seconds)

    def _steps_between(self, args: TrainingArguments, state: TrainerState) -> float:
        """Steps from one evaluation to the next."""
        if args.eval_strategy == "steps":
            return state.eval_steps
        return max(state.max_steps / max(state.num_train_epochs, 1), 1)

    def _write(self, line: str) -> None:
        if self.training_bar is not None:
            self.training_bar.write(line)
        else:
            print(line, flush=True)


def log_line(logs: Mapping[str, Any], step: int, steps: int) -> str | None:
    """The line for a log of the Trainer; None for one that has nothing to say while a run goes on."""
    where = f"step {step:,} of {steps:,}, epoch {logs.get('epoch', 0):.2f}:"
    if "loss" in logs:
        rate = f", learning rate {float(logs['learning_rate']):.2g}" if "learning_rate" in logs else ""
        return f"{where} loss {float(logs['loss']):.4g}{rate}"
    if any(name.startswith("eval_") for name in logs):
        loss = [f"loss {logs['eval_loss']:.4g}"] if "eval_loss" in logs else []
        scores = [f"{title} {logs[f'eval_{key}']:.2f}" for key, title in SCORES.items() if f"eval_{key}" in logs]
        return f"{where} validation {', '.join(loss + scores)}"
    if "train_runtime" in logs:
        return f"Trained in {duration_text(logs['train_runtime'])}."
    return None


def show_progress(trainer: Any, final_rows: int = 0) -> None:
    """Puts `TrainingLines` in the place of what a Trainer shows by itself; a notebook's table stays.

    The bars of files that are written in a moment are left out.

    Args:
        trainer: of the run.
        final_rows: rows that are evaluated after training.
    """
    transformers_logging.disable_progress_bar()
    for shown, bar in ((ProgressCallback, True), (PrinterCallback, False)):
        own = [callback for callback in trainer.callback_handler.callbacks if type(callback) is shown]
        if own:
            trainer.remove_callback(own[0])
            trainer.add_callback(TrainingLines(bar, final_rows))
