"""Flags of a run of six steps of a tiny ViLT, with a checkpoint after every second one."""

SIX_STEPS = [
    "--model_name_or_path",
    "scratch:tiny",
    "--max_steps",
    "6",
    "--save_strategy",
    "steps",
    "--save_steps",
    "2",
    "--save_total_limit",
    "9",
    "--per_device_train_batch_size",
    "8",
    "--logging_steps",
    "1",
    "--eval_strategy",
    "no",
    "--disable_tqdm",
    "True",
]
