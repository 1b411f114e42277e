"""Options that can't work are refused in one sentence, before anything is loaded or written."""

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate.utils import GradientAccumulationPlugin, is_deepspeed_available
from datasets import DatasetDict
from transformers.trainer_pt_utils import AcceleratorConfig

from metrics.calibration import MIN_ANSWERS
from metrics.vqa import score_answers
from modeling.training.ranges import option_text
from processing.errors import UserError, quoted

logger = logging.getLogger(__name__)

FIGURES = ("exact_match", "f1", "accuracy")
FIGURES_BY_TYPE = ("open_exact_match", "open_f1", "closed_exact_match", "closed_f1")
FIGURES_WITHOUT_ANSWERS = ("HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1")
FIGURES_WITHOUT_NEIGHBOURS = tuple(f"{part}_{name}" for part in ("no_neighbour", "new_image") for name in FIGURES)
FIGURES_OF_SOME = (
    *FIGURES_BY_TYPE,
    *FIGURES_WITHOUT_NEIGHBOURS,
    *FIGURES_WITHOUT_ANSWERS,
    "choice_accuracy",
)  # only where validation has such rows
SECOND_FIGURES = (
    "generated_exact_match",
    "generated_f1",
)  # beside those of answer candidates, of rows without choices

PARTS_OF_MODULES = {"qformer": ("attention", "dense"), "language_projection": ("projection",)}  # as LoRA targets


def read_words(args: Any) -> None:
    """Reads True and False where transformers would take them for names.

    Raises:
        UserError: a way to count tokens that there is not.
    """
    args.fsdp = {"true": True, "false": None, "": None}.get(str(args.fsdp).lower(), args.fsdp)
    tokens = str(args.include_num_input_tokens_seen)
    args.include_num_input_tokens_seen = {"true": "all", "false": "no"}.get(tokens.lower(), tokens)
    if args.include_num_input_tokens_seen not in ("all", "non_padding", "no"):
        raise UserError(f"--include_num_input_tokens_seen {option_text(tokens)}: choose from all, non_padding and no.")


def read_json(args: Any, names: list[str]) -> None:
    """Checks options that take a JSON object, and puts the content of a file in the place of its path.

    Raises:
        UserError: there is no such file, or it is not a JSON object.
    """
    for name in names:
        text = getattr(args, name)
        if not isinstance(text, str):
            continue
        from_file = name in ("accelerator_config", "fsdp_config", "deepspeed") and not text.startswith("{")
        if from_file and not os.path.isfile(text):
            raise UserError(f"--{name} {option_text(text)}: there is no such file; give one, or a JSON object.")
        try:
            content = json.loads(Path(text).read_text(encoding="utf-8") if from_file else text)
        except (OSError, ValueError) as error:
            raise UserError(f"--{name} {option_text(text)}: not valid JSON ({error}).") from error
        if not isinstance(content, dict):
            raise UserError(f"--{name} {option_text(text)}: must be a JSON object, as in '{{\"name\": 1}}'.")
        if name == "accelerator_config":
            _check_accelerator_config(content)
        if from_file:
            setattr(args, name, content)


def _check_accelerator_config(options: dict[str, Any]) -> None:
    known = sorted(f.name for f in fields(AcceleratorConfig) if f.name != "use_configured_state")
    for option, value in options.items():
        if option not in known:
            raise UserError(f"--accelerator_config: no option {option_text(option)}; choose from {', '.join(known)}.")
        if option != "gradient_accumulation_kwargs" and not isinstance(value, bool | None):
            raise UserError(f"--accelerator_config: {option} must be true or false, not {quoted(value)}.")
    accumulation = options.get("gradient_accumulation_kwargs") or {}
    if not isinstance(accumulation, dict):
        raise UserError("--accelerator_config: gradient_accumulation_kwargs must be an object with named options.")
    if "num_steps" in accumulation:
        raise UserError("--accelerator_config: num_steps is set by --gradient_accumulation_steps.")
    known = sorted(f.name for f in fields(GradientAccumulationPlugin) if f.name != "num_steps")
    for option in accumulation:
        if option not in known:
            raise UserError(
                f"--accelerator_config: gradient_accumulation_kwargs has no option {option_text(option)}; choose from "
                f"{', '.join(known)}."
            )


def check_together(args: Any) -> None:
    """Checks options that need others.

    Raises:
        UserError: an option that would have no effect, or fail, with the others as they are.
    """
    for needed, reason in _unmet_needs(args):
        raise UserError(f"--{needed} needs {reason}.")
    if not (args.do_train or args.do_eval or args.do_predict):
        raise UserError("--do_train, --do_eval and --do_predict are all False, so there is nothing to do.")
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise UserError(
            f"--train_sampling_strategy {args.train_sampling_strategy}: rows have no lengths to go by; choose random "
            "or sequential."
        )
    if "tpu_metrics_debug" in str(args.debug):
        raise UserError("--debug tpu_metrics_debug: training on TPUs is not supported; choose underflow_overflow.")
    checkpoint = args.resume_from_checkpoint
    if args.do_train and checkpoint is not None and not (checkpoint and os.path.isdir(checkpoint)):
        raise UserError(
            f"--resume_from_checkpoint {option_text(checkpoint)}: there is no such folder; without this flag a run "
            "resumes from the last checkpoint in --output_dir."
        )
    if args.hub_strategy in ("checkpoint", "all_checkpoints"):
        raise UserError(
            f"--hub_strategy {args.hub_strategy}: the finished model alone is pushed, once; leave the flag out."
        )


def _unmet_needs(args: Any) -> Iterator[tuple[str, str]]:
    """Options that are given, with what they need and do not have."""
    if args.dataloader_num_workers == 0:
        for name in ("persistent_workers", "prefetch_factor", "multiprocessing_context"):
            if getattr(args, f"dataloader_{name}") not in (None, False):
                yield f"dataloader_{name}", "--dataloader_num_workers 1 or more"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        for name in ("fsdp", "ddp_backend"):
            if getattr(args, name):
                yield name, "several processes, as accelerate launch --num_processes 4 starts them"
    if args.deepspeed is not None and not is_deepspeed_available():
        yield "deepspeed", "the package of that name: pip install deepspeed"
    if args.fsdp_config is not None and not args.fsdp:
        yield "fsdp_config", "--fsdp"
    if args.optim_target_modules is not None and not str(args.optim).startswith(("galore", "apollo")):
        yield "optim_target_modules", "one of the optimizers galore_... and apollo_... in --optim"
    for name in ("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"):
        if getattr(args, name) is not None and not {"trackio", "all"} & set(args.report_to):
            yield name, "--report_to trackio"
    for kind in ("activation", "gradient"):
        checkpointing = args.activation_checkpointing or args.gradient_checkpointing
        if getattr(args, f"{kind}_checkpointing_kwargs") is not None and not checkpointing:
            yield f"{kind}_checkpointing_kwargs", f"--{kind}_checkpointing True"
    if args.early_stopping_patience is not None and not args.load_best_model_at_end:
        yield "early_stopping_patience", "--load_best_model_at_end True"
    if args.target_risk is not None and not (args.do_train and args.do_eval):
        yield "target_risk", "--do_train True and --do_eval True: the threshold is chosen once a model is trained"
    if not args.do_train:
        return
    evaluates = args.eval_strategy != "no"
    if args.save_strategy == "best" and not evaluates:
        yield "save_strategy best", "evaluations while training: --do_eval True and --eval_strategy epoch or steps"
    if args.load_best_model_at_end:
        if not evaluates:
            yield (
                "load_best_model_at_end",
                "evaluations while training: --do_eval True, --eval_strategy epoch and --save_strategy epoch",
            )
        elif args.save_strategy not in ("best", args.eval_strategy):
            yield "load_best_model_at_end", f"checkpoints of the same steps: --save_strategy {args.eval_strategy}"
    if args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy") and not evaluates:
        yield f"lr_scheduler_type {args.lr_scheduler_type}", "evaluations while training: --eval_strategy epoch"


def check_adapter(args: Any) -> None:
    """Checks what BLIP-2 trains whole and what its LoRA matrices are added to.

    Raises:
        UserError: they are the same, or an option needs something that is not trained.
    """
    whole = set(args.modules_to_save or [])
    if args.alignment_epochs > 0 and "qformer" not in whole:
        raise UserError("--alignment_epochs needs --modules_to_save qformer: else nothing would be aligned.")
    if args.alignment_batch_size is not None and not args.alignment_epochs:
        raise UserError("--alignment_batch_size needs --alignment_epochs, which it is the batch size of.")
    if args.qformer_learning_rate is not None and not whole & {"qformer", "vision_top"}:
        raise UserError("--qformer_learning_rate needs --modules_to_save qformer or vision_top.")
    trained_whole = [name for name in PARTS_OF_MODULES if name in whole]
    if set(args.lora_targets) <= {target for name in trained_whole for target in PARTS_OF_MODULES[name]}:
        raise UserError(
            f"--lora_targets {' '.join(args.lora_targets)}: --modules_to_save {' '.join(trained_whole)} trains all of "
            "it already; add another target, such as language_model."
        )


def check_metric(args: Any) -> None:
    """Checks the name of the figure that decides which checkpoint is best.

    Raises:
        UserError: evaluation has no such figure.
    """
    known = [*FIGURES, *FIGURES_OF_SOME]
    known += ["loss"] if args.model_type == "vilt" else SECOND_FIGURES if args.answer_candidates else []
    metric = args.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in known:
        raise UserError(
            f"--metric_for_best_model {option_text(metric)}: not among the figures; choose from {', '.join(known)}."
        )


def check_start(args: Any) -> None:
    """Checks the options of a run that starts from a starter or from nothing, before that is made.

    Raises:
        UserError: an option that the model has no use for.
    """
    name = args.model_name_or_path
    if name == "starter" or name.startswith("scratch:"):
        if args.model_revision is not None:
            raise UserError(f"--model_revision {args.model_revision}: {name} is not on the Hub; leave the flag out.")
        check_starter(args, name == "starter")


def check_starter(args: Any, is_starter: bool) -> None:
    """Checks options that only the starters have, or have not.

    Args:
        args: of a run.
        is_starter: whether its model is a starter.

    Raises:
        UserError: an option that the model has no use for.
    """
    if getattr(args, "encoder_layers", None) is not None and args.model_name_or_path != "starter":
        raise UserError(
            f"--encoder_layers: {args.model_name_or_path} has its layers already; leave the flag out, or start from "
            "--model_name_or_path starter."
        )
    if is_starter:
        for name in ("fp16_full_eval", "bf16_full_eval"):
            if getattr(args, name):
                raise UserError(f"--{name}: the starter keeps its weights in FP32; leave the flag out.")
    elif args.do_train:
        name = args.model_name_or_path
        if getattr(args, "vision_learning_rate", None) is not None:
            raise UserError(f"--vision_learning_rate: {name} has no image network of its own; only the starter has.")
        if "vision_top" in (getattr(args, "modules_to_save", None) or []):
            raise UserError(f"--modules_to_save vision_top: {name} has none; only the starter has.")
        if getattr(args, "alignment_epochs", 0):
            raise UserError(f"--alignment_epochs: {name} is aligned already; only the starter needs it.")


def check_rows(args: Any, dataset: DatasetDict) -> None:
    """Checks options by the rows that are loaded.

    Raises:
        UserError: the rows do not have what an option needs.
    """
    if args.do_train and args.dataloader_drop_last:
        batch, rows = args.train_batch_size * args.world_size, len(dataset["train"])
        if rows < batch:
            raise UserError(f"--dataloader_drop_last: drops all {rows} training rows, as a batch has {batch}.")
    if getattr(args, "answer_candidates", None) == "train" and "train" not in dataset:
        raise UserError("--answer_candidates train: the data set has no training rows; leave the flag out.")
    if args.target_risk is not None:
        rows = len(dataset["validation"]) if "validation" in dataset else 0
        if rows < MIN_ANSWERS:
            raise UserError(
                f"--target_risk {args.target_risk:g}: needs {MIN_ANSWERS} validation rows or more to choose a "
                f"threshold, and there are {rows or 'none'}; give more, or leave the flag out."
            )
    metric = (args.metric_for_best_model or "").removeprefix("eval_")
    if args.do_train and args.eval_strategy != "no" and metric in (*FIGURES_OF_SOME, *SECOND_FIGURES):
        rows = dataset["validation"]
        if metric in SECOND_FIGURES and any(not row.get("choices") for row in rows):
            return
        known = [name for name in score_answers(rows, [""] * len(rows)) if name in (*FIGURES, *FIGURES_OF_SOME)]
        if metric not in known:
            raise UserError(
                f"--metric_for_best_model {metric}: no validation row is of this kind; choose from {', '.join(known)}."
            )


def check_output_dir(output_dir: str) -> None:
    """Checks that the folder of a run can be made and written to. Nothing is left there.

    Raises:
        UserError: it can't.
    """
    if not output_dir.strip():
        raise UserError("--output_dir is empty; name a folder.")
    folder = Path(output_dir)
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in made:
            path.rmdir()
    except (OSError, ValueError) as error:
        reason = "it is a file" if os.path.isfile(folder) else getattr(error, "strerror", "it is not a path")
        raise UserError(
            f"--output_dir {option_text(output_dir)}: can't be written to ({reason}); choose another folder."
        ) from error


def warn_of_idle_steps(args: Any) -> None:
    """Names a number of steps that another strategy leaves unused; a recipe may hold it, so it is no error."""
    for name in ("eval", "save"):
        strategy = getattr(args, f"{name}_strategy").value
        if args.do_train and f"{name}_steps" in args.recipe and strategy not in ("steps", "no"):
            logger.warning("--%s_steps has no effect, as --%s_strategy is %s.", name, name, strategy)
