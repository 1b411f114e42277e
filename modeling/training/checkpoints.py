"""Checkpoints from which a run resumes: whole ones alone, also after a kill, a preemption or a full disk."""

import json
import logging
import shutil
import signal
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling.parts.model_files import INDEX, why_unsafe
from modeling.training.arguments import AnyTrainingArguments
from processing.errors import CTRL_C_STATUS, DISK_FULL, UserError

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")
TELLING_IF_MISSING = ("evidence_labels", "modules_to_save")  # in a config: the model has no such part
RESUMED = (  # what optimizer, scheduler and the order of rows bring from a checkpoint, whatever the options say
    "learning_rate",
    "vision_learning_rate",
    "qformer_learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "seed",
    "data_seed",
    "questions_per_image",
    "box_questions",
    "implied_questions",
    "other_words",
    "evidence_weight",
)


class Stopped(UserError):
    """A run that was asked to end early, which is no fault."""

    exit_status = 128 + signal.SIGTERM


class Interrupted(UserError):
    """A training that Ctrl-C ended."""

    exit_status = CTRL_C_STATUS


def why_incomplete(checkpoint: str | Path) -> str | None:
    """What is missing or cut off in a checkpoint, None where it is whole.

    The Trainer writes weights, optimizer, scheduler, random states and last its own state. A kill cuts off the file
    that is being written, and both formats of weights show that.
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
        json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{STATE_FILE} is missing or incomplete"
    return None


def why_untrusted(checkpoint: str | Path) -> str | None:
    """Which file of a whole checkpoint no run can have written, and why; None where there is none.

    Everything that the Trainer unpickles is read as the Trainer does, but for the numbers in it.
    """
    folder = Path(checkpoint)
    if (index := folder / INDEX).is_file() and (reason := why_unsafe(index)):
        return f"{INDEX} {reason}"
    for file in sorted([*folder.glob("*.pt"), *folder.glob("*.pth")]):
        try:
            with safe_globals():  # numpy's random state
                state = torch.load(file, map_location="meta", weights_only=True, mmap=True)
            if not isinstance(state, dict):
                raise TypeError
        except Exception:  # whatever another's pickle leads to
            return f"{file.name} holds something else than a state of training"
    return None


def _is_model_alone(checkpoint: str | Path) -> bool:
    """Whether `--save_only_model True` left out what training resumes from."""
    folder = Path(checkpoint)  # FSDP and DeepSpeed write folders
    return not (folder / "scheduler.pt").is_file() and not any(part.is_dir() for part in folder.iterdir())


def _opens(file: Path) -> bool:
    try:
        with safe_open(file, "pt"):
            return True
    except (OSError, SafetensorError):
        return False


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run, the last one first."""
    found = {}
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdigit() and folder.is_dir():
            found[int(step)] = folder
    return [folder for _, folder in sorted(found.items(), reverse=True)]


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The last checkpoint to resume from, None where there is none. A warning names each that is skipped."""
    for folder in checkpoints(output_dir):
        if reason := why_incomplete(folder):
            logger.warning("%s is incomplete (%s), so it is skipped.", folder, reason)
        elif _is_model_alone(folder):
            logger.warning("%s holds the model alone (--save_only_model True), so it is skipped.", folder)
        elif reason := why_untrusted(folder):
            logger.warning("%s can't be trusted (%s), so it is skipped.", folder, reason)
        else:
            return str(folder)
    return None


def find_checkpoint(args: AnyTrainingArguments, run: dict[str, Any], rows: str | None = None) -> str | None:
    """The checkpoint from which a run resumes: the one asked for, else the last whole one in `output_dir`.

    Args:
        args: of this run.
        run: what a checkpoint's config must hold to belong to it.
        rows: the digest of its training rows.

    Returns:
        None where training starts anew, or there is none.

    Raises:
        UserError: it belongs to a run with another model, answer vocabulary, training rows or settings, or the one
            asked for is not whole or holds what no run has written.
    """
    if not args.do_train:
        return None
    checkpoint = args.resume_from_checkpoint
    if checkpoint is None:
        checkpoint = last_checkpoint(args.output_dir)
        if checkpoint is None:
            if (Path(args.output_dir) / "run.json").is_file():
                logger.warning("%s holds the model of an earlier run, which this run replaces.", args.output_dir)
            return None
    elif not Path(checkpoint).is_dir():
        raise UserError(f"--resume_from_checkpoint {checkpoint}: there is no such folder.")
    elif reason := why_incomplete(checkpoint):
        raise UserError(f"--resume_from_checkpoint {checkpoint}: it is incomplete ({reason}); choose another.")
    elif _is_model_alone(checkpoint):
        raise UserError(
            f"--resume_from_checkpoint {checkpoint}: it holds the model alone (--save_only_model True); start from "
            f"its weights by --model_name_or_path {checkpoint}."
        )
    elif reason := why_untrusted(checkpoint):
        raise UserError(f"--resume_from_checkpoint {checkpoint}: it can't be trusted ({reason}); choose another.")
    for file in ("config.json", "adapter_config.json"):
        if (Path(checkpoint) / file).is_file():
            saved = json.loads((Path(checkpoint) / file).read_text(encoding="utf-8"))
            for name, value in run.items():
                known = saved.get(name) is not None or name in TELLING_IF_MISSING  # older runs knew less of themselves
                if known and saved.get(name) != value:
                    raise UserError(
                        f"{checkpoint} is from another run (its {name} differs); choose another --output_dir, or "
                        "remove the old checkpoints."
                    )
    before, now = _trained_on(checkpoint).get("settings") or {}, training_settings(args)
    others = [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if others:
        raise UserError(
            f"{checkpoint} is from a run with other settings ({'; '.join(others)}); give the same again, choose "
            "another --output_dir, or remove the old checkpoints."
        )
    if rows is not None and trained_rows(checkpoint) not in (rows, None):
        raise UserError(
            f"{checkpoint} is from another run (its training rows differ), so what it has learned may be evaluated "
            "here; choose another --output_dir, or remove the old checkpoints."
        )
    logger.info("The run resumes from %s.", checkpoint)
    return checkpoint


def trained_rows(folder: str | Path) -> str | None:
    """The digest of the training rows of a checkpoint or of a finished run; None where it does not tell."""
    return _trained_on(folder).get("digest")


def training_settings(args: AnyTrainingArguments) -> dict[str, Any]:
    """The options of a run that its optimizer and its random numbers hold, so that a resumed run can't change them."""
    settings = {name: getattr(args, name) for name in RESUMED if hasattr(args, name)}
    return cast(dict[str, Any], json.loads(json.dumps(settings)))  # as a checkpoint has them


def _trained_on(folder: str | Path) -> dict[str, Any]:
    """What a checkpoint or a finished run tells by `TrainedRows`."""
    try:
        state = json.loads((Path(folder) / STATE_FILE).read_text(encoding="utf-8"))
        return dict(state["stateful_callbacks"][TrainedRows.__name__]["args"])
    except (OSError, ValueError, KeyError, TypeError):  # of an older version, or written by others
        return {}


def warn_of_other_rows(folder: str | Path, rows: str) -> None:
    """Warns where the model of a folder was trained on other rows than the training rows that are loaded.

    Args:
        rows: their digest.
    """
    if trained_rows(folder) not in (rows, None):
        logger.warning(
            "The training rows here are not those that %s was trained on, so images and near neighbours in training "
            "are not told rightly, and it may have seen what it is asked; give the options of the rows (--dataset, "
            "--split_by, --split_seed, --leaks and the like) of its recipe.yaml, and --eval_dataset for other data.",
            folder,
        )


def pin_revision(args: AnyTrainingArguments) -> None:
    """Lets a run that resumes take its base at the commit that its checkpoint was trained on."""
    if not args.do_train or args.model_revision is not None:
        return
    asked = args.resume_from_checkpoint
    for folder in [Path(asked)] if asked is not None else checkpoints(args.output_dir):
        name, commit = _base_of(folder)
        if commit and name == args.model_name_or_path != "starter":
            args.model_revision = commit
            logger.info("%s at commit %s, as in %s.", name, commit, folder)
            return


def _base_of(checkpoint: Path) -> tuple[str | None, str | None]:
    """The base on the Hub that a checkpoint names, and its commit."""
    for file in ("adapter_config.json", "config.json"):
        try:
            saved = json.loads((checkpoint / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if file == "adapter_config.json":
            return saved.get("base_model_name_or_path"), saved.get("revision")
        name, _, commit = (saved.get("base_model") or "").partition("@")
        return name, commit
    return None, None


@contextmanager
def explain_full_disk(output_dir: str | Path) -> Iterator[None]:
    """Turns a full disk into one sentence, and removes the weights that it cut off.

    Raises:
        UserError: the disk, or the user's share of it, is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_full(error):
            raise
        for folder in checkpoints(output_dir):
            if why_incomplete(folder):
                shutil.rmtree(folder, ignore_errors=True)
        for file in Path(output_dir).glob("*.safetensors"):
            if not _opens(file):
                file.unlink()
        after = _what_comes_next(output_dir, "there is no checkpoint yet")
        raise UserError(f"{output_dir}: the disk is full; free some space, and the same command {after}.") from error


@contextmanager
def explain_ctrl_c(output_dir: str | Path, saves: bool) -> Iterator[None]:
    """Turns Ctrl-C into one sentence that says how to go on.

    Args:
        output_dir: of the run.
        saves: whether the run leaves checkpoints.

    Raises:
        Interrupted: it was pressed.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the progress bar stands in this line
        reason = "there is no checkpoint yet" if saves else "it saves none (--save_strategy epoch would)"
        after = _what_comes_next(output_dir, reason)
        raise Interrupted(f"Stopped by Ctrl-C; the same command {after}.") from None


def _what_comes_next(output_dir: str | Path, reason: str) -> str:
    """What the same command does; the reason is why there may be no checkpoint."""
    last = last_checkpoint(output_dir)
    return f"resumes from {last}" if last else f"starts anew, as {reason}"


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    by_safetensors = [f"os error {code}" for code in DISK_FULL]
    by_torch = ["inline_container.cc", "PytorchStreamWriter"]
    return any(text in str(error) for text in by_safetensors + by_torch)


class TrainedRows(TrainerCallback, ExportableState):
    """Writes into each checkpoint which rows it was trained on, and how.

    Args:
        digest: of `processing.row_values.digest_of`.
        settings: of `training_settings`; a checkpoint of 0.1 has none.
    """

    def __init__(self, digest: str, settings: dict[str, Any] | None = None) -> None:
        self.digest = digest
        self.settings = settings

    def state(self) -> dict[str, Any]:
        """What `trainer_state.json` says of it."""
        return {"args": {"digest": self.digest, "settings": self.settings}, "attributes": {}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())  # a checkpoint of 0.1 has it not


class StopOnSigterm(TrainerCallback):
    """Ends training with a checkpoint after the step in which SIGTERM comes.

    A run that resumes from there is as if it had not been stopped. Several processes agree on the step.
    """

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
                f"Stopped by SIGTERM after step {state.global_step} of {state.max_steps}; the same command resumes "
                "from there."
            )
