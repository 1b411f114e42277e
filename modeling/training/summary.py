"""What a run shows before it starts, and at its end what to open."""

import math
import platform
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from peft import PeftModel
from torch import nn

from modeling.parts.vocabulary import labels_of
from modeling.training.arguments import AnyTrainingArguments
from processing.row_values import counts_of

if TYPE_CHECKING:
    from modeling.families import Family  # which imports this room

COLUMNS = 80
LABEL = 12  # characters of a label, the spaces after it included
SMALL_PART = 0.01  # of all parameters
KIND = {"vilt": "ViLT", "blip2": "BLIP-2", "vlm": "Image-text-to-text model"}


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
    shown = []
    for part, (count, learns) in _large_parts(parts, own, total).items():
        note = ""
        if learns:
            note = " (trained)" if learns == count else f" ({learns:,} trained)"
        shown.append(f"{part} {count:,}{note}")
    return f"{total:,}, {trained:,} trained ({trained / total:.2%}): {', '.join(shown)}"


def _large_parts(parts: Mapping[str, int], own: Mapping[str, int], total: int) -> dict[str, list[int]]:
    """The parameters of each part and those of them that are trained; small parts are counted together."""
    found: dict[str, list[int]] = {}
    others = [0, 0]
    for part, count in parts.items():
        counts = others if count < SMALL_PART * total else found.setdefault(part, [0, 0])
        counts[0] += count
        counts[1] += own.get(part, 0)
    return found | {"others": others} if others[0] else found


def _describe_data(name: str, dataset: datasets.DatasetDict) -> str:
    images = {split: counts_of(rows, "image") for split, rows in dataset.items()}
    counts = (f"{len(rows):,} {split} rows on {len(images[split]):,} images" for split, rows in dataset.items())
    return f"{name}: {', '.join(counts)}"


def _describe_answers(vocabulary: dict[str, int] | None, dataset: datasets.DatasetDict) -> str:
    """The size of the vocabulary, and how far Exact Match can reach with it."""
    if vocabulary is None:
        return "written by the model, not chosen from a list"
    reached = []
    for split in ("validation", "test"):
        if split in dataset:
            answers = counts_of(dataset[split], "answer")
            known = labels_of(answers, vocabulary)
            missing = sum(count for answer, count in answers.items() if answer not in known)
            rows = f" ({missing:,} of {answers.total():,} rows have other answers)" if missing else ""
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
    added = f" (with {rows - own_rows:,} questions made from boxes)" if rows > own_rows else ""
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
