"""Figures as people read them: a table in the log and the folder `report/` of a run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metrics.calibration import calibration_error, log_loss, reliability, risk_coverage
from metrics.cases import Case, write_error_page
from metrics.grounding import grounding_figures
from metrics.intervals import interval_text
from metrics.plots import TITLES, plot_pointing, plot_reliability, plot_risk
from metrics.vqa import ScoredAnswers, breakdown
from processing.storage import write_atomically

RISKS = (0.05, 0.1)
CURVE_POINTS = 200  # of risk against coverage that are written down
REPORT_HEAD = """# Report

All figures are percent of questions, with the 95 % interval of 2,000 bootstrap samples whose images are drawn with all
their questions; of fewer than ten images there is none. EM: the answer equals the gold answer after SQuAD v2's
normalisation (lower case, without punctuation and the words a, an, the). F1: the mean harmonic mean of precision and
recall of words. Chinese answers are scored by characters, as CMRC 2018 does. Recall, of OPEN questions: LLaVA-Med's
share of gold words that were answered; BLEU-1 likewise. The most frequent answer of the training rows knows neither
question nor image; the one to the very same question does not know the image. Confidence is right where of the answers
with a confidence of 80 % four in five are exact matches; the expected calibration error is the mean distance over 15
bins. Risk is the share of wrong ones among the answers given.
"""
GROUNDING_HEAD = """Heat maps of {questions:,} questions that, or whose gold answer, name what the data has a box of.
Hit: the hottest cell of the map touches a box (Zhang et al. 2016, with a tolerance of a cell); by chance: a cell drawn
at random does; middle: the cell in the middle of the image does, which is hard to beat where images are centred. Mass:
the share of the heat inside the boxes; area: that of the image, which even heat would have there."""


def format_results(results: Mapping[str, Mapping[str, float]]) -> str:
    """A table with one line for each name: its number of questions and its figures in percent."""
    width = max(len(name) for name in results)
    lines = [f"{'':{width}}  {'questions':>9}" + "".join(f"  {title:>9}" for title in TITLES.values())]
    for name, figures in results.items():
        cells = (f"{figures[key]:9.2f}" if key in figures else f"{'-':>9}" for key in TITLES)
        lines.append(f"{name:{width}}  {figures['total']:9,}" + "".join(f"  {cell}" for cell in cells))
    return "\n".join(lines)


def make_report(
    answers: ScoredAnswers,
    baselines: Mapping[str, Sequence[str]],
    cases: Sequence[Case] = (),
    thresholds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What is to be told of the answers to a split's questions.

    Args:
        answers, baselines: as for `metrics.vqa.breakdown`.
        cases: those with a heat map that lies beside boxes give the figures of where the model looked.
        thresholds: SQuAD v2's best ones, as the `squad_v2` module names them, where there are rows without an answer.

    Returns:
        `figures` of `breakdown`; `calibration`: ECE (0 to 1), log loss (nats) and the bins of the reliability diagram;
        `silence`: the area under risk against coverage, the curve itself, the coverage at each of `RISKS`, and the
        thresholds; `grounding` of `grounding_figures`, empty without such cases; `wrong`: how many answers are.
    """
    sure, correct = answers.confidences, answers.correct
    curve = risk_coverage(sure, correct)
    points = np.unique(np.linspace(0, len(sure) - 1, min(len(sure), CURVE_POINTS)).astype(int))
    pointing = [case._asdict() | {"image_id": case.row["image_id"]} for case in cases if case.pointing]
    return {
        "wrong": int((correct == 0).sum()),
        "grounding": grounding_figures(pointing) if pointing else [],
        "figures": breakdown(answers, baselines),
        "calibration": {
            "mean_confidence": round(float(sure.mean()), 4),
            "expected_calibration_error": round(calibration_error(sure, correct), 4),
            "log_loss": round(log_loss(sure, correct), 4),
            "bins": [part._asdict() for part in reliability(sure, correct)],
        },
        "silence": {
            "area": round(curve.area, 4),
            "coverage_at_risk": {str(risk): round(curve.coverage_at(risk)[0], 4) for risk in RISKS},
            "best_thresholds": dict(thresholds or {}),
            "curve": [[round(float(part[i]), 4) for part in (curve.coverage, curve.risk)] for i in points],
        },
    }


def write_report(
    reports: Mapping[str, dict[str, Any]], folder: str | Path, cases: Mapping[str, Sequence[Case]] | None = None
) -> None:
    """Writes `report.json`, `report.md` with its pictures, and `errors.html`.

    Args:
        reports: by split, of `make_report`.
        folder: of the report; it is made where it is missing.
        cases: by split, of `metrics.cases.choose_cases`; without them there is no `errors.html`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [REPORT_HEAD]
    if cases:
        write_error_page(cases, sum(report["wrong"] for report in reports.values()), folder / "errors.html")
        parts.append("`errors.html` shows the wrong answers with images and heat maps: open it in a browser.\n")
    for split, report in reports.items():
        plot_reliability(report["calibration"]["bins"], folder / f"reliability_{split}.png")
        plot_risk(report["silence"]["curve"], folder / f"risk_{split}.png")
        parts.append(_describe(split, report))
        if report["grounding"]:
            pointing = [case for case in (cases or {})[split] if case.pointing]
            plot_pointing(pointing, folder / f"pointing_{split}.jpg")
            parts.append(_describe_grounding(split, report["grounding"]))
    write_atomically(folder / "report.json", json.dumps(reports, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "report.md", "\n".join(parts))


def _describe(split: str, report: Mapping[str, Any]) -> str:
    figures, calibration, silence = (report[name] for name in ("figures", "calibration", "silence"))
    names = list(figures[0]["baselines"])
    head = [
        "kind of question",
        "questions",
        "images",
        "EM",
        "F1",
        "recall",
        "BLEU-1",
        *(f"EM, {name}" for name in names),
    ]
    lines = []
    for entry in figures:
        kind = "all" if entry["group"] == "all" else f"{entry['group'].replace('_', ' ')}: {entry['value']}"
        cells = [kind, f"{entry['questions']:,}", f"{entry['images']:,}"]
        cells += [interval_text(entry.get(name)) for name in ("exact_match", "f1", "llava_med_recall", "bleu_1")]
        lines.append(cells + [f"{entry['baselines'][name]:.2f}" for name in names])
    covered = ", ".join(
        f"{float(coverage):.1%} of the questions at a risk of {float(risk):.0%}"
        for risk, coverage in silence["coverage_at_risk"].items()
    )
    best = silence["best_thresholds"]
    without_answer = ""
    if best:
        without_answer = (
            f" With the best thresholds of SQuAD v2 for no answer, EM is {best['best_exact']:.2f} (at "
            f"{best['best_exact_thresh']:.3f}) and F1 {best['best_f1']:.2f} (at {best['best_f1_thresh']:.3f})."
        )
    return "\n".join(
        [
            f"## {split.capitalize()}",
            "",
            markdown_table(head, lines),
            "",
            f"Mean confidence {calibration['mean_confidence']:.1%}, expected calibration error "
            f"{calibration['expected_calibration_error']:.1%}, log loss {calibration['log_loss']:.3f}. Area under "
            f"risk against coverage {silence['area']:.4f}; the surest answers reach {covered}."
            f"{without_answer}",
            "",
            f"![Accuracy against confidence](reliability_{split}.png) ![Risk against coverage](risk_{split}.png)",
            "",
        ]
    )


def _describe_grounding(split: str, figures: Sequence[Mapping[str, Any]]) -> str:
    head = ["named", "questions", "images", "hit", "by chance", "middle", "mass", "area"]
    lines = [
        [
            *(entry["group"], f"{entry['questions']:,}", f"{entry['images']:,}"),
            *(interval_text(entry["hit"]), f"{entry['chance']:.2f}", f"{entry['center']:.2f}"),
            *(interval_text(entry["mass"]), f"{entry['area']:.2f}"),
        ]
        for entry in figures
    ]
    parts = ["### Where it looked", GROUNDING_HEAD.format(**figures[0]), markdown_table(head, lines)]
    return "\n\n".join([*parts, f"`pointing_{split}.jpg` shows the best and the worst of the maps.\n"])


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; no text in it can break it."""
    rows = [head, ["---"] * len(head), *([_escape(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
