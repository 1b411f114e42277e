"""What a run shows: a summary before it starts, lines while it trains, and at the end what to open."""

import math
import platform
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from peft import PeftModel
from torch import nn
from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from modeling.parts.vocabulary import labels_of
from modeling.training.arguments import AnyTrainingArguments
from processing.row_values import counts_of

if TYPE_CHECKING:
    from modeling.families import Family  # which imports this room

COLUMNS = 80
LABEL = 12  # characters of a label, the spaces after it included
WARM_UP_STEPS = 3  # not timed: the first ones also compile, allocate and read files for the first time
TIMED_STEPS = 10  # from which the time of the others is told, or TIMED_SHARE of them where that is more
TIMED_SHARE = 0.05
KIND = {"vilt": "ViLT", "blip2": "BLIP-2"}
SCORES = {"exact_match": "EM", "f1": "F1"}


def summarize(
    name: str,
    args: AnyTrainingArguments,
    trainer: Any,
    family: "Family",
    dataset: datasets.DatasetDict,
    parts: Mapping[str, int],
) -> str:
    """What a run is about to do, in lines of at most 80 columns where no name is longer.

    Args:
        name: of the data set.
        args: of the run.
        trainer: of `Family.build_trainer`.
        family: of the model.
        dataset: all splits.
        parts: of the model, by `parts_of`.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    commit = f" at commit {args.model_revision}" if args.model_revision else ""
    lines = {
        "Model": f"{KIND[args.model_type]}, {args.model_name_or_path}{commit}",
        "Parameters": describe_parameters(parts, model if args.do_train else None),
        "Data": _describe_data(name, dataset),
        "Answers": _describe_answers(family.vocabulary(trainer), dataset),
    }
    if args.do_train:
        lines |= {
            "Batch": _describe_batch(args),
            "Steps": _describe_steps(args, len(trainer.train_dataset), len(dataset["train"])),
        }
    lines |= {"Device": _describe_device(args), "Precision": _precision(args), "Output": args.output_dir}
    return "\n".join(_line(label, text) for label, text in lines.items())


def _line(label: str, text: str) -> str:
    return textwrap.fill(
        text,
        COLUMNS,
        initial_indent=f"{label:{LABEL}}",
        subsequent_indent=" " * LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )


def parts_of(model: nn.Module) -> dict[str, int]:
    """The number of parameters of each part of a model; of a PEFT model, of its base with what was added."""
    return _parts(model, trained_alone=False)


def _parts(model: nn.Module, trained_alone: bool) -> dict[str, int]:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    parts: dict[str, int] = {}
    for path, parameter in base.named_parameters():
        part = path.partition(".")[0].replace("_", " ")
        if ".original_module." not in path:  # PEFT keeps what `modules_to_save` replaced
            counts = parameter.requires_grad or not trained_alone
            parts[part] = parts.get(part, 0) + (parameter.numel() if counts else 0)
    return parts


def describe_parameters(parts: Mapping[str, int], model: nn.Module | None) -> str:
    """How many parameters a model has and how many are trained, in all and by part.

    Args:
        parts: of `parts_of`, before the trainer takes frozen parts out of the model.
        model: as it is trained; None where it is not.
    """
    total = sum(parts.values())
    if model is None:
        return f"{total:,}"
    own = _parts(model, trained_alone=True)
    trained = sum(own.values())
    if trained == total:
        return f"{total:,}, all trained"
    shown = (
        f"{part} {count:,}" + (f" ({own[part]:,} trained)" if own.get(part) != count else " (trained)")
        if own.get(part)
        else f"{part} {count:,}"
        for part, count in parts.items()
    )
    return f"{total:,}, {trained:,} trained ({trained / total:.2%}): {', '.join(shown)}"


def _describe_data(name: str, dataset: datasets.DatasetDict) -> str:
    images = {split: counts_of(rows, "image") for split, rows in dataset.items()}
    counts = (f"{len(rows):,} {split} rows on {len(images[split]):,} images" for split, rows in dataset.items())
    return f"{name}: {', '.join(counts)}"


def _describe_answers(vocabulary: dict[str, int] | None, dataset: datasets.DatasetDict) -> str:
    """The size of the vocabulary, and how far Exact Match can reach with it."""
    if vocabulary is None:
        return "written by the model, from no list"
    reached = []
    for split in ("validation", "test"):
        if split in dataset:
            answers = counts_of(dataset[split], "answer")
            known = labels_of(answers, vocabulary)
            missing = sum(count for answer, count in answers.items() if answer not in known)
            rows = f" ({missing:,} of {answers.total():,} rows have others)" if missing else ""
            reached.append(f"{100 * (1 - missing / answers.total()):.2f} % on {split}{rows}")
    reach = f"; EM can reach {', '.join(reached)}" if reached else ""
    return f"one of {len(vocabulary):,}{reach}"


def _describe_batch(args: AnyTrainingArguments) -> str:
    devices = args.world_size * max(args.n_gpu, 1)
    size = args.per_device_train_batch_size * args.gradient_accumulation_steps * devices
    if size == args.per_device_train_batch_size:
        return f"{size:,} questions"
    return (
        f"{size:,} questions = {args.per_device_train_batch_size} on a device x {args.gradient_accumulation_steps} "
        f"accumulated x {devices} device{'s' if devices > 1 else ''}"
    )


def count_steps(args: AnyTrainingArguments, rows: int) -> tuple[int, float]:
    """Optimizer steps of a training, as the Trainer counts them, and its passes over the rows.

    Args:
        args: of the run.
        rows: of training.
    """
    share = math.floor if args.dataloader_drop_last else math.ceil
    batches = max(share(share(rows / args.train_batch_size) / args.world_size), 1)
    in_epoch = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
    if args.max_steps > 0:
        return args.max_steps, args.max_steps / in_epoch
    return math.ceil(args.num_train_epochs * in_epoch), args.num_train_epochs


def _describe_steps(args: AnyTrainingArguments, rows: int, own_rows: int) -> str:
    steps, epochs = count_steps(args, rows)
    added = f" (with {rows - own_rows:,} questions made of boxes)" if rows > own_rows else ""
    return f"{steps:,} in {epochs:.3g} epochs of {rows:,} rows{added}"


def _describe_device(args: AnyTrainingArguments) -> str:
    if args.device.type == "cuda":
        return f"{args.world_size * args.n_gpu} x {torch.cuda.get_device_name()}"
    if args.device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU ({platform.machine()}), {threads} thread{'s' if threads > 1 else ''}"
    return args.device.type


def _precision(args: AnyTrainingArguments) -> str:
    return "fp16" if args.fp16 else "bf16" if args.bf16 else "fp32"


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


def what_to_open(folder: str | Path, trained: bool) -> str:
    """The files of a run to look at, and the command that asks its model.

    Args:
        folder: of the run.
        trained: whether the run trained, so that its model lies there.
    """
    files = {
        "report/report.md": "figures by kind of question",
        "report/errors.html": "wrong answers with their images, for a browser",
        "predictions_validation.jsonl": "each validation answer with its confidence",
        "predictions_test.jsonl": "each test answer with its confidence",
        "README.md": "the model card",
    }
    there = {name: text for name, text in files.items() if (Path(folder) / name).is_file()}
    kind = "Model, figures" if trained else "Figures"
    lines = [f"{kind} and predictions are in {folder}", *(f"  {name:30}{text}" for name, text in there.items())]
    if trained:
        lines += ["Ask the model:", f'  medical-vqa ask {folder} --image IMAGE --question "..."']
    return "\n".join(lines)
