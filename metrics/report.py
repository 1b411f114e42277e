"""The report of a run: a table in the log, and the folder `report/` with figures, text and pictures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metrics.breakdown import breakdown
from metrics.calibration import calibration_error, log_loss, reliability, risk_coverage
from metrics.cases import Case, write_error_page
from metrics.grounding import grounding_figures
from metrics.intervals import interval_text
from metrics.plots import TITLES, plot_pointing, plot_reliability, plot_risk
from metrics.vqa import ScoredAnswers
from processing.storage import write_atomically

RISKS = (0.05, 0.1)  # shares of wrong answers for which the report gives the coverage
SHOWN_SCORES = ("exact_match", "f1", "accuracy", "llava_med_recall", "bleu_1")
CURVE_POINTS = 200  # the most points of risk against coverage that are written
REPORT_HEAD = """# Report

All figures are percent of questions. The 95 % interval stands in brackets; it comes from 2,000 bootstrap samples of
images, each drawn with all its questions. Fewer than ten images have no interval.

- EM (Exact Match): the answer equals the gold answer after the normalisation of SQuAD v2 (lower case, no punctuation,
  without the words a, an and the).
- Accuracy: the answer equals the gold answer in lower case and with one space between words. Punctuation and signs
  count, so it tells HER2+ from HER2-, which EM does not.
- F1: the harmonic mean of precision and recall of words, averaged over the questions. Chinese answers are scored by
  characters, as in CMRC 2018.
- Recall and BLEU-1, of OPEN questions: the share of the gold words that were answered, as LLaVA-Med counts it, and
  BLEU of single words.
- Two baselines: the most frequent answer of the training rows, which reads neither question nor image, and the most
  frequent answer to the same question, which does not see the image.
- A right answer is an exact match whose signs are those of the gold answer, so HER2- is wrong where HER2+ is right.
- Confidence is calibrated if, of the answers with a confidence of 80 %, four in five are right. The expected
  calibration error is the mean distance from that over 15 bins.
- Risk is the share of wrong ones among the answers given, coverage the share of the questions that are answered.
"""
GROUNDING_HEAD = """Heat maps of {questions:,} questions that name something with a box in the data, themselves or in
their gold answer.

- Hit: the hottest cell of the map touches a box (Zhang et al. 2016, with a tolerance of a cell). By chance: the hit of
  a cell drawn at random. Middle: the hit of the cell in the middle of the image, which is hard to beat where images
  are centred.
- Mass: the share of the heat inside the boxes. Area: the share of the image inside them, which is the mass of even
  heat."""


def format_results(results: Mapping[str, Mapping[str, float]]) -> str:
    """A table with a line for each name: the number of questions and the figures in percent."""
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
    """The content of the report of a split.

    Args:
        answers, baselines: as for `metrics.breakdown.breakdown`.
        cases: those with `pointing` give the figures of grounding.
        thresholds: the best ones of SQuAD v2, as the `squad_v2` module names them, where there are rows without an
            answer.

    Returns:
        `wrong`: the number of wrong answers. `grounding`: of `grounding_figures`, empty without cases with `pointing`.
        `figures`: of `breakdown`. `calibration`: mean confidence and ECE (0 to 1), log loss (nats) and the bins of the
        reliability diagram. `silence`: the area under risk against coverage, the coverage at each of `RISKS`, the
        thresholds, and the curve as pairs of coverage and risk.
    """
    pointing = [case._asdict() | {"image_id": case.row["image_id"]} for case in cases if case.pointing]
    return {
        "wrong": int((answers.correct == 0).sum()),
        "grounding": grounding_figures(pointing) if pointing else [],
        "figures": breakdown(answers, baselines),
        "calibration": _calibration(answers),
        "silence": _abstention(answers, thresholds or {}),
    }


def _calibration(answers: ScoredAnswers) -> dict[str, Any]:
    confidences, correct = answers.confidences, answers.correct
    return {
        "mean_confidence": round(float(confidences.mean()), 4),
        "expected_calibration_error": round(calibration_error(confidences, correct), 4),
        "log_loss": round(log_loss(confidences, correct), 4),
        "bins": [part._asdict() for part in reliability(confidences, correct)],
    }


def _abstention(answers: ScoredAnswers, thresholds: Mapping[str, float]) -> dict[str, Any]:
    curve = risk_coverage(answers.confidences, answers.correct)
    count = len(curve.coverage)
    points = np.unique(np.linspace(0, count - 1, min(count, CURVE_POINTS)).astype(int))
    return {
        "area": round(curve.area, 4),
        "coverage_at_risk": {str(risk): round(curve.coverage_at(risk)[0], 4) for risk in RISKS},
        "best_thresholds": dict(thresholds),
        "curve": [[round(float(curve.coverage[i]), 4), round(float(curve.risk[i]), 4)] for i in points],
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
        if report["grounding"]:
            plot_pointing([case for case in cases[split] if case.pointing], folder / f"pointing_{split}.jpg")
            parts.append(_describe_grounding(split, report["grounding"]))
    write_atomically(folder / "report.json", json.dumps(reports, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "report.md", "\n".join(parts))


def _describe(split: str, report: Mapping[str, Any]) -> str:
    """The part of `report.md` about a split."""
    calibration, silence = report["calibration"], report["silence"]
    coverages = ", ".join(
        f"{float(coverage):.1%} of the questions at a risk of {float(risk):.0%}"
        for risk, coverage in silence["coverage_at_risk"].items()
    )
    text = (
        f"Mean confidence {calibration['mean_confidence']:.1%}, expected calibration error "
        f"{calibration['expected_calibration_error']:.1%}, log loss {calibration['log_loss']:.3f}. Area under "
        f"risk against coverage {silence['area']:.4f}; the surest answers reach {coverages}."
    )
    best = silence["best_thresholds"]
    if best:
        text += (
            f" With the best thresholds of SQuAD v2 for no answer, EM is {best['best_exact']:.2f} (at "
            f"{best['best_exact_thresh']:.3f}) and F1 {best['best_f1']:.2f} (at {best['best_f1_thresh']:.3f})."
        )
    pictures = f"![Accuracy against confidence](reliability_{split}.png) ![Risk against coverage](risk_{split}.png)"
    return f"## {split.capitalize()}\n\n{_table_of_kinds(report['figures'])}\n\n{text}\n\n{pictures}\n"


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


def _describe_grounding(split: str, figures: Sequence[Mapping[str, Any]]) -> str:
    """The part of `report.md` about the heat maps of a split."""
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
    about = GROUNDING_HEAD.format(**figures[0])
    pictures = f"`pointing_{split}.jpg` shows the best and the worst of the maps.\n"
    return "\n\n".join(["### Where it looked", about, markdown_table(head, lines), pictures])


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown. Text in its cells can't break it."""
    rows = [head, ["---"] * len(head), *([_escape(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
