"""Evaluates a trained model on a split: predict, score, calibrate, write the predictions, report."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import numpy as np
from tqdm import tqdm
from transformers.trainer_utils import PredictionOutput

from metrics.abstention import SILENT_EVERYWHERE, choose_threshold, describe_abstention
from metrics.calibration import MIN_ANSWERS
from metrics.cases import Case, choose_cases, with_evidence, with_heat_map
from metrics.report import make_report
from metrics.vqa import ScoredAnswers, majority_answers, most_frequent_answer, score_answers, score_each
from modeling.parts.evidence import Evidence
from processing.errors import UserError, describe_error
from processing.question_ids import id_of_row
from processing.row_values import distinct
from processing.storage import write_jsonl

if TYPE_CHECKING:
    from modeling.families import Family  # which imports this room

logger = logging.getLogger(__name__)

HEAT_MAP_BATCH = 8  # heat maps computed at once
EVIDENCE_BATCH = 64  # questions whose evidence is computed at once
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

    The validation split of a training also calibrates the model's confidence, and chooses the threshold below which
    the model is silent where `--target_risk` asks for one.
    """
    rows = dataset[split.name]
    output = trainer.predict(rows, metric_key_prefix=split.prefix)
    baselines = _baselines(dataset, rows)
    figures = _save_figures(trainer, split, output, rows, baselines)
    answers = _score(trainer, family, output, rows)
    held_out = None
    if split == VALIDATION and trainer.args.do_train and len(rows) >= MIN_ANSWERS:
        answers, held_out = _calibrate(trainer, family, output, answers)
        if trainer.args.target_risk is not None:
            _choose_threshold(trainer, family, answers)
    if not trainer.is_world_process_zero():
        return Evaluation(figures, {}, [])
    evidence = _find_evidence(trainer, family, answers)
    _write_predictions(Path(trainer.args.output_dir) / f"predictions_{split.name}.jsonl", answers, evidence)
    cases = _with_heat_maps(trainer, family, choose_cases(answers, family.MAX_CASES))
    cases = [_with_evidence(case, evidence) for case in cases]
    thresholds = {
        name.removeprefix(f"{split.prefix}_"): value for name, value in output.metrics.items() if "_best_" in name
    }
    threshold = family.abstention_threshold(trainer)
    abstention = (threshold, trainer.args.target_risk) if threshold > 0 else None
    unknown = output.metrics.get(f"{split.prefix}_choice_out_of_vocabulary")
    report = make_report(answers, baselines, cases, thresholds, held_out, abstention, unknown)
    return Evaluation(figures, report, cases)


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
    shared = sum(overlap == "same" for _, overlap in distinct(rows, ("image", "overlap")))
    figures = {f"{split.name} (images in training: {shared:,})" if shared else split.name: own}
    for part, title in (("new_image_", "new images"), ("no_neighbour_", "no near neighbour")):
        some = {name.removeprefix(part): value for name, value in own.items() if name.startswith(part)}
        if 0 < some.get("total", 0) < own["total"]:
            figures[f"{split.name}, {title}"] = some
    if MAJORITY in baselines:
        majority = score_answers(rows, baselines[MAJORITY])
        figures[f"{split.name}, majority answer"] = majority
        metrics |= {f"{split.prefix}_majority_{name}": value for name, value in majority.items() if name != "total"}
    trainer.save_metrics(split.prefix, metrics)
    return figures


def _score(trainer: Any, family: "Family", output: PredictionOutput, rows: datasets.Dataset) -> ScoredAnswers:
    answers = family.read_answers(output, trainer)
    predictions, confidences = zip(*(answers[number] for number in rows["row"]), strict=True)
    return score_each(list(rows), predictions, confidences)


def _calibrate(
    trainer: Any, family: "Family", output: PredictionOutput, answers: ScoredAnswers
) -> tuple[ScoredAnswers, np.ndarray | None]:
    """Calibrates the model's confidence.

    Returns:
        The answers with the confidences of the calibrated model, and those of each half of the images by a fit to the
        other half, ``(N,)``: only these tell how good the calibration is. They are None where there is one image.
    """
    numbers = [row["row"] for row in answers.rows]

    def fit(chosen: np.ndarray) -> np.ndarray:
        right = {number: answers.correct[i] for i, number in enumerate(numbers) if chosen[i]}
        family.calibrate(output, trainer, right)
        calibrated = family.read_answers(output, trainer)
        return np.array([calibrated[number][1] for number in numbers])

    held_out = None
    images, index = np.unique([row["image_id"] for row in answers.rows], return_inverse=True)
    if len(images) > 1:
        in_first = np.random.default_rng(0).permutation(len(images)) < len(images) // 2
        first = in_first[index]
        held_out = np.where(first, fit(~first), fit(first))
    return answers._replace(confidences=fit(np.full(len(numbers), True))), held_out


def _choose_threshold(trainer: Any, family: "Family", answers: ScoredAnswers) -> None:
    """Makes the model silent where `--target_risk` asks for it, and everywhere if no threshold keeps the promise."""
    images = [row["image_id"] for row in answers.rows]
    abstention = choose_threshold(answers.confidences, answers.correct, images, trainer.args.target_risk)
    tell = logger.warning if abstention is None else logger.info
    tell("--target_risk %g: %s", trainer.args.target_risk, describe_abstention(abstention))
    family.set_abstention_threshold(trainer, SILENT_EVERYWHERE if abstention is None else abstention.threshold)


def _find_evidence(trainer: Any, family: "Family", answers: ScoredAnswers) -> dict[int, Evidence | None]:
    """Where the model finds what it answers, by the number of the row."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return {}
    rows = [dict(row) | {"answer": answer} for row, answer in zip(answers.rows, answers.predictions, strict=True)]
    found: list[Evidence | None] = []
    for start in range(0, len(rows), EVIDENCE_BATCH):
        found += family.find_evidence(trainer, rows[start : start + EVIDENCE_BATCH])
    return {row["row"]: evidence for row, evidence in zip(rows, found, strict=True)}


def _described(evidence: Evidence) -> dict[str, Any]:
    return {"evidence": [asdict(box) for box in evidence.boxes], "evidence_contradicts": evidence.contradicts}


def _with_evidence(case: Case, evidence: Mapping[int, Evidence | None]) -> Case:
    found = evidence.get(case.row["row"])
    return case if found is None else with_evidence(case, np.array(found.cells), found.boxes)


def _write_predictions(file: Path, answers: ScoredAnswers, evidence: Mapping[int, Evidence | None]) -> None:
    """Writes an answer a line; a row without an id is told by its number, as row-7 where another's id is 7."""
    given = {str(row["question_id"]) for row in answers.rows}
    found = [evidence.get(row["row"]) for row in answers.rows]
    columns = zip(answers.rows, answers.predictions, answers.confidences, found, strict=True)
    write_jsonl(
        file,
        (
            {
                "id": id_of_row(row, given),
                "image_id": row["image_id"],
                "question": row["question"],
                "answer": row["answer"],
                "answer_type": row["answer_type"],
                **({"answers": row["answers"]} if row.get("answers") else {}),
                "language": row["language"],
                **({"overlap": row["overlap"]} if row.get("overlap") else {}),
                "prediction": prediction,
                "confidence": round(float(confidence), 6),
                **({} if place is None else _described(place)),
            }
            for row, prediction, confidence, place in columns
        ),
    )


def _with_heat_maps(trainer: Any, family: "Family", cases: list[Case]) -> list[Case]:
    """The cases with their heat maps, where the model has them."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        logger.warning("No heat maps: the model is spread over several processes; evaluate it in one.")
        return cases
    rows = [dict(case.row) | {"answer": case.prediction} for case in cases]
    shown: list[Case] = []
    try:
        for start in tqdm(range(0, len(rows), HEAT_MAP_BATCH), desc="Heat maps"):
            maps = family.heat_maps(trainer, rows[start : start + HEAT_MAP_BATCH])
            own = cases[start : start + HEAT_MAP_BATCH]
            shown += [with_heat_map(case, heat) for case, heat in zip(own, maps, strict=True)]
    except Exception as error:  # whatever it is, a picture must not cost the figures of the run
        text = str(error) if isinstance(error, UserError) else describe_error(error)
        logger.warning("No heat maps for %d of %d questions: %s", len(cases) - len(shown), len(cases), text)
    return shown + cases[len(shown) :]
