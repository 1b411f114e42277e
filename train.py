"""Fine-tunes a medical VQA model, evaluates it and leaves a folder that loads again.

One GPU or a CPU:  accelerate launch train.py recipes/vilt_slake.yaml --dataset path/to/SLAKE --output_dir out
Several GPUs:      accelerate launch --multi_gpu --num_processes 4 train.py recipes/vilt_slake.yaml ...
Evaluate again:    python train.py --do_train False --do_predict True --model_name_or_path out --dataset ...

A recipe comes first and flags win over it; `python train.py --help` lists them all.
"""

import logging
import os
import time
from pathlib import Path

import processing  # noqa: F401  # isort: skip  # before torch, whose threads it sets
import torch
import transformers
from datasets import DatasetDict

from metrics.accuracy import warn_of_equal_answers
from metrics.plots import plot_curves
from metrics.report import format_results, write_report
from modeling.families import FAMILIES
from modeling.hub.card import model_card
from modeling.parts.question_words import write_question_words
from modeling.publish import pop_destination, preflight, publish
from modeling.training.arguments import AnyTrainingArguments
from modeling.training.checkpoints import (
    StopOnSigterm,
    TrainedRows,
    explain_ctrl_c,
    explain_full_disk,
    find_checkpoint,
    pin_revision,
    training_settings,
    warn_of_other_rows,
)
from modeling.training.checks import check_output_dir, check_rows
from modeling.training.data_arguments import DataArguments
from modeling.training.evaluation import TEST, VALIDATION, Evaluation, evaluate
from modeling.training.memory import explain_out_of_memory
from modeling.training.parser import parse_arguments
from modeling.training.progress import show_progress
from modeling.training.record import base_model_of, note_test_look, write_record
from modeling.training.summary import parts_of, summarize, what_to_open
from processing.data import load_vqa_dataset
from processing.errors import UserError, run_command
from processing.row_values import digest_of

logger = logging.getLogger("train")

SAMPLE_LIMITS = {"train": "max_train_samples", "validation": "max_eval_samples", "test": "max_predict_samples"}


def main(argv: list[str]) -> None:
    """Runs the whole job that a command line describes: load, build, train, evaluate, report, publish."""
    started = time.monotonic()
    use_all_cores()
    data_args, args = parse_arguments(argv)
    destination = pop_destination(args)
    if args.process_index == 0:
        check_output_dir(args.output_dir)
    family = FAMILIES[args.model_type]
    base_license = None
    if destination and args.process_index == 0:
        base_license = preflight(destination, base_model_of(args.model_name_or_path))
    pin_revision(args)
    with args.main_process_first(desc="finding the base model"):
        family.check_base(args)

    transformers.set_seed(args.seed)
    dataset = load_data(data_args, args)
    check_rows(args, dataset)
    model, processor = family.build_model(args, dataset)
    rows = digest_of(dataset["train"]) if "train" in dataset else None
    if rows is not None and not args.do_train:
        warn_of_other_rows(args.model_name_or_path, rows)
    checkpoint = find_checkpoint(args, family.describe_run(model), rows)
    parts = parts_of(model)
    trainer = family.build_trainer(args, model, processor, dataset)
    evaluated = [split for split, wanted in ((VALIDATION, args.do_eval), (TEST, args.do_predict)) if wanted]
    show_progress(trainer, sum(len(dataset[split.name]) for split in evaluated if split.name in dataset))
    if trainer.is_world_process_zero():
        print(f"\n{summarize(data_args.dataset, args, trainer, family, dataset, parts)}\n", flush=True)

    if args.do_train:
        trainer.add_callback(StopOnSigterm())
        trainer.add_callback(TrainedRows(rows, training_settings(args)))
        with explain_full_disk(args.output_dir), explain_ctrl_c(args.output_dir, args.save_strategy != "no"):
            with explain_out_of_memory(args, training=True):
                result = trainer.train(resume_from_checkpoint=checkpoint)
            trainer.save_model()
            if trainer.is_world_process_zero():
                write_question_words(trainer.train_dataset, args.output_dir)
            trainer.save_state()
            trainer.save_metrics("train", result.metrics | {"train_samples": len(dataset["train"])})

    evaluations: dict[str, Evaluation] = {}
    for split in evaluated:
        if split.name in dataset:
            if split == TEST and not args.do_train and args.process_index == 0:
                for folder in {os.path.realpath(args.output_dir), os.path.realpath(args.model_name_or_path)}:
                    note_test_look(folder)
            with explain_out_of_memory(args, training=False):
                evaluations[split.name] = evaluate(trainer, family, dataset, split)

    if trainer.is_world_process_zero():
        plot_curves(trainer.state.log_history, args.output_dir)
        report(evaluations, Path(args.output_dir) / "report")
        if args.do_train:
            write_record(data_args, args, dataset, time.monotonic() - started)
            model_card(args.output_dir).save(Path(args.output_dir) / "README.md")
        print(what_to_open(args.output_dir, args.do_train))
        if destination:
            publish(args.output_dir, destination, base_license)


def load_data(data_args: DataArguments, args: AnyTrainingArguments) -> DatasetDict:
    """Loads the splits, limits them as asked, and checks that what is to be done has rows.

    Raises:
        UserError: the data set can't be used, or has no rows to train or test on.
    """
    options = vars(data_args).copy()
    limits = {split: options.pop(name) for split, name in SAMPLE_LIMITS.items()}
    del options["drop_leaking_rows"]  # which stands in `leaks`
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
        logger.warning("The data set has no test split, so --do_predict has nothing to evaluate.")
    if not (args.do_train or args.do_predict or "validation" in dataset):
        raise UserError(
            f"--dataset {data_args.dataset}: no validation split; use --do_predict True for the test split."
        )
    warn_of_equal_answers(row for rows in dataset.values() for row in rows.select_columns(["answer", "language"]))
    return dataset


def report(evaluations: dict[str, Evaluation], folder: Path) -> None:
    """Prints the figures of all splits and writes their report."""
    if evaluations:
        figures = {name: row for evaluation in evaluations.values() for name, row in evaluation.figures.items()}
        print(f"\n{format_results(figures)}\n")
        reports = {split: evaluation.report for split, evaluation in evaluations.items()}
        write_report(reports, folder, {split: evaluation.cases for split, evaluation in evaluations.items()})


def use_all_cores() -> None:
    """Lifts the limit of one thread that `accelerate launch` sets without a GPU where nobody chose a number."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and os.environ.get("WORLD_SIZE", "1") == "1"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if launched and os.environ.get("OMP_NUM_THREADS") == "1" and cores > 1 and not torch.accelerator.is_available():
        torch.set_num_threads(cores)
        logger.info("Using %d threads instead of accelerate's default of 1.", cores)


if __name__ == "__main__":
    run_command(main)
