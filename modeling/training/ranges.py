"""What the value of each option may be, whatever the others are."""

import math
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple

from processing.errors import UserError, shorten

LARGEST = 2**31 - 1  # of counts: what a C int holds


class Range(NamedTuple):
    """The values that a number may have.

    Attributes:
        low, high: the least and the greatest.
        above, below: `low` or `high` itself is not allowed.
        steps: a share of all steps, below 1, or a whole number of steps.
        mend: what a message about a value that is too low adds.
    """

    low: float = 0
    high: float = math.inf
    above: bool = False
    below: bool = False
    steps: bool = False
    mend: str = ""

    def complaint(self, value: float) -> str | None:
        """What is wrong with a value; None where it is in range."""
        if not math.isfinite(value):
            return "must be a finite number"
        if value < self.low or (self.above and value == self.low):
            return f"must be {f'more than {self.low}' if self.above else f'{self.low} or more'}{self.mend}"
        if value > self.high or (self.below and value == self.high):
            return f"must be {f'less than {self.high}' if self.below else f'{self.high} or less'}"
        if self.steps and value > 1 and value != int(value):
            return "must be a whole number of steps, or a share of them below 1"
        return None


COUNT = Range(1, LARGEST)
BATCH = Range(1, 2**20)  # the Trainer repeats a loss as often
POSITIVE = Range(above=True)
NOT_NEGATIVE = Range()
BELOW_ONE = Range(0, 1, below=True)
SEED = Range(0, 2**32 - 1)  # NumPy takes no others
RANGES = {
    "per_device_train_batch_size": BATCH,
    "per_device_eval_batch_size": BATCH,
    "gradient_accumulation_steps": COUNT,
    "num_train_epochs": Range(above=True, mend="; --do_train False evaluates only"),
    "max_steps": Range(1, LARGEST, mend=", or -1 for as many as --num_train_epochs takes"),
    "learning_rate": NOT_NEGATIVE,
    "vision_learning_rate": NOT_NEGATIVE,
    "encoder_layers": Range(1, 12),
    "evidence_weight": Range(0, 1000, mend=" (0 makes no evidence head)"),
    "qformer_learning_rate": NOT_NEGATIVE,
    "alignment_epochs": NOT_NEGATIVE,
    "alignment_batch_size": BATCH,
    "warmup_steps": Range(steps=True),
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "adam_epsilon": POSITIVE,
    "max_grad_norm": Range(mend=" (0 clips nothing)"),
    "neftune_noise_alpha": Range(0, 1000),
    "torch_empty_cache_steps": COUNT,
    "logging_steps": Range(above=True, steps=True, mend="; --logging_strategy no logs nothing"),
    "eval_steps": Range(above=True, steps=True, mend="; --eval_strategy no evaluates at the end alone"),
    "save_steps": Range(above=True, steps=True, mend="; --save_strategy no saves no checkpoint"),
    "save_total_limit": Range(0, LARGEST, mend=" (0 keeps all)"),
    "eval_delay": NOT_NEGATIVE,
    "eval_accumulation_steps": COUNT,
    "early_stopping_patience": COUNT,
    "seed": SEED,
    "data_seed": SEED,
    "split_seed": SEED,
    "dataloader_num_workers": Range(0, 1024),
    "dataloader_prefetch_factor": Range(1, 1024),
    "ddp_bucket_cap_mb": COUNT,
    "ddp_timeout": COUNT,
    "questions_per_image": Range(1, 1000),
    "other_words": Range(0, 1, mend=" (0 changes no question)"),
    "feature_cache_gb": Range(0, 10**6, mend=" (0 keeps none)"),
    "max_train_samples": Range(1, LARGEST, mend="; --do_train False evaluates only"),
    "max_eval_samples": Range(1, LARGEST, mend="; --do_eval False leaves the evaluation out"),
    "max_predict_samples": Range(1, LARGEST, mend="; --do_predict False leaves the test out"),
    "lora_r": COUNT,
    "lora_alpha": COUNT,
    "lora_dropout": BELOW_ONE,
    "max_pixels": Range(1024, 2**28),
    "max_new_tokens": Range(1, 1024),  # of OPT's 2,048 places
    "generation_num_beams": Range(1, 100),
}
UNSET = {"max_steps": -1, "local_rank": -1}

# Options of transformers that can only have their default here, and why.
FIXED = {
    "remove_unused_columns": "the collator needs the raw columns",
    "label_names": "evaluation finds answers by their row",
    "label_smoothing_factor": "the models compute their losses themselves",
    "prediction_loss_only": "evaluation scores answers",
    "include_for_metrics": "the figures are of answers alone",
    "batch_eval_metrics": "the figures are of all answers together",
    "eval_do_concat_batches": "the figures are of all answers together",
    "eval_use_gather_object": "answers are tensors, and as objects some would be lost",
    "length_column_name": "rows have no column of lengths",
    "use_liger_kernel": "Liger has no kernels for these models",
    "liger_kernel_config": "Liger has no kernels for these models",
    "parallelism_config": "the models are not split over processes; accelerate launch --multi_gpu copies them",
    "enable_jit_checkpoint": "SIGTERM leaves a checkpoint in any case",
    "sortish_sampler": "--questions_per_image orders the rows",
    "predict_with_generate": "evaluation scores generated answers",
    "generation_max_length": "--max_new_tokens limits the answers",
    "generation_config": "--generation_num_beams and --max_new_tokens say how answers are generated",
}


def option_text(value: object) -> str:
    """A value of an option as a message quotes it."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return shorten(text) if text else "''"


def default_of(field: Field) -> Any:
    """The default of a field of a dataclass."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def check_values(arguments: Any) -> None:
    """Checks each option by itself: numbers by `RANGES`, and those of `FIXED`.

    Raises:
        UserError: a number out of its range or not finite, or an option that can only have its default.
    """
    for field in fields(arguments):
        name, value, default = field.name, getattr(arguments, field.name), default_of(field)
        if name in FIXED and value != default:
            kept = " ".join(default) if isinstance(default, list) else default
            rule = "must be left out" if kept in (None, "") else f"must stay {kept}"
            raise UserError(f"--{name} {rule}: {FIXED[name]}.")
        if isinstance(value, bool) or not isinstance(value, int | float) or value == UNSET.get(name):
            continue
        allowed = RANGES.get(name, Range(-math.inf))
        if complaint := allowed.complaint(value):
            raise UserError(f"--{name} {option_text(value)}: {complaint}.")
