"""What a run's folder says about its model, as the model card needs it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metrics.breakdown import NEIGHBOUR, NO_NEIGHBOUR, NOT_SHARED, SHARED
from modeling.training.record import RECIPE_FILE, model_folder, read_record

REPORT_FILE = Path("report/report.json")
BASELINE = "most frequent answer to the question"  # the report's name of the majority answer


@dataclass(frozen=True)
class Figure:
    """A figure that the card shows.

    Attributes:
        key: names it among `FIGURES`.
        title: in the card's table.
        metric: its name on the Hub.
        definition: as the end of a sentence.
        score: its name in the report.
        group, value: the questions it is over, as the report names them.
    """

    key: str
    title: str
    metric: str
    definition: str
    score: str = "exact_match"
    group: str = "all"
    value: str = ""


FIGURES = (
    Figure(
        key="exact_match",
        title="Exact Match",
        metric="exact_match",
        definition="share of answers that equal the gold answer after SQuAD v2's normalisation (lower case, without "
        "punctuation and the words a, an, the; in Chinese CMRC 2018's)",
    ),
    Figure(
        key="accuracy",
        title="Accuracy",
        metric="accuracy",
        definition="share of answers that equal the gold answer in lower case and with one space between words",
        score="accuracy",
    ),
    Figure(
        key="f1",
        title="F1",
        metric="f1",
        definition="mean of each answer's harmonic mean of precision and recall of words (in Chinese of characters, "
        "as in CMRC 2018), after the same normalisation",
        score="f1",
    ),
    Figure(
        key="new_image_exact_match",
        title="Exact Match on images that are not in training",
        metric="exact_match",
        definition="Exact Match over the questions whose image is not, by its pixels, among the training images",
        group=SHARED,
        value=NOT_SHARED,
    ),
    Figure(
        key="no_neighbour_exact_match",
        title="Exact Match without near neighbours",
        metric="exact_match",
        definition="Exact Match over the questions whose image has no near neighbour among the training images",
        group=NEIGHBOUR,
        value=NO_NEIGHBOUR,
    ),
    Figure(
        key="no_neighbour_f1",
        title="F1 without near neighbours",
        metric="f1",
        definition="F1 over the same questions",
        score="f1",
        group=NEIGHBOUR,
        value=NO_NEIGHBOUR,
    ),
    Figure(
        key="open_exact_match",
        title="OPEN accuracy",
        metric="accuracy",
        definition="Exact Match over the questions whose answer type is OPEN",
        group="answer_type",
        value="OPEN",
    ),
    Figure(
        key="closed_exact_match",
        title="CLOSED accuracy",
        metric="accuracy",
        definition="Exact Match over those of answer type CLOSED",
        group="answer_type",
        value="CLOSED",
    ),
    Figure(
        key="choice_accuracy",
        title="Choice accuracy",
        metric="accuracy",
        definition="share of the questions with options whose right option the model chooses",
        score="choice_accuracy",
        group="choices",
        value="all",
    ),
    Figure(
        key="calibration_error",
        title="Calibration error",
        metric="expected_calibration_error",
        definition="mean distance between confidence and share of right answers over 15 bins of confidence (ECE)",
        score="error",
        group="calibration",
    ),
)


@dataclass(frozen=True)
class Result:
    """A figure of one split, in percent.

    Attributes:
        low, high: ends of the 95 % interval, None where the report has none.
        majority: the same figure of the majority answer, None where the report has none.
    """

    split: str
    figure: Figure
    questions: int
    value: float
    low: float | None
    high: float | None
    majority: float | None


@dataclass(frozen=True)
class CardFacts:
    """What a run's folder says about its model.

    Attributes:
        record: the content of `run.json`.
        recipe: the content of `recipe.yaml`.
        reports: the content of `report.json`, a report for each split; empty where nothing was evaluated.
        is_adapter: the model is an adapter over its base.
        pictures: names of the plots beside the card.
    """

    record: dict[str, Any]
    recipe: dict[str, Any]
    reports: dict[str, Any]
    is_adapter: bool
    pictures: frozenset[str]

    @property
    def model_type(self) -> str:
        return self.record["model_type"]

    @property
    def base(self) -> str | None:
        """A Hub id, `starter` or `scratch:SIZE`; None where the run started from a folder."""
        return self.record["base_model"]

    @property
    def base_id(self) -> str | None:
        """The Hub id of the base model, None where it has none."""
        return self.base if self.base is not None and "/" in self.base else None

    @property
    def data(self) -> dict[str, Any]:
        """The data set: name, Hub id, licence, language, citation and counts of its splits."""
        return self.record["dataset"]

    def data_of(self, split: str) -> dict[str, Any]:
        """The data set of a split; the test split may be of another one."""
        return (split == "test" and self.record.get("eval_dataset")) or self.data

    @property
    def results(self) -> list[Result]:
        """The figures of all splits."""
        return [result for split, report in self.reports.items() for result in _results(split, report)]


def read_card_facts(folder: str | Path) -> CardFacts:
    """Reads what a run left in its folder.

    Args:
        folder: the run's `--output_dir`.

    Raises:
        UserError: the folder holds no finished run.
    """
    folder = Path(folder)
    record = read_record(folder)
    recipe = yaml.safe_load((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    report_file = folder / REPORT_FILE
    reports = json.loads(report_file.read_text(encoding="utf-8")) if report_file.is_file() else {}
    return CardFacts(
        record=record,
        recipe=recipe,
        reports=reports,
        is_adapter=(model_folder(folder) / "adapter_config.json").is_file(),
        pictures=frozenset(file.name for file in folder.glob("*.png")),
    )


def _results(split: str, report: dict[str, Any]) -> Iterator[Result]:
    parts = report["figures"] + report.get("choices", [])  # reports of older versions have no choices
    entries = {(entry["group"], entry["value"]): entry for entry in parts}
    if (calibration := report.get("calibration")) and ("all", "") in entries:
        interval = calibration.get("expected_calibration_error_interval") or (None, None)  # older reports have none
        ends = calibration["expected_calibration_error"], *interval
        percent = [None if end is None else round(100 * end, 2) for end in ends]
        entries["calibration", ""] = {"questions": entries["all", ""]["questions"], "error": percent}
    for figure in FIGURES:
        entry = entries.get((figure.group, figure.value))
        if entry is not None and figure.score in entry:  # reports of older versions have no accuracy
            value, low, high = entry[figure.score]
            majority = entry["baselines"].get(BASELINE) if figure.score == "exact_match" else None
            yield Result(split, figure, entry["questions"], value, low, high, majority)
