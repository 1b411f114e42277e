"""The model card: what a run's folder says of itself, as the README.md of a Hub repo.

Metadata after https://huggingface.co/docs/hub/model-cards; what a card should tell after Mitchell et al. 2019, "Model
Cards for Model Reporting", https://arxiv.org/abs/1810.03993.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling.parts.packages import INSTALL, INSTALL_LANGUAGE_MODEL, PARTS
from modeling.training.record import RECIPE_FILE, model_folder, read_record

TEMPLATE = Path(__file__).with_name("card.md")
FAMILIES = {"vilt": "ViLT", "blip2": "BLIP-2"}

# Of the published recipes, which are the defaults of the families' arguments.
PUBLISHED = {"vilt": {"f1": "71.66"}, "blip2": {"exact_match": "75.77", "f1": "79.57"}}


class Figure(NamedTuple):
    """A figure of `report/report.json` as it stands in the card."""

    title: str
    metric: str  # as the Hub names it
    definition: str
    kind: tuple[str, str] = ("all", "")  # of questions, as the report names it
    name: str = "exact_match"


FIGURES = {
    "exact_match": Figure(
        *("Exact Match", "exact_match"),
        "share of answers that equal the gold answer after SQuAD v2's normalisation (lower case, without punctuation "
        "and the words a, an, the)",
    ),
    "f1": Figure(
        *("F1", "f1"),
        "mean of each answer's harmonic mean of precision and recall of words, after the same normalisation",
        name="f1",
    ),
    "open_exact_match": Figure(
        *("OPEN accuracy", "accuracy", "Exact Match over the questions whose answer type is OPEN"),
        kind=("answer_type", "OPEN"),
    ),
    "closed_exact_match": Figure(
        *("CLOSED accuracy", "accuracy", "Exact Match over those of answer type CLOSED"),
        kind=("answer_type", "CLOSED"),
    ),
}
REPORT_FILE = Path("report/report.json")
BASELINE = "most frequent answer to the question"


def model_card(folder: str | Path, repo_id: str | None = None, base_license: str | None = None) -> ModelCard:
    """The card of the model that a run left in a folder.

    Args:
        folder: the run's `--output_dir`.
        repo_id: where the model is published; by default the card speaks of a folder.
        base_license: licence of the base model where that is on the Hub, as the Hub names it.

    Raises:
        UserError: the folder holds no finished run.
    """
    folder = Path(folder)
    record = read_record(folder)
    recipe = yaml.safe_load((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    report_file = folder / REPORT_FILE
    reports = json.loads(report_file.read_text(encoding="utf-8")) if report_file.is_file() else {}
    base, data = record["base_model"], record["dataset"]
    base_id = base if base is not None and "/" in base else None
    family = FAMILIES[record["model_type"]]
    adapter = (model_folder(folder) / "adapter_config.json").is_file()
    results = list(_results(reports))
    installs = [INSTALL, INSTALL_LANGUAGE_MODEL] if record["model_type"] == "blip2" else [INSTALL]
    card_data = ModelCardData(
        license=base_license if base_id else "apache-2.0" if base else "other",
        language=["en", "zh"] if data["language"] == "all" else data["language"],
        library_name="peft" if adapter else "transformers",
        pipeline_tag="visual-question-answering",
        base_model=base_id,
        datasets=data["id"],
        metrics=["exact_match", "f1", "accuracy"],
        tags=["medical", "radiology", "medical-vqa", family.lower(), *(["lora"] if adapter else [])],
        model_name=(repo_id or "medical-vqa").rpartition("/")[2],
        eval_results=[_eval_result(result, data) for result in results] or None,
    )
    parts = {
        "title": f"{family} for questions about medical images, trained on {_escape(data['name'])}",
        "what": _describe(record, adapter),
        "repo_id": repo_id or "path/to/this/folder",
        "installs": installs if base == "starter" else [],
        "record": record,
        "recipe": {
            name: ", ".join(map(str, value)) if isinstance(value, list) else value
            for name, value in recipe.items()
            if name != "model_type"
        },
        "results": results,
        "trust": [_trust(split, report) for split, report in reports.items()],
        "figures": [figure for key, figure in FIGURES.items() if any(result["key"] == key for result in results)],
        "published": PUBLISHED[record["model_type"]] if data["name"] == "SLAKE" else None,
        "base": "" if base else "The base model was a folder of its author, so it can't be named here.",
        "time": _duration(record["seconds"]),
        "curves": [
            {"file": file, "alt": alt}
            for file, alt in (("loss.png", "Loss by epoch"), ("metrics.png", "Validation figures by epoch"))
            if (folder / file).is_file()
        ],
        "data": data,
        "limit": "It writes its answers, and may write one that no training row holds."
        if record["model_type"] == "blip2"
        else "It chooses among the answers of its training rows; any other can't be given.",
        "parts": PARTS[record["model_type"]] if base == "starter" else [],
    }
    return ModelCard.from_template(card_data, template_path=str(TEMPLATE), md=_escape, **parts)


def _results(reports: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for split, report in reports.items():
        kinds = {(entry["group"], entry["value"]): entry for entry in report["figures"]}
        for key, figure in FIGURES.items():
            if figure.kind in kinds:
                entry = kinds[figure.kind]
                value, low, high = entry[figure.name]
                yield {
                    **{"split": split, "key": key, "figure": figure, "total": entry["questions"]},
                    **{"value": value, "low": low, "high": high},
                    "majority": entry["baselines"].get(BASELINE) if figure.name == "exact_match" else None,
                }


def _trust(split: str, report: dict[str, Any]) -> str:
    """What the report says of confidence and of where the model looked, in sentences."""
    text = (
        f"On {split} the confidence is {report['calibration']['expected_calibration_error']:.1%} from the accuracy in "
        f"the mean of 15 bins (ECE); the surest answers reach "
        + " and ".join(
            f"{coverage:.1%} of the questions with at most {float(risk):.0%} wrong"
            for risk, coverage in report["silence"]["coverage_at_risk"].items()
        )
        + "."
    )
    if report["grounding"]:
        found = report["grounding"][0]
        text += (
            f" Of {found['questions']:,} questions about something that the data has a box of, the hottest place of "
            f"the heat map touches the box in {found['hit'][0]:.1f} % (a place drawn at random: "
            f"{found['chance']:.1f} %, the middle of the image: {found['center']:.1f} %)."
        )
    return text


def _eval_result(result: dict[str, Any], data: dict[str, Any]) -> EvalResult:
    figure = result["figure"]
    return EvalResult(
        task_type="visual-question-answering",
        task_name="Visual Question Answering",
        dataset_type=data["id"] or re.sub(r"[^\w.-]+", "-", data["name"]),
        dataset_name=data["name"],
        dataset_split=result["split"],
        dataset_args={"language": data["language"], "num_rows": result["total"]},
        metric_type=figure.metric,
        metric_name=f"{figure.title} ({result['split']}, {result['total']:,} questions, percent)",
        metric_value=result["value"],
        metric_args={"definition": figure.definition},
    )


def _describe(record: dict[str, Any], adapter: bool) -> str:
    if record["model_type"] == "vilt":
        kind = "ViLT (arXiv:2102.03334) that answers a question about a medical image with one of its known answers"
    else:
        kind = "BLIP-2 (arXiv:2301.12597) that writes the answer to a question about a medical image"
    kind = f"{'A LoRA adapter for a' if adapter else 'A'} {kind}"
    base = record["base_model"]
    started = {None: "", "starter": ", started from pretrained parts of ordinary registry packages"}
    if base is not None and base.startswith("scratch:"):
        return f"{kind}, trained from nothing."
    return f"{kind}{started.get(base, f', started from {base}')}."


def _duration(seconds: int) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 60:
        return f"{seconds} s"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _escape(text: str) -> str:
    """Text of a user as plain Markdown in one line: no markup, table cell, link or HTML of its own."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*{}\[\]<>#|~]|(?<!\w)_|_(?!\w))", r"\\\1", line)
