"""Fine-tunes a medical VQA model, evaluates it and leaves a folder that loads again.

One GPU or a CPU:  accelerate launch train.py recipes/vilt_slake.yaml --dataset path/to/SLAKE --output_dir out
Several GPUs:      accelerate launch --multi_gpu --num_processes 4 train.py recipes/vilt_slake.yaml ...
Evaluate again:    python train.py --do_train False --do_predict True --model_name_or_path out --dataset ...

A recipe comes first and flags win over it; `python train.py --help` lists them all.
"""

import json
import logging
import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from tqdm import tqdm
from transformers import Trainer, set_seed

from metrics.calibration import MIN_ANSWERS, choose_threshold, describe_silence
from metrics.cases import Case, choose_cases, seen
from metrics.plots import plot_curves
from metrics.report import format_results, make_report, write_report
from metrics.vqa import all_scores, majority_answers, most_frequent_answer, score_answers
from modeling import blip2, vilt
from modeling.hub.card import model_card
from modeling.publish import preflight, publish, take_destination
from modeling.training.arguments import AnyTrainingArguments, DataArguments
from modeling.training.checkpoints import StopOnSigterm, damage, full_disk_told, last_checkpoint
from modeling.training.parser import parse_arguments
from modeling.training.record import base_model_of, write_record
from processing.data import load_vqa_dataset
from processing.errors import UserError, run_command
from processing.storage import write_jsonl

logger = logging.getLogger("train")

FAMILIES = {"vilt": vilt, "blip2": blip2}
HEAT_MAPS = 8  # computed at once
SAMPLE_LIMITS = {"train": "train", "validation": "eval", "test": "predict"}  # split: name in --max_*_samples


def main(argv: list[str]) -> None:
    """Runs the whole job that a command line describes: load, build, train, evaluate, report."""
    started = time.monotonic()
    use_all_cores()
    data_args, args = parse_arguments(argv)
    family = FAMILIES[args.model_type]
    destination = take_destination(args)
    base_license = None
    if destination and args.process_index == 0:
        base_license = preflight(destination, base_model_of(args.model_name_or_path))
    set_seed(args.seed)
    dataset = load_data(data_args, args)
    model, processor = family.build_model(args, dataset)
    checkpoint = find_checkpoint(args, family.describe_run(model))
    trainer = family.build_trainer(args, model, processor, dataset)

    if args.do_train:
        trainer.add_callback(StopOnSigterm())
        with full_disk_told(args.output_dir):
            result = trainer.train(resume_from_checkpoint=checkpoint)
            if trainer.is_fsdp_enabled:  # checkpoints may be in shards, the model is whole
                trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
            trainer.save_model()
            trainer.save_state()
            trainer.save_metrics("train", result.metrics | {"train_samples": len(dataset["train"])})

    results: dict[str, dict] = {}
    reports: dict[str, dict] = {}
    cases: dict[str, list[Case]] = {}
    for split, prefix, wanted in (("validation", "eval", args.do_eval), ("test", "test", args.do_predict)):
        if wanted and split in dataset:
            figures, reports[split], cases[split] = evaluate(trainer, family, dataset, split, prefix)
            results |= figures
    if trainer.is_world_process_zero():
        plot_curves(trainer.state.log_history, args.output_dir)
        if results:
            print(f"\n{format_results(results)}\n")
            write_report(reports, Path(args.output_dir) / "report", cases)
        if args.do_train:
            write_record(data_args, args, dataset, time.monotonic() - started)
            model_card(args.output_dir).save(Path(args.output_dir) / "README.md")
        print(f"{'Model, figures' if args.do_train else 'Figures'} and predictions are in {args.output_dir}")
        if destination:
            publish(args.output_dir, destination, base_license)


def load_data(data_args: DataArguments, args: AnyTrainingArguments) -> DatasetDict:
    """Loads the splits, limits them as asked, and checks that what is to be done has rows."""
    options = vars(data_args).copy()
    limits = {split: options.pop(f"max_{name}_samples") for split, name in SAMPLE_LIMITS.items()}
    with args.main_process_first(desc="loading the data set"):
        skipped = Path(args.output_dir) / "skipped_rows.jsonl" if args.process_index == 0 else None
        dataset = load_vqa_dataset(**options, skipped_rows_file=skipped)
    for split, limit in limits.items():
        if limit is not None and split in dataset:
            dataset[split] = dataset[split].select(range(min(limit, len(dataset[split]))))
    if args.do_train and "train" not in dataset:
        raise UserError(f"--dataset {data_args.dataset}: no training rows; add --do_train False to evaluate only.")
    if args.do_predict and "test" not in dataset:
        if not args.do_eval:
            raise UserError(f"--dataset {data_args.dataset}: no test split; use --do_eval True for validation.")
        logger.warning("The data set has no test split: --do_predict has nothing to do beside validation.")
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in dataset.items())
    logger.info("%s: %s rows over %d images", data_args.dataset, counts, count_images(dataset))
    return dataset


def count_images(dataset: DatasetDict) -> int:
    """The number of distinct images in all splits."""
    return len({image for rows in dataset.values() for image in rows["image"]})


def find_checkpoint(args: AnyTrainingArguments, run: dict[str, Any]) -> str | None:
    """The checkpoint to go on from: the one asked for, else the last whole one in `output_dir`.

    Args:
        args: of this run.
        run: what a checkpoint's config must hold to belong to it.

    Raises:
        UserError: it belongs to a run with another model or answer vocabulary, or the one asked for is not whole.
    """
    if not args.do_train:
        return None
    checkpoint = args.resume_from_checkpoint
    if checkpoint is None:
        checkpoint = last_checkpoint(args.output_dir)
        if checkpoint is None:
            return None
    elif not Path(checkpoint).is_dir():
        raise UserError(f"--resume_from_checkpoint {checkpoint}: there is no such folder.")
    elif reason := damage(checkpoint):
        raise UserError(f"--resume_from_checkpoint {checkpoint}: it was not finished ({reason}); choose another.")
    for file in ("config.json", "adapter_config.json"):
        if (Path(checkpoint) / file).is_file():
            saved = json.loads((Path(checkpoint) / file).read_text(encoding="utf-8"))
            for name, value in run.items():
                if name in saved and saved[name] != value:
                    raise UserError(
                        f"{checkpoint} is from another run (its {name} differs); choose another --output_dir, or "
                        "remove the old checkpoints."
                    )
    logger.info("Going on from %s.", checkpoint)
    return checkpoint


def evaluate(
    trainer: Trainer, family: ModuleType, dataset: DatasetDict, split: str, prefix: str
) -> tuple[dict[str, dict], dict[str, Any], list[Case]]:
    """Scores a split, saves its figures and predictions, and puts baselines beside them. The validation split of a
    training also calibrates the model's confidence.

    Returns:
        Figures by name, the split's report, and the questions that it shows; the first process alone has these two.
    """
    rows = dataset[split]
    output = trainer.predict(rows, metric_key_prefix=prefix)
    results = {split: {name.removeprefix(f"{prefix}_"): value for name, value in output.metrics.items()}}
    metrics = output.metrics
    baselines = {}
    if "train" in dataset:
        train_rows = dataset["train"].select_columns(["question", "answer"])
        baselines = {
            "most frequent answer": [most_frequent_answer(train_rows)] * len(rows),
            "most frequent answer to the question": majority_answers(train_rows, rows),
        }
        baseline = score_answers(rows, baselines["most frequent answer to the question"])
        results[f"{split}, majority answer to the question"] = baseline
        metrics |= {f"{prefix}_majority_{name}": value for name, value in baseline.items() if name != "total"}
    trainer.save_metrics(prefix, metrics)
    answers = family.read_answers(output, trainer)
    if split == "validation" and trainer.args.do_train and len(rows) >= MIN_ANSWERS:
        right = all_scores(rows, [answers[number][0] for number in rows["row"]])[:, 0]
        family.calibrate(output, trainer, dict(zip(rows["row"], right, strict=True)))
        answers = family.read_answers(output, trainer)
        if trainer.args.target_risk is not None:
            confidences = np.array([answers[number][1] for number in rows["row"]])
            silence = choose_threshold(confidences, right, trainer.args.target_risk)
            logger.info("--target_risk %g: %s", trainer.args.target_risk, describe_silence(silence))
            family.stay_silent(trainer, silence.threshold if silence else 0.0)
    if not trainer.is_world_process_zero():
        return results, {}, []
    predictions, confidences = zip(*(answers[number] for number in rows["row"]), strict=True)
    write_jsonl(
        Path(trainer.args.output_dir) / f"predictions_{split}.jsonl",
        (
            {
                "id": row["row"] if row["question_id"] is None else row["question_id"],
                **{name: row[name] for name in ("image_id", "question", "answer", "language")},
                **{"prediction": prediction, "confidence": round(confidence, 6)},
            }
            for row, prediction, confidence in zip(rows, predictions, confidences, strict=True)
        ),
    )
    cases = look(trainer, family, choose_cases(list(rows), predictions, confidences, family.MAX_CASES))
    thresholds = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items() if "_best_" in name}
    return results, make_report(list(rows), predictions, confidences, baselines, cases, thresholds), cases


def look(trainer: Trainer, family: ModuleType, cases: list[Case]) -> list[Case]:
    """The cases with their heat maps, where the model has them."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        logger.warning("No heat maps: the model is spread over several processes; evaluate it in one.")
        return cases
    try:
        rows = [dict(case.row) | {"answer": case.prediction} for case in cases]
        parts = [rows[start : start + HEAT_MAPS] for start in range(0, len(rows), HEAT_MAPS)]
        maps = [heat for part in tqdm(parts, desc="Heat maps") for heat in family.heat_maps(trainer, part)]
    except UserError as error:
        logger.warning("No heat maps: %s", error)
        return cases
    return [seen(case, heat) for case, heat in zip(cases, maps, strict=True)]


def use_all_cores() -> None:
    """Lifts the one thread that `accelerate launch` gives to a run without a GPU unless it is told otherwise."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and os.environ.get("WORLD_SIZE", "1") == "1"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if launched and os.environ.get("OMP_NUM_THREADS") == "1" and cores > 1 and not torch.accelerator.is_available():
        torch.set_num_threads(cores)
        logger.info("Using %d threads instead of accelerate's default of 1.", cores)


if __name__ == "__main__":
    run_command(main)
