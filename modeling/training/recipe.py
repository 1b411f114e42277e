"""Which options of a run belong to its recipe: those that matter to the result, and nothing of this machine."""

import json
from dataclasses import fields
from typing import Any

from modeling.training.ranges import default_of

# Left out is all else: where a run reads and writes, whom it talks to, what it logs, how fast it is.
RECIPE_FIELDS = frozenset(
    {
        # rows
        "dataset",
        "dataset_config",
        "dataset_revision",
        "eval_dataset",
        "language",
        "column_names",
        "on_bad_rows",
        "drop_leaking_rows",
        "leaks",
        "split_by",
        "allow_no_answer",
        "split_seed",
        "tuning_split",
        "max_train_samples",
        "max_eval_samples",
        "max_predict_samples",
        "box_questions",
        "implied_questions",
        "other_words",
        "evidence_weight",
        # model
        "model_type",
        "model_name_or_path",
        "model_revision",
        "encoder_layers",
        "quantization",
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_targets",
        "modules_to_save",
        "merge_adapter",
        "prompt",
        "system_prompt",
        "max_pixels",
        # order and size of batches
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "auto_find_batch_size",
        "gradient_accumulation_steps",
        "average_tokens_across_devices",
        "questions_per_image",
        "train_sampling_strategy",
        "dataloader_drop_last",
        "dataloader_in_order",
        "accelerator_config",
        "seed",
        "data_seed",
        "full_determinism",
        # steps
        "num_train_epochs",
        "max_steps",
        "alignment_batch_size",
        "alignment_epochs",
        "learning_rate",
        "vision_learning_rate",
        "qformer_learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "optim",
        "optim_args",
        "optim_target_modules",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "neftune_noise_alpha",
        # precision, and the spread over processes, which rounds differently
        "fp16",
        "bf16",
        "tf32",
        "fp16_full_eval",
        "bf16_full_eval",
        "fsdp",
        "fsdp_config",
        "deepspeed",
        # which checkpoint is kept, and how it answers
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "eval_on_start",
        "save_strategy",
        "save_steps",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "early_stopping_patience",
        "generation_num_beams",
        "max_new_tokens",
        "answer_candidates",
        "target_risk",
    }
)


def recipe_values(arguments: Any) -> dict[str, Any]:
    """The fields of a dataclass that belong to a recipe and differ from their defaults; JSON objects as such."""
    values = {
        field.name: getattr(arguments, field.name)
        for field in fields(arguments)
        if field.name in RECIPE_FIELDS and getattr(arguments, field.name) != default_of(field)
    }
    for name in getattr(arguments, "_VALID_DICT_FIELDS", ()):
        if name in values:
            value = values[name]
            values[name] = _without_paths(json.loads(value) if isinstance(value, str) else value)
    return values


def _without_paths(value: Any) -> Any:
    """A copy of a JSON value without the texts in it that may be paths."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items() if not _may_be_path(item)}
    if isinstance(value, list):
        return [_without_paths(item) for item in value if not _may_be_path(item)]
    return value


def _may_be_path(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)
