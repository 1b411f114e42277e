"""The arguments that the runs of all families have in common."""

import logging
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from modeling.training.checks import (
    check_metric,
    check_start,
    check_together,
    read_json,
    read_words,
    warn_of_idle_steps,
)
from modeling.training.precision import cpu_has_bf16, instead_of_fp16
from modeling.training.ranges import check_values
from modeling.training.recipe import recipe_values
from modeling.training.trial import METRIC_SCHEDULERS, try_options

logger = logging.getLogger(__name__)


@dataclass
class SharedTrainingArguments(TrainingArguments):
    """Defaults and fields that the families have in common."""

    output_dir: str = field(
        default="output", metadata={"help": "Folder for checkpoints, the model, figures and predictions."}
    )
    do_train: bool = field(default=True, metadata={"help": "Train on the train split."})
    do_eval: bool = field(default=True, metadata={"help": "Evaluate on the validation split."})
    do_predict: bool = field(default=False, metadata={"help": "Evaluate on the test split too."})
    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "Training batch size of one device, in questions."}
    )
    per_device_eval_batch_size: int = field(
        default=64, metadata={"help": "Evaluation batch size of one device, in questions."}
    )
    fp16: bool = field(
        default=True,
        metadata={
            "help": "FP16 mixed precision; --bf16 True switches it off. Without a GPU the run takes bf16 autocast or "
            "fp32 and says so, and so does an encoder-decoder language model on a GPU, as FP16 overflows in it."
        },
    )
    eval_strategy: str = field(
        default="epoch",
        metadata={"help": "When to evaluate on validation while training.", "choices": ["no", "steps", "epoch"]},
    )
    save_strategy: str = field(
        default="epoch",
        metadata={"help": "When to save a checkpoint.", "choices": ["no", "steps", "epoch", "best"]},
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Number of checkpoints to keep; 0 keeps all."})
    logging_steps: float = field(
        default=10, metadata={"help": "Optimizer steps between log lines (below 1: share of all steps)."}
    )
    metric_for_best_model: str | None = field(
        default="exact_match", metadata={"help": "Validation metric that decides which checkpoint is best."}
    )
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Trackers to report to, such as tensorboard or wandb; all for those that are installed."},
    )
    include_num_input_tokens_seen: str = field(
        default="no",
        metadata={
            "help": "Count the input tokens of training: all, non_padding or no.",
            "nargs": "?",
            "const": "all",
        },
    )
    parallelism_config: str | None = field(
        default=None, metadata={"help": "Must be left out: the models are not split over processes."}
    )
    liger_kernel_config: str | None = field(
        default=None, metadata={"help": "Must be left out: Liger has no kernels for these models."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator needs the raw columns."}
    )
    model_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of --model_name_or_path on the Hub; main by default."},
    )
    questions_per_image: int = field(
        default=1,
        metadata={"help": "Questions about an image that stay together in training and share its computation."},
    )
    other_words: float = field(
        default=0.0,
        metadata={
            "help": "Share of training questions that are asked in other words, drawn anew at each epoch, such as "
            "0.5; as SLAKE's questions may be worded, and as people type them."
        },
    )
    box_questions: bool = field(
        default=False,
        metadata={"help": "Also train on questions, worded as in SLAKE, that the boxes of training images answer."},
    )
    implied_questions: bool = field(
        default=False,
        metadata={
            "help": "Also train on questions that the modality and location of training images, and people's other "
            "answers about them, imply: Is this an MRI? Is this image normal?"
        },
    )
    evidence_weight: float = field(
        default=0.5,
        metadata={
            "help": "Weight of the loss of the evidence head, which learns from the boxes of the training images to "
            "show where the answer is; 0 makes no such head."
        },
    )
    feature_cache_gb: float = field(
        default=10.0,
        metadata={"help": "Limit for kept features of frozen vision networks on disk, in GB; 0 keeps none."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better metric; needs --load_best_model_at_end True."
        },
    )

    target_risk: float | None = field(
        default=None,
        metadata={
            "help": "Share of given answers that may be wrong, such as 0.05. Below a certain confidence, the model "
            "then gives no answer; the validation rows decide where, with 95 %% certainty."
        },
    )

    def __post_init__(self) -> None:
        read_json(self, self._VALID_DICT_FIELDS)
        self.recipe = recipe_values(self)  # transformers' own __post_init__ changes many
        if self.push_to_hub and not (self.do_train and self.hub_model_id and "/" in self.hub_model_id):
            raise ValueError(
                "--push_to_hub needs a training run and --hub_model_id user/name; python -m modeling.publish pushes a "
                "model that is trained."
            )
        if not (self.do_train and self.do_eval):
            self.eval_strategy = "no"  # else transformers turns do_eval on
        if not self.do_train:
            self.load_best_model_at_end, self.early_stopping_patience = False, None
            self.lr_scheduler_type = SchedulerType.LINEAR  # else one that follows the evaluations would be refused
        if self.target_risk is not None and not 0 < self.target_risk < 1:
            raise ValueError("--target_risk must be between 0 and 1, such as 0.05.")
        read_words(self)
        check_values(self)
        check_together(self)
        check_metric(self)
        check_start(self)
        self._choose_precision()
        super().__post_init__()
        try_options(self)
        if self.lr_scheduler_type in METRIC_SCHEDULERS:
            mode = {"mode": "max" if self.greater_is_better else "min"}
            self.lr_scheduler_kwargs: dict[str, Any] = mode | (self.lr_scheduler_kwargs or {})
        warn_of_idle_steps(self)

    def _choose_precision(self) -> None:
        """BF16 where a flag or `accelerate launch` asks for it, else FP16, which is for GPUs.

        On a CPU bf16 autocast is the fast mode where `cpu_has_bf16`, else fp32.
        """
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION")  # set by `accelerate launch` from its config file
        self.bf16: bool = self.bf16 or launched == "bf16"
        self.fp16 = self.fp16 and not self.bf16
        on_gpu = torch.accelerator.is_available() and not self.use_cpu
        if launched == "fp16" and not (on_gpu and self.fp16):
            os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # else Accelerate takes it, and refuses it on a CPU
        if on_gpu:
            return
        self.use_cpu: bool = True
        if self.fp16:
            self.fp16, self.bf16 = False, cpu_has_bf16()
            if os.environ.get("LOCAL_RANK", "0") == "0":
                precision = "bf16 autocast" if self.bf16 else "fp32"
                logger.warning("No GPU here: using %s instead of FP16.", precision)

    def leave_fp16(self, reason: str) -> None:
        """Takes bf16 in the place of FP16, or fp32 where the device has none, and says so.

        Args:
            reason: the first half of what is said.
        """
        dtype = instead_of_fp16()
        self.fp16, self.bf16 = False, dtype == torch.bfloat16
        self.mixed_precision = "bf16" if self.bf16 else "no"
        if self.fp16_full_eval:
            self.fp16_full_eval: bool = False
            self.bf16_full_eval: bool = self.bf16
        if self.process_index == 0:
            logger.warning("%s: using %s instead.", reason, "bf16" if self.bf16 else "fp32")
