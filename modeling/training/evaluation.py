"""Evaluates a trained model on a split: predict, score, calibrate, write the predictions, report."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import numpy as np
from tqdm import tqdm
from transformers.trainer_utils import PredictionOutput

from metrics.calibration import MIN_ANSWERS, choose_threshold, describe_abstention
from metrics.cases import Case, choose_cases, with_heat_map
from metrics.report import make_report
from metrics.vqa import ScoredAnswers, majority_answers, most_frequent_answer, score_answers, score_each
from processing.errors import UserError
from processing.storage import write_jsonl

if TYPE_CHECKING:
    from modeling.families import Family  # which imports this room

logger = logging.getLogger(__name__)

HEAT_MAP_BATCH = 8  # heat maps computed at once
MAJORITY = "most frequent answer to the question"


class Split(NamedTuple):
    """A part of a data set to evaluate on.

    Attributes:
        name: in the data set.
        prefix: of its figures in the Trainer's metrics.
    """

    name: str
    prefix: str


VALIDATION, TEST = Split("validation", "eval"), Split("test", "test")


class Evaluation(NamedTuple):
    """What the answers to a split are worth.

    Attributes:
        figures: of the model and of the majority answer, by the name that a table shows.
        report: of `metrics.report.make_report`; the first process alone has it.
        cases: the questions that a report shows; the first process alone has them.
    """

    figures: dict[str, dict[str, float]]
    report: dict[str, Any]
    cases: list[Case]


def evaluate(trainer: Any, family: "Family", dataset: datasets.DatasetDict, split: Split) -> Evaluation:
    """Scores a split, saves its figures and predictions, and puts baselines beside them.

    The validation split of a training also calibrates the model's confidence.
    """
    rows = dataset[split.name]
    output = trainer.predict(rows, metric_key_prefix=split.prefix)
    baselines = _baselines(dataset, rows)
    figures = _save_figures(trainer, split, output, rows, baselines)
    answers = _score(trainer, family, output, rows)
    if split == VALIDATION and trainer.args.do_train and len(rows) >= MIN_ANSWERS:
        answers = _calibrate(trainer, family, output, answers)
    if not trainer.is_world_process_zero():
        return Evaluation(figures, {}, [])
    _write_predictions(Path(trainer.args.output_dir) / f"predictions_{split.name}.jsonl", answers)
    cases = _with_heat_maps(trainer, family, choose_cases(answers, family.MAX_CASES))
    thresholds = {
        name.removeprefix(f"{split.prefix}_"): value for name, value in output.metrics.items() if "_best_" in name
    }
    return Evaluation(figures, make_report(answers, baselines, cases, thresholds), cases)


def _baselines(dataset: datasets.DatasetDict, rows: datasets.Dataset) -> dict[str, list[str]]:
    """Answers that need no image, by the name of the baseline."""
    if "train" not in dataset:
        return {}
    train_rows = dataset["train"].select_columns(["question", "answer"])
    return {
        "most frequent answer": [most_frequent_answer(train_rows)] * len(rows),
        MAJORITY: majority_answers(train_rows, rows),
    }


def _save_figures(
    trainer: Any,
    split: Split,
    output: PredictionOutput,
    rows: datasets.Dataset,
    baselines: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, float]]:
    metrics = output.metrics
    own = {name.removeprefix(f"{split.prefix}_"): value for name, value in metrics.items()}
    figures = {split.name: own}
    if MAJORITY in baselines:
        majority = score_answers(rows, baselines[MAJORITY])
        figures[f"{split.name}, majority answer to the question"] = majority
        metrics |= {f"{split.prefix}_majority_{name}": value for name, value in majority.items() if name != "total"}
    trainer.save_metrics(split.prefix, metrics)
    return figures


def _score(trainer: Any, family: "Family", output: PredictionOutput, rows: datasets.Dataset) -> ScoredAnswers:
    answers = family.read_answers(output, trainer)
    predictions, confidences = zip(*(answers[number] for number in rows["row"]), strict=True)
    return score_each(list(rows), predictions, confidences)


def _calibrate(trainer: Any, family: "Family", output: PredictionOutput, answers: ScoredAnswers) -> ScoredAnswers:
    """The answers with calibrated confidences. With `--target_risk` the model also gets its abstention threshold."""
    numbers = [row["row"] for row in answers.rows]
    family.calibrate(output, trainer, dict(zip(numbers, answers.correct, strict=True)))
    calibrated = family.read_answers(output, trainer)
    answers = answers._replace(confidences=np.array([calibrated[number][1] for number in numbers]))
    target_risk = trainer.args.target_risk
    if target_risk is not None:
        abstention = choose_threshold(answers.confidences, answers.correct, target_risk)
        logger.info("--target_risk %g: %s", target_risk, describe_abstention(abstention))
        family.set_abstention_threshold(trainer, abstention.threshold if abstention else 0.0)
    return answers


def _write_predictions(file: Path, answers: ScoredAnswers) -> None:
    """Writes an answer a line; a row without an id is told by its number, as row-7 where another's id is 7."""
    given = {str(row["question_id"]) for row in answers.rows}
    columns = zip(answers.rows, answers.predictions, answers.confidences, strict=True)
    write_jsonl(
        file,
        (
            {
                "id": _id_of(row, given),
                "image_id": row["image_id"],
                "question": row["question"],
                "answer": row["answer"],
                "language": row["language"],
                "prediction": prediction,
                "confidence": round(float(confidence), 6),
            }
            for row, prediction, confidence in columns
        ),
    )


def _id_of(row: Mapping[str, Any], given: Collection[str]) -> Any:
    if row["question_id"] is not None:
        return row["question_id"]
    return f"row-{row['row']}" if str(row["row"]) in given else row["row"]


def _with_heat_maps(trainer: Any, family: "Family", cases: list[Case]) -> list[Case]:
    """The cases with their heat maps, where the model has them."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        logger.warning("No heat maps: the model is spread over several processes; evaluate it in one.")
        return cases
    rows = [dict(case.row) | {"answer": case.prediction} for case in cases]
    maps = []
    try:
        for start in tqdm(range(0, len(rows), HEAT_MAP_BATCH), desc="Heat maps"):
            maps += family.heat_maps(trainer, rows[start : start + HEAT_MAP_BATCH])
    except UserError as error:
        logger.warning("No heat maps: %s", error)
        return cases
    return [with_heat_map(case, heat) for case, heat in zip(cases, maps, strict=True)]
