"""What a run writes down about itself, to be repeated and to fill its card; no path and no token."""

import importlib.metadata
import json
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset, DatasetDict

from modeling.parts.loading import load_adapter_config
from modeling.parts.model_files import ModelFiles
from modeling.training.arguments import AnyTrainingArguments
from modeling.training.data_arguments import DataArguments
from modeling.training.recipe import recipe_values
from processing.errors import UserError
from processing.row_values import distinct
from processing.sources import HUB_ID
from processing.storage import write_atomically

RECIPE_FILE = "recipe.yaml"
RECORD_FILE = "run.json"
CORE_FIELDS = (  # stand in every recipe, also where they have their defaults
    "model_name_or_path",
    "learning_rate",
    "lr_scheduler_type",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_targets",
    "prompt",
    "seed",
)
PACKAGES = ("torch", "transformers", "peft", "datasets", "accelerate", "huggingface_hub")


def write_record(data_args: DataArguments, args: AnyTrainingArguments, dataset: DatasetDict, seconds: float) -> None:
    """Writes `recipe.yaml`, which `train.py` takes, and `run.json`, what the model card says beside the figures.

    Args:
        data_args, args: of the run.
        dataset: all its splits.
        seconds: how long it took, evaluation included.
    """
    recipe = recipe_of(data_args, args)
    command = "accelerate launch train.py recipe.yaml --output_dir out"
    if "dataset" not in recipe:
        command += " --dataset path/to/data"
    if data_args.eval_dataset is not None and "eval_dataset" not in recipe:
        command += " --eval_dataset path/to/other/data"
    base = base_model_of(args.model_name_or_path)
    if base is None:
        command += " --model_name_or_path path/to/base"
    folder = Path(args.output_dir)
    own = [rows for split, rows in dataset.items() if split != "test" or data_args.eval_dataset is None]
    record = {
        "model_type": args.model_type,
        "base_model": base,
        "base_revision": _base_revision(args),
        "command": command,
        "dataset": _describe_source(data_args.dataset, own[0], data_args.language)
        | {"splits": {split: _describe_split(rows) for split, rows in dataset.items()}},
        "eval_dataset": None
        if data_args.eval_dataset is None
        else _describe_source(data_args.eval_dataset, dataset["test"], data_args.language),
        "test_looks": _test_looks(folder) + (args.do_predict and "test" in dataset),
        "seconds": round(seconds),
        "peak_memory_gb": round(_peak_memory() / 1e9, 1),
        "hardware": _hardware(args),
        "versions": {"medical-vqa": _version("medical-vqa"), "python": platform.python_version()}
        | {package: _version(package) for package in PACKAGES},
    }
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)
    write_atomically(folder / RECIPE_FILE, f"# {command}\n{text}")
    write_atomically(folder / RECORD_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def note_test_look(folder: str | Path) -> None:
    """Counts in the `run.json` of a finished run that its model was asked a test split once more."""
    file = Path(folder) / RECORD_FILE
    if file.is_file():
        with suppress(UserError, TypeError, OSError):  # not written by a run, or in a folder that can only be read
            record = read_record(folder) | {"test_looks": _test_looks(Path(folder)) + 1}
            write_atomically(file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _test_looks(folder: Path) -> int:
    """How often the models of a folder were asked a test split."""
    try:
        return int(read_record(folder).get("test_looks") or 0)
    except (UserError, ValueError, TypeError, AttributeError):  # of no run, or written by others
        return 0


def _describe_source(given: str, rows: Dataset, language: str) -> dict[str, Any]:
    """What is known of a data set, that was given by its name; nothing of this machine."""
    info = rows.info
    hub_id = given if HUB_ID.fullmatch(given) and not Path(given).expanduser().exists() else None
    if hub_id is None and info.homepage:
        hub_id = info.homepage.partition("/datasets/")[2]
    return {
        "name": info.dataset_name,
        "id": hub_id,
        "revision": info.revision,
        "config": info.config_name,
        "license": info.license or None,
        "language": language,
        "citation": info.citation or None,
    }


def _describe_split(rows: Dataset) -> dict[str, int]:
    """Counts of a split: `questions`, `images`, and where training rows can be compared, how many of its images are
    `shared_with_training` and how many others have a `near_training` image."""
    images = dict(distinct(rows, ("image", "overlap")))
    counts = {"questions": len(rows), "images": len(images)}
    if any(images.values()):
        overlaps = list(images.values())
        counts |= {"shared_with_training": overlaps.count("same"), "near_training": overlaps.count("near")}
    return counts


def read_record(folder: str | Path) -> dict[str, Any]:
    """The content of a run's `run.json`.

    Raises:
        UserError: the folder holds no finished run.
    """
    file = Path(folder) / RECORD_FILE
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: can't be read; give the --output_dir of a training run that ended.") from error


def recipe_of(data_args: DataArguments, args: AnyTrainingArguments) -> dict[str, Any]:
    """The options of a run, without anything of this machine."""
    recipe: dict[str, Any] = {"model_type": args.model_type, "dataset": data_args.dataset}
    recipe |= {name: getattr(args, name) for name in CORE_FIELDS if hasattr(args, name)}
    recipe |= recipe_values(data_args) | args.recipe
    recipe["lr_scheduler_type"] = args.lr_scheduler_type.value
    for name in ("dataset", "eval_dataset"):
        if Path(recipe.get(name) or "").expanduser().exists():
            recipe.pop(name, None)
    if base_model_of(args.model_name_or_path) is None:
        recipe.pop("model_name_or_path", None)
    return recipe


def base_model_of(name: str) -> str | None:
    """What a run started from: a Hub id, `starter` or `scratch:SIZE`; None where it was a folder.

    A folder with an adapter stands for the adapter's base.
    """
    if Path(name).is_dir():
        adapter = load_adapter_config(ModelFiles(name, Path(name)))
        base = None if adapter is None else str(adapter.base_model_name_or_path)
        return None if base is None or Path(base).is_dir() else base
    return name


def _base_revision(args: AnyTrainingArguments) -> str | None:
    """The commit of `base_model_of`; None where that is not on the Hub, or an adapter does not tell."""
    name = args.model_name_or_path
    if not Path(name).is_dir():
        return args.model_revision
    adapter = load_adapter_config(ModelFiles(name, Path(name)))
    on_hub = adapter is not None and "/" in (base_model_of(name) or "")
    return adapter.revision if adapter is not None and on_hub else None


def model_folder(folder: str | Path) -> Path:
    """Where in a run's folder the model to publish lies: in `merged` where an adapter's base is a folder, too."""
    merged = Path(folder) / "merged"
    return merged if merged.is_dir() and base_model_of(str(folder)) is None else Path(folder)


def _peak_memory() -> int:
    """In bytes: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil  # which comes with accelerate

        return psutil.Process().memory_info().peak_wset
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _hardware(args: AnyTrainingArguments) -> str:
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "fp32"
    if not args.use_cpu and torch.cuda.is_available():
        return f"{args.world_size} x {torch.cuda.get_device_name()}, {precision}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{cores} cores of {name}, {precision}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
