"""The command line: scores a file of predictions under every protocol of docs/protocols.md.

python -m metrics.protocols out/predictions_test.jsonl
python -m metrics.protocols answers.jsonl --dataset "$SLAKE_DIR" --split validation --json figures.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metrics.data_options import add_data_options, data_options
from metrics.intervals import LEVEL, MIN_IMAGES
from metrics.protocols.figures import NO_NEIGHBOUR, Answered, Figure, has_images, make_figures
from metrics.protocols.formats import Predictions, read_predictions
from metrics.protocols.joining import Joined, first_ids, join
from processing.command_line import CommandParser
from processing.errors import UserError, run_command
from processing.storage import write_atomically

PROG = "python -m metrics.protocols"
EXAMPLES = """examples:
  {prog} out/predictions_test.jsonl
  {prog} answers.csv --dataset path/to/SLAKE --split test --json figures.json
      takes the right answers from the data set, and also writes the figures to a file
"""
YES_NO = ("yes", "no")


def main(argv: list[str], prog: str = PROG) -> None:
    """The command line.

    Raises:
        UserError: the file can't be read or joined with the data set, or it has no gold answers.
    """
    options = make_parser(prog).parse(argv)
    predictions = read_predictions(options.predictions)
    joined = join(predictions, _load(options), options.split) if options.dataset else None
    rows = joined.rows if joined else predictions.rows
    if not all(row.answers for row in rows):
        raise UserError(f"{options.predictions}: it has no gold answers; name the data set by --dataset.")
    if options.closed_is_yes_no:
        rows = [row._replace(answer_type=_type_by_answer(row)) for row in rows]
    vocabulary = joined.vocabulary if joined else None
    figures = make_figures(rows, vocabulary)
    facts = {
        "file": options.predictions.name,
        "format": predictions.format.name,
        "questions": len(rows),
        "images": len({row.image_id for row in rows}) if has_images(rows) else None,
        "interval_over": "images" if has_images(rows) else "questions",
        "open_and_closed_by": "whether the gold answer is yes or no" if options.closed_is_yes_no else "answer type",
        "notes": [*_notes(predictions, rows, joined, options.split), *_note_of_left_out(figures)],
    }
    _print(facts, figures)
    if options.json:
        report = facts | {"figures": [figure._asdict() for figure in figures]}
        write_atomically(options.json, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def make_parser(prog: str = PROG) -> CommandParser:
    """The parser of the command line; `prog` is what its help calls the program."""
    parser = CommandParser(
        prog,
        description="Scores a file of predictions as different published papers do.",
        epilog=EXAMPLES.format(prog=prog),
    )
    parser.add_argument("predictions", type=Path, help="JSON, JSON Lines or CSV file with a model's answers")
    parser.add_argument("--dataset", metavar="DATA", help="folder, table or Hub id with the right answers")
    parser.add_argument("--split", default="test", help="split to use: train, validation or test")
    add_data_options(parser)
    parser.add_argument("--closed_is_yes_no", action="store_true", help="closed means that the answer is yes or no")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return parser


def _load(options: argparse.Namespace) -> Any:
    from processing.data import load_vqa_dataset  # brings torch

    return load_vqa_dataset(
        options.dataset,
        leaks="keep",
        allow_no_answer=True,
        **data_options(options),
    )


def _type_by_answer(row: Answered) -> str:
    return "CLOSED" if any(answer.strip().lower() in YES_NO for answer in row.answers) else "OPEN"


def _notes(predictions: Predictions, rows: Sequence[Answered], joined: Joined | None, split: str) -> list[str]:
    """What a reader of the figures has to know, a sentence each."""
    notes = []
    if joined and joined.strangers:
        notes.append(
            f"Predictions for no question of the {split} split: {len(joined.strangers):,} of "
            f"{len(predictions.rows):,} ({first_ids(joined.strangers)}); no figure counts them."
        )
    if joined and joined.missing:
        notes.append(
            f"Questions of the {split} split without a prediction: {len(joined.missing):,} "
            f"({first_ids(joined.missing)}); no figure counts them."
        )
    if predictions.empty:
        notes.append(f"Missing or empty predictions: {predictions.empty:,}; they count as empty answers.")
    if not has_images(rows):
        notes.append("The images are not known, so intervals are over questions and may be too narrow.")
    if len({row.image_id if has_images(rows) else row.id for row in rows}) < MIN_IMAGES:
        notes.append(f"There are no intervals for fewer than {MIN_IMAGES} images.")
    untyped = [row.id for row in rows if row.answer_type is None]
    if untyped:
        mend = "--closed_is_yes_no" if joined or not predictions.format.has_ids else "--dataset or --closed_is_yes_no"
        notes.append(
            f"Questions without an answer type: {len(untyped):,} ({first_ids(untyped)}); figures of open and closed "
            f"questions leave them out; {mend} may tell."
        )
    if joined is None or joined.vocabulary is None:
        notes.append("The training answers are not known, so mevf_accuracy counts answers out of the vocabulary too.")
    return notes


def _note_of_left_out(figures: Sequence[Figure]) -> list[str]:
    """Says how many wrong answers LLaVA-Med's script does not count."""
    counted = {figure.protocol: figure.n for figure in figures if NO_NEIGHBOUR not in figure.questions}
    left_out = counted.get("llava_med_closed_all", 0) - counted.get("llava_med_closed", 0)
    if not left_out:
        return []
    return [
        f"llava_med_closed leaves out {left_out:,} wrong answers that hold yes or no; llava_med_closed_all has them."
    ]


def _print(facts: dict[str, Any], figures: Sequence[Figure]) -> None:
    images = "" if facts["images"] is None else f" on {facts['images']:,} images"
    print(f"{facts['file']}: {facts['format']}, {facts['questions']:,} questions{images}")
    if any(figure.questions != "all" for figure in figures):
        print(f"open and closed by {facts['open_and_closed_by']}")
    header = ("protocol", "questions", "n", "percent", f"{LEVEL:.0%} interval over {facts['interval_over']}")
    table = [header] + [_cells(figure) for figure in figures]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        cells = [row[i].rjust(widths[i]) if i in (2, 3) else row[i].ljust(widths[i]) for i in range(len(header))]
        print("  ".join(cells).rstrip())
    for note in facts["notes"]:
        print(note)


def _cells(figure: Figure) -> tuple[str, ...]:
    percent = "-" if figure.percent is None else f"{figure.percent:.2f}"
    interval = "-" if figure.low is None else f"{figure.low:.2f} to {figure.high:.2f}"
    return figure.protocol, figure.questions, f"{figure.n:,}", percent, interval


if __name__ == "__main__":
    run_command(main)
