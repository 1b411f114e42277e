"""The model card: what a run's folder says about its model, as the README.md of a Hub repo.

Metadata after https://huggingface.co/docs/hub/model-cards; what a card should tell after Mitchell et al. 2019, "Model
Cards for Model Reporting", https://arxiv.org/abs/1810.03993.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from metrics.report import TWO_FOLD, abstention_text
from modeling.hub.card_facts import FIGURES, CardFacts, Result, read_card_facts
from modeling.parts.packages import INSTALL, INSTALL_LANGUAGE_MODEL, PARTS

TEMPLATE = Path(__file__).with_name("card.md")
CURVES = {"loss.png": "Loss by epoch", "metrics.png": "Validation figures by epoch"}


@dataclass(frozen=True)
class FamilyText:
    """What the card says about a family.

    Attributes:
        name: of the family.
        description: follows "A" or "A LoRA adapter for a".
        limit: which answers the model can give.
        published: figures of the published recipe, whose settings are the defaults of the family's arguments.
        installs: the commands that install the parts of the family's starter.
    """

    name: str
    description: str
    limit: str
    published: dict[str, str]
    installs: tuple[str, ...]


FAMILY_TEXTS = {
    "vilt": FamilyText(
        name="ViLT",
        description="ViLT (arXiv:2102.03334) that answers a question about a medical image with one of its known "
        "answers",
        limit="It chooses among the answers in its training rows, and can't give any other.",
        published={"f1": "71.66"},
        installs=(INSTALL,),
    ),
    "blip2": FamilyText(
        name="BLIP-2",
        description="BLIP-2 (arXiv:2301.12597) that writes the answer to a question about a medical image",
        limit="It writes its answers, and may write one that is in no training row.",
        published={"exact_match": "75.77", "f1": "79.57"},
        installs=(INSTALL, INSTALL_LANGUAGE_MODEL),
    ),
    "vlm": FamilyText(
        name="VLM",
        description="model of images and text that writes the answer to a question about a medical image",
        limit="It writes its answers, and may write one that is in no training row.",
        published={},
        installs=(INSTALL, INSTALL_LANGUAGE_MODEL),
    ),
}


def model_card(folder: str | Path, repo_id: str | None = None, base_license: str | None = None) -> ModelCard:
    """The card of the model that a run left in a folder.

    Args:
        folder: the run's `--output_dir`.
        repo_id: where the model is published; by default the card speaks of a folder.
        base_license: licence of the base model where that is on the Hub, as the Hub names it.

    Raises:
        UserError: the folder holds no finished run.
    """
    facts = read_card_facts(folder)
    return ModelCard.from_template(
        card_metadata(facts, repo_id, base_license),
        template_path=str(TEMPLATE),
        md=_escape,
        **_template_values(facts, repo_id),
    )


def card_metadata(facts: CardFacts, repo_id: str | None = None, base_license: str | None = None) -> ModelCardData:
    """The YAML at the head of the card; arguments as for `model_card`."""
    tags = ["medical", "radiology", "medical-vqa", FAMILY_TEXTS[facts.model_type].name.lower()]
    if facts.is_adapter:
        tags.append("lora")
    language = facts.data["language"]
    return ModelCardData(
        license=_license(facts, base_license),
        language=["en", "zh"] if language == "all" else language,
        library_name="peft" if facts.is_adapter else "transformers",
        pipeline_tag="visual-question-answering",
        base_model=facts.base_id,
        datasets=facts.data["id"],
        metrics=["exact_match", "f1", "accuracy"],
        tags=tags,
        model_name=(repo_id or "medical-vqa").rpartition("/")[2],
        eval_results=[_eval_result(result, facts.data_of(result.split)) for result in facts.results] or None,
    )


def _license(facts: CardFacts, base_license: str | None) -> str | None:
    if facts.base is None:
        return "other"
    return base_license if facts.base_id else "apache-2.0"


def _eval_result(result: Result, data: dict[str, Any]) -> EvalResult:
    figure = result.figure
    return EvalResult(
        task_type="visual-question-answering",
        task_name="Visual Question Answering",
        dataset_type=data["id"] or re.sub(r"[^\w.-]+", "-", data["name"]),
        dataset_name=data["name"],
        dataset_split=result.split,
        dataset_args={"language": data["language"], "num_rows": result.questions},
        metric_type=figure.metric,
        metric_name=f"{figure.title} ({result.split}, {result.questions:,} questions, percent)",
        metric_value=result.value,
        metric_args={"definition": figure.definition},
    )


def _template_values(facts: CardFacts, repo_id: str | None) -> dict[str, Any]:
    """The variables of the template."""
    family = FAMILY_TEXTS[facts.model_type]
    results = facts.results
    shown = {result.figure for result in results}
    is_starter = facts.base == "starter"
    return {
        "title": f"{family.name} for questions about medical images, trained on {_escape(facts.data['name'])}",
        "what": _describe(facts),
        "repo_id": repo_id or "path/to/this/folder",
        "installs": family.installs if is_starter else (),
        "record": facts.record,
        "recipe": {name: _setting(value) for name, value in facts.recipe.items() if name != "model_type"},
        "results": results,
        "silent_at_times": any(report["silence"].get("chosen") for report in facts.reports.values()),
        "trust": [_trust(split, report) for split, report in facts.reports.items()],
        "figures": [figure for figure in FIGURES if figure in shown],
        "published": family.published if facts.data["name"] == "SLAKE" else None,
        "base": "The base model was a folder of its author, so it can't be named here." if facts.base is None else "",
        "time": _duration(facts.record["seconds"]),
        "curves": {file: alt for file, alt in CURVES.items() if file in facts.pictures},
        "data": facts.data,
        "eval_data": facts.record.get("eval_dataset"),
        "limit": family.limit,
        "parts": PARTS[facts.model_type] if is_starter else (),
    }


def _describe(facts: CardFacts) -> str:
    """What the model is and what it started from, in a sentence."""
    article = "A LoRA adapter for a" if facts.is_adapter else "A"
    text = f"{article} {FAMILY_TEXTS[facts.model_type].description}"
    if facts.base is None:
        return f"{text}."
    if facts.base.startswith("scratch:"):
        return f"{text}, trained from scratch."
    if facts.base == "starter":
        return f"{text}, started from pretrained parts in ordinary packages from PyPI."
    commit = facts.record.get("base_revision")  # records of older versions do not tell
    return f"{text}, started from {facts.base}{f' at commit {commit}' if commit else ''}."


def _trust(split: str, report: dict[str, Any]) -> str:
    """What the report says about confidence and about where the model looked, in sentences."""
    coverages = [
        f"{coverage:.1%} of the questions with at most {float(risk):.0%} wrong"
        for risk, coverage in report["silence"]["coverage_at_risk"].items()
    ]
    text = (
        f"On {split} the confidence is {_calibration_error(report['calibration'])}. If the model answered only what "
        f"it is surest of, it could answer {' and '.join(coverages)}."
    )
    if report["silence"].get("chosen"):  # reports of older versions do not tell
        text += f" {abstention_text(report['silence']['chosen'])}"
    if report["grounding"]:
        found = report["grounding"][0]
        text += (
            f" {found['questions']:,} questions are about something that has a box in the data: the hottest place of "
            f"the heat map touches the box in {found['hit'][0]:.1f} % of them (a random place: "
            f"{found['chance']:.1f} %, the middle of the image: {found['center']:.1f} %)."
        )
    if report.get("evidence"):  # reports of older versions have none
        found = report["evidence"][0]
        text += (
            f" The likeliest place of its evidence touches the box in {found['hit'][0]:.1f} % of these questions, and "
            f"{found['mass'][0]:.1f} % of the evidence lies inside (of even evidence: {found['area']:.1f} %)."
        )
    return text


def _calibration_error(calibration: dict[str, Any]) -> str:
    text = f"{calibration['expected_calibration_error']:.1%} from the accuracy, as the mean over 15 bins (ECE"
    if "judged_on" not in calibration:
        return f"{text})"  # reports of older versions have no more
    if calibration["expected_calibration_error_interval"] is not None:
        low, high = calibration["expected_calibration_error_interval"]
        text += f", 95 % interval {low:.1%} to {high:.1%}"
    perfect = calibration["expected_calibration_error_if_perfect"]
    text += f"; a perfectly calibrated model of as many answers has {perfect:.1%}"
    if calibration["judged_on"] == TWO_FOLD:
        text += "; by two-fold fits over images, so that no answer is judged by a fit to its own image"
    return f"{text})"


def _setting(value: Any) -> Any:
    """A value of the recipe as the table of settings shows it."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _duration(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _escape(text: str) -> str:
    """Text of a user as plain Markdown in one line: no markup, table cell, link or HTML of its own."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*{}\[\]<>#|~]|(?<!\w)_|_(?!\w))", r"\\\1", line)
