"""Does a model look at the image, and does it agree with itself? Its answers where image or question is changed.

    python -m modeling.probe MODEL --dataset path/to/SLAKE [--split validation] [--output probe] [--wordings FILE.csv]

`modeling.asking.probe` says what is changed, and what should follow from it.
"""

import functools
import json
from pathlib import Path
from typing import Any

from metrics.intervals import interval_text
from metrics.report import markdown_table
from modeling.asking.consistency import contradiction_figures, other_wordings, paraphrase_figures, wordings_of_file
from modeling.asking.predictor import Predictor
from modeling.asking.probe import ask, probe
from processing.command_line import CommandParser
from processing.data import load_vqa_dataset
from processing.errors import UserError, run_command
from processing.storage import write_atomically, write_jsonl

PROG = "python -m modeling.probe"
EXAMPLES = """example:
  {prog} out --dataset path/to/SLAKE --split test
      writes probe/probe.md, probe.json, and unchanged.jsonl (answers that stay the same though the image changes)
"""


def as_text(figures: dict[str, Any], title: str) -> str:
    """The content of `probe.json` in Markdown. The drop of each content type has its own column."""
    parts = [f"# {title}", "## Images changed", _changes_table(figures["changes"])]
    if figures["paraphrases"]:
        parts += ["## Questions in other words", _paraphrases_table(figures["paraphrases"])]
    parts += ["## Answers that exclude each other", _contradictions_table(figures["contradictions"])]
    return "\n\n".join(parts) + "\n"


def _changes_table(changes: dict[str, dict[str, Any]]) -> str:
    kinds = list(changes["as it is"]["drop_by_content_type"])
    lines = []
    for name, entry in changes.items():
        line = [name, f"{entry['exact_match']:.2f}", interval_text(entry["drop"]), f"{entry['unchanged']:.1f}"]
        lines.append(line + [f"{value:.1f}" for value in entry["drop_by_content_type"].values()])
    return markdown_table(["image", "EM", "drop", "answers unchanged", *kinds], lines)


def _paraphrases_table(paraphrases: list[dict[str, Any]]) -> str:
    lines = [
        [
            entry["part"],
            entry["group"],
            f"{entry['questions']:,}",
            f"{entry['wordings']:,}",
            interval_text(entry["consistent"]),
            f"{entry['exact_match']:.2f}",
            f"{entry['exact_match_as_asked']:.2f}",
        ]
        for entry in paraphrases
    ]
    head = ["asked in", "about", "questions", "other wordings", "same answer", "EM of these", "EM as asked"]
    return markdown_table(head, lines)


def _contradictions_table(contradictions: list[dict[str, Any]]) -> str:
    lines = [
        [
            " ".join(entry["questions"]),
            f"{entry['images']:,}",
            interval_text(entry["contradictory"]),
            f"{entry['none']:.2f}",
        ]
        for entry in contradictions
    ]
    return markdown_table(["asked of each image", "images", "contradictory", "no yes at all"], lines)


def make_parser(prog: str = PROG) -> CommandParser:
    """The parser of the command line; `prog` is what its help calls the program."""
    parser = CommandParser(
        prog,
        description="Finds out whether a model looks at the image. It asks the same questions about changed images,\n"
        "asks them in other words, and asks pairs of questions whose answers exclude each other.",
        epilog=EXAMPLES.format(prog=prog),
    )
    parser.add_argument("model", help="folder or Hub id (user/name) of a trained model")
    parser.add_argument(
        "--dataset", required=True, metavar="DATA", help="folder, table, Hub id, or phantom (generated)"
    )
    parser.add_argument("--dataset_config", metavar="NAME", help="configuration of a Hub data set")
    parser.add_argument("--dataset_revision", metavar="NAME", help="branch, tag or commit of a Hub data set")
    parser.add_argument("--split", default="validation", help="rows to ask about: train, validation or test")
    parser.add_argument(
        "--wordings",
        type=Path,
        metavar="FILE",
        help="CSV file of further wordings, with the columns wording and question_id (or question)",
    )
    parser.add_argument("--output", type=Path, default=Path("probe"), metavar="FOLDER", help="where the figures go")
    return parser


def main(argv: list[str], prog: str = PROG) -> None:
    """The command line.

    Raises:
        UserError: the model or the data can't be loaded, or the split has no rows.
    """
    options = make_parser(prog).parse(argv)
    dataset = load_vqa_dataset(
        options.dataset, dataset_config=options.dataset_config, dataset_revision=options.dataset_revision
    )
    if options.split not in dataset:
        raise UserError(f"--dataset {options.dataset}: it has no {options.split} split; choose {', '.join(dataset)}.")
    predictor, rows = Predictor.from_pretrained(options.model), list(dataset[options.split])
    images, questions, choices = ([row.get(name) for row in rows] for name in ("image", "question", "choices"))
    answers = ask(predictor, images, questions, "as it is", choices=choices)
    changes, unmoved = probe(predictor, rows, answers)
    paths = {row["image_id"]: row["image"] for row in rows}
    free = [i for i, row in enumerate(rows) if not row.get("choices")]  # other wordings are asked without options
    in_other_words = functools.partial(ask, predictor, title="in other words")
    free_rows = [rows[i] for i in free]
    wordings = other_wordings(free_rows)
    if options.wordings is not None:
        wordings += wordings_of_file(options.wordings, free_rows)
    paraphrases = paraphrase_figures(in_other_words, free_rows, [answers[i] for i in free], wordings)
    contradictions = contradiction_figures(functools.partial(ask, predictor, title="contradictions"), paths)
    figures = {"changes": changes, "paraphrases": paraphrases, "contradictions": contradictions}
    text = as_text(figures, f"{options.model}, {options.split}")
    write_atomically(options.output / "probe.json", json.dumps(figures, indent=1) + "\n")
    write_atomically(options.output / "probe.md", text)
    write_jsonl(options.output / "unchanged.jsonl", unmoved)
    print(text)


if __name__ == "__main__":
    run_command(main)
