"""The report of a run: a table in the log, and the folder `report/` with figures, text and pictures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metrics.abstention import abstention_figures, risk_coverage
from metrics.breakdown import OVERLAPS, breakdown
from metrics.calibration import (
    calibration_error,
    calibration_error_interval,
    log_loss,
    perfect_calibration_error,
    reliability,
)
from metrics.cases import Case, write_error_page
from metrics.choices import choice_figures
from metrics.grounding import Pointing, grounding_figures
from metrics.intervals import MIN_IMAGES, interval_text
from metrics.plots import CHOICE_TITLES, TITLES, plot_pointing, plot_reliability, plot_risk
from metrics.vqa import ScoredAnswers
from processing.storage import write_atomically

RISKS = (0.05, 0.1)  # shares of wrong answers for which the report gives the coverage
SHOWN_SCORES = ("exact_match", "f1", "accuracy", "llava_med_recall", "bleu_1")
TWO_FOLD, AS_SAVED = "two-fold over images", "as saved"  # confidences that calibration is judged on
NAME_WIDTH = 26  # characters of a name in the printed table
CURVE_POINTS = 200  # the most points of risk against coverage that are written
REPORT_HEAD = """# Report

All figures are percentages of questions. The 95 % interval is in brackets; it comes from 2,000 bootstrap samples of
images, each drawn with all its questions. If all values are the same, it is the exact binomial bound by the number of
images (Clopper and Pearson). For fewer than ten images there is no interval.

- EM (Exact Match): the answer equals the gold answer after the normalisation of SQuAD v2 (lower case, no punctuation,
  without the words a, an and the).
- Accuracy: the answer equals the gold answer in lower case and with one space between words. Punctuation and signs
  count, so HER2+ and HER2- are different answers; for EM they are the same.
- F1: the harmonic mean of precision and recall of words, averaged over the questions. For Chinese answers, EM and F1
  are those of CMRC 2018, by characters.
- Recall and BLEU-1, for OPEN questions: the share of the gold answer's words that were given, as LLaVA-Med counts it,
  and BLEU for single words.
- If a question has several gold answers, each score is the best over them.
- Two baselines: the most frequent answer in the training rows, which reads neither question nor image, and the most
  frequent answer to the same question, which does not see the image.
- Near neighbour in training: some training image is the next slice of the same scan, or the same picture cropped or
  compressed in another way (thumbnails of 32 x 32 grey values that correlate above 0.95), or an image of the same
  group, such as a patient. Such questions measure memory in part, so report the figures without near neighbours.
- An answer is right if it is an exact match and has the signs of the gold answer, so HER2- is wrong if HER2+ is right.
- Confidence is calibrated if, of the answers with a confidence of 80 %, four in five are right. The expected
  calibration error (ECE) is the mean distance from that over 15 bins. By chance alone it is larger than 0, so the mean
  ECE of a perfectly calibrated model with as many answers of these confidences is given beside it.
- Risk is the share of wrong answers among those given, coverage the share of the questions that are answered.
"""
CHOICES_HEAD = """These questions have options, and the model chooses one of them.

- Choice accuracy: the share of the questions for which the right option is chosen. By chance: the same for an option
  drawn at random.
- Right: the position of the right option; A is the first one. Chosen: how often an option in that position is chosen,
  over all these questions."""
GROUNDING_HEAD = """{maps} {questions:,} questions. The question or its gold answer names something that has a box in
the data.

- Hit: the hottest cell of the map touches a box (Zhang et al. 2016, with a tolerance of one cell). By chance: the same
  for a random cell. Middle: the same for the cell in the middle of the image, which is hard to beat if images are
  centred.
- Mass: the share of the heat inside the boxes. Area: the share of the image inside them, which is what mass would be
  for a uniform map."""
HEAT_MAPS = "What moved the answer: gradient-weighted attention. Heat maps of"
EVIDENCE_MAPS = "Where the model finds what it answers: its evidence head, asked with its own answer. Maps of"


def format_results(results: Mapping[str, Mapping[str, float]]) -> str:
    """A table of at most 80 columns with the number of questions and the figures in percent.

    Args:
        results: figures by name. A part of a split is named as in "test, new images", and stands indented under it.
    """
    has_choices = any(CHOICE_TITLES.keys() & figures.keys() for figures in results.values())
    titles = TITLES | CHOICE_TITLES if has_choices else TITLES
    lines = [f"{'':{NAME_WIDTH}} {'questions':>9}" + "".join(f"  {title:>6}" for title in titles.values())]
    for name, figures in results.items():
        whole, _, part = name.partition(", ")
        shown = f"  {part}" if part else whole
        if len(shown) > NAME_WIDTH:
            lines.append(shown)
            shown = ""
        cells = (f"{figures[key]:.2f}" if key in figures else "-" for key in titles)
        columns = zip(cells, titles.values(), strict=True)
        cells = (f"  {cell:>{max(len(title), 6)}}" for cell, title in columns)
        lines.append(f"{shown:{NAME_WIDTH}} {figures['total']:9,}" + "".join(cells))
    return "\n".join(lines)


def make_report(
    answers: ScoredAnswers,
    baselines: Mapping[str, Sequence[str]],
    cases: Sequence[Case] = (),
    thresholds: Mapping[str, float] | None = None,
    held_out: np.ndarray | None = None,
    abstention: tuple[float, float | None] | None = None,
    out_of_vocabulary: int | None = None,
) -> dict[str, Any]:
    """The content of the report of a split.

    Args:
        answers, baselines: as for `metrics.breakdown.breakdown`.
        cases: those with `pointing` give the figures of grounding, those with `evidence_pointing` of evidence.
        thresholds: the best ones of SQuAD v2, as the `squad_v2` module names them, where there are rows without an
            answer.
        held_out: confidences by a calibration that other rows fitted, ``(N,)``, where the model's own was fitted to
            these rows.
        abstention: the confidence below which the model is silent, and the target risk that it was chosen for, 0 to 1,
            None where that is not known. Without it the model answers every question.
        out_of_vocabulary: as for `metrics.choices.choice_figures`.

    Returns:
        `wrong`: the number of wrong answers. `choices`: of `choice_figures`, empty without rows with choices.
        `grounding` and `evidence`: of `grounding_figures`, empty without such cases.
        `figures`: of `breakdown`. `calibration`: `judged_on`, the confidences that it is of; mean confidence, ECE with
        its interval and the ECE of a perfectly calibrated model (0 to 1), log loss (nats) and the bins of the
        reliability diagram. `silence`: the area under risk against coverage, the coverage at each of `RISKS`, the
        thresholds, the curve as pairs of coverage and risk, and `chosen`, of `abstention_figures`.
    """
    return {
        "wrong": int((answers.correct == 0).sum()),
        "grounding": _grounding([(case, case.pointing) for case in cases]),
        "evidence": _grounding([(case, case.evidence_pointing) for case in cases]),
        "choices": choice_figures(answers.rows, answers.predictions, out_of_vocabulary),
        "figures": breakdown(answers, baselines),
        "calibration": _calibration(answers, held_out),
        "silence": _abstention(answers, thresholds or {}, abstention),
    }


def _grounding(cases: Sequence[tuple[Case, Pointing | None]]) -> list[dict[str, Any]]:
    rows = [
        {"image_id": case.row["image_id"], "correct": case.correct, "boxes": case.boxes, "pointing": pointing}
        for case, pointing in cases
        if pointing
    ]
    return grounding_figures(rows) if rows else []


def _calibration(answers: ScoredAnswers, held_out: np.ndarray | None) -> dict[str, Any]:
    confidences, correct = answers.confidences if held_out is None else held_out, answers.correct
    images = [row["image_id"] for row in answers.rows]
    interval = None
    if len(set(images)) >= MIN_IMAGES:
        interval = [round(limit, 4) for limit in calibration_error_interval(confidences, correct, images)]
    return {
        "judged_on": AS_SAVED if held_out is None else TWO_FOLD,
        "mean_confidence": round(float(confidences.mean()), 4),
        "expected_calibration_error": round(calibration_error(confidences, correct), 4),
        "expected_calibration_error_interval": interval,
        "expected_calibration_error_if_perfect": round(perfect_calibration_error(confidences), 4),
        "log_loss": round(log_loss(confidences, correct), 4),
        "bins": [part._asdict() for part in reliability(confidences, correct)],
    }


def _abstention(
    answers: ScoredAnswers, thresholds: Mapping[str, float], abstention: tuple[float, float | None] | None
) -> dict[str, Any]:
    curve = risk_coverage(answers.confidences, answers.correct)
    count = len(curve.coverage)
    points = np.unique(np.linspace(0, count - 1, min(count, CURVE_POINTS)).astype(int))
    images = [row["image_id"] for row in answers.rows]
    chosen = (
        None if abstention is None else abstention_figures(answers.confidences, answers.correct, images, *abstention)
    )
    return {
        "area": round(curve.area, 4),
        "coverage_at_risk": {str(risk): round(curve.coverage_at(risk)[0], 4) for risk in RISKS},
        "best_thresholds": dict(thresholds),
        "curve": [[round(float(curve.coverage[i]), 4), round(float(curve.risk[i]), 4)] for i in points],
        "chosen": chosen,
    }


def write_report(
    reports: Mapping[str, dict[str, Any]], folder: str | Path, cases: Mapping[str, Sequence[Case]] | None = None
) -> None:
    """Writes `report.json`, `report.md` with its pictures, and `errors.html`.

    Args:
        reports: by split, of `make_report`.
        folder: of the report. It is made if it is missing.
        cases: by split, of `metrics.cases.choose_cases`. Without them there is no `errors.html`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cases = cases or {}
    parts = [REPORT_HEAD]
    if cases:
        write_error_page(cases, sum(report["wrong"] for report in reports.values()), folder / "errors.html")
        parts.append("`errors.html` shows the wrong answers with images and heat maps: open it in a browser.\n")
    for split, report in reports.items():
        plot_reliability(report["calibration"]["bins"], folder / f"reliability_{split}.png")
        plot_risk(report["silence"]["curve"], folder / f"risk_{split}.png")
        parts.append(_describe(split, report))
        if report["choices"]:
            parts.append(_describe_choices(report["choices"]))
        if report["grounding"]:
            plot_pointing([case for case in cases[split] if case.pointing], folder / f"pointing_{split}.jpg")
            pictures = f"`pointing_{split}.jpg` shows the best and the worst of the maps.\n"
            parts.append(_describe_grounding("Where it looked", HEAT_MAPS, report["grounding"]) + pictures)
        if report["evidence"]:
            parts.append(_describe_grounding("Evidence", EVIDENCE_MAPS, report["evidence"]))
    write_atomically(folder / "report.json", json.dumps(reports, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "report.md", "\n".join(parts))


def _describe(split: str, report: Mapping[str, Any]) -> str:
    """The part of `report.md` about a split."""
    calibration, silence = report["calibration"], report["silence"]
    coverages = ", ".join(
        f"{float(coverage):.1%} of the questions at a risk of {float(risk):.0%}"
        for risk, coverage in silence["coverage_at_risk"].items()
    )
    if calibration["judged_on"] == TWO_FOLD:
        judged = "Calibration, for each half of the images by a fit to the other half (the saved fit uses both)"
    elif split == "validation":
        judged = "Calibration, as saved with the model, which may have been fitted to these rows"
    else:
        judged = "Calibration, as saved with the model"
    text = (
        f"{judged}: mean confidence {calibration['mean_confidence']:.1%}, {calibration_text(calibration)}, log loss "
        f"{calibration['log_loss']:.3f}.\n\nArea under risk against coverage {silence['area']:.4f}. If the model "
        f"answered only what it is surest of, it could answer {coverages}."
    )
    if silence["chosen"] is not None:
        text += f" {abstention_text(silence['chosen'])}"
    best = silence["best_thresholds"]
    if best:
        text += (
            f" With SQuAD v2's best thresholds for giving no answer, EM is {best['best_exact']:.2f} (at "
            f"{best['best_exact_thresh']:.3f}) and F1 {best['best_f1']:.2f} (at {best['best_f1_thresh']:.3f})."
        )
    shared = next((entry["images"] for entry in report["figures"] if entry["value"] == OVERLAPS["same"]), 0)
    if shared:
        text = f"Images shared with training: {shared:,}. So figures over all rows measure memory in part.\n\n{text}"
    pictures = f"![Accuracy against confidence](reliability_{split}.png) ![Risk against coverage](risk_{split}.png)"
    return f"## {split.capitalize()}\n\n{_table_of_kinds(report['figures'])}\n\n{text}\n\n{pictures}\n"


def calibration_text(calibration: Mapping[str, Any]) -> str:
    """The ECE of a report with its interval and that of a perfectly calibrated model, in words."""
    interval = calibration["expected_calibration_error_interval"]
    within = "" if interval is None else f" (95 % interval {interval[0]:.1%} to {interval[1]:.1%})"
    return (
        f"expected calibration error {calibration['expected_calibration_error']:.1%}{within}, where a perfectly "
        f"calibrated model of as many answers has {calibration['expected_calibration_error_if_perfect']:.1%}"
    )


def abstention_text(chosen: Mapping[str, Any]) -> str:
    """What the threshold of a model does to a split, in sentences; `chosen` is of `abstention_figures`."""
    target = "" if chosen["target_risk"] is None else f" for a risk of at most {chosen['target_risk']:.2%}"
    if chosen["threshold"] > 1:
        return (
            f"The model gives no answer at all: no threshold kept its promise{target} with 95 % certainty on the "
            "validation rows."
        )
    promise = "as it was saved"
    if target:
        promise = f"chosen on the validation rows{target}, with 95 % certainty for images of the same kind"
    silent = f"The model is silent below a confidence of {chosen['threshold']:.3f}, {promise}."
    if chosen["risk"] is None:
        return f"{silent} Here it answers no question."
    return (
        f"{silent} Here it answers {interval_text(chosen['coverage'])} % of the questions, and "
        f"{interval_text(chosen['risk'])} % of these answers are wrong."
    )


def _table_of_kinds(figures: Sequence[Mapping[str, Any]]) -> str:
    baselines = list(figures[0]["baselines"])
    head = ["kind of question", "questions", "images", "EM", "F1", "accuracy", "recall", "BLEU-1"]
    head += [f"EM, {name}" for name in baselines]
    lines = []
    for entry in figures:
        kind = "all" if entry["group"] == "all" else f"{entry['group'].replace('_', ' ')}: {entry['value']}"
        cells = [kind, f"{entry['questions']:,}", f"{entry['images']:,}"]
        cells += [interval_text(entry.get(name)) for name in SHOWN_SCORES]
        lines.append(cells + [f"{entry['baselines'][name]:.2f}" for name in baselines])
    return markdown_table(head, lines)


def _describe_choices(figures: Sequence[Mapping[str, Any]]) -> str:
    """The part of `report.md` about questions with options."""
    head = ["right", "questions", "images", "choice accuracy", "by chance", "chosen"]
    lines = [
        [
            entry["value"],
            f"{entry['questions']:,}",
            f"{entry['images']:,}",
            interval_text(entry["choice_accuracy"]),
            f"{entry['chance']:.2f}",
            f"{entry['chosen']:,}",
        ]
        for entry in figures
    ]
    parts = ["### Questions with options", CHOICES_HEAD, markdown_table(head, lines)]
    unknown = figures[0]["out_of_vocabulary"]
    if unknown is not None:
        total = figures[0]["questions"]
        parts.append(
            f"Right options that are not among the answers the model knows: {unknown:,} of {total:,}. It chooses the "
            "likeliest option that it knows; where it knows none, it gives its own answer."
        )
    return "\n\n".join(parts) + "\n"


def _describe_grounding(title: str, maps: str, figures: Sequence[Mapping[str, Any]]) -> str:
    """The part of `report.md` about maps of a split."""
    head = ["named", "questions", "images", "hit", "by chance", "middle", "mass", "area"]
    lines = [
        [
            entry["group"],
            f"{entry['questions']:,}",
            f"{entry['images']:,}",
            interval_text(entry["hit"]),
            f"{entry['chance']:.2f}",
            f"{entry['center']:.2f}",
            interval_text(entry["mass"]),
            f"{entry['area']:.2f}",
        ]
        for entry in figures
    ]
    about = GROUNDING_HEAD.format(maps=maps, **figures[0])
    return "\n\n".join([f"### {title}", about, markdown_table(head, lines), ""])


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown. Text in its cells can't break it."""
    rows = [head, ["---"] * len(head), *([_escape(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
