"""Does a model notice questions that are far from its training? How many it marks that are, and that are not.

    python -m benchmarks.far_questions --dataset path/to/SLAKE [--model out --wordings FILE.csv]

`far_questions.csv` has questions by hand: `outside` are those that SLAKE's training has nothing like, `inside` ones
that it has, in other words. The rule (`modeling.parts.question_words`) was chosen by one half of them, and by the
wordings of training questions that training never uses; the other half is for the figure.

A model that was trained on the same rows answers the wordings of a table (as `modeling.probe` takes it) on validation
rows: is it more often wrong where they are marked?
"""

import argparse
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets

from benchmarks.options import load_splits
from metrics.intervals import interval_text, mean_with_interval
from metrics.vqa import all_scores
from modeling.asking.consistency import wordings_of_file
from modeling.asking.predictor import Predictor
from modeling.asking.probe import ask
from modeling.parts.question_words import QuestionWords, words_of
from processing.box_questions import add_box_questions
from processing.errors import UserError, run_command
from processing.implied_questions import add_implied_questions
from processing.row_values import counts_of
from processing.sources.csv_tables import read_csv
from processing.wordings import HELD_OUT, probe_wordings

QUESTIONS = Path(__file__).with_name("far_questions.csv")
PER_QUESTION = 4  # wordings that training never uses


def share_marked(words: QuestionWords, questions: Iterable[str]) -> str:
    """How many of some questions are marked, as text."""
    marked = [words.are_unlike(question) for question in questions]
    return f"{sum(marked)} of {len(marked)} ({100 * sum(marked) / len(marked):.1f} %)"


def by_hand() -> dict[str, list[str]]:
    """The questions of the table, by scope and use."""
    found: dict[str, list[str]] = {}
    for row in read_csv(QUESTIONS):
        found.setdefault(f"{row['scope']}, for the {row['used_for']}", []).append(row["question"])
    return found


def are_marked_ones_wrong(
    words: QuestionWords, predictor: Predictor, rows: Sequence[dict[str, Any]], file: Path
) -> list[str]:
    """The Exact Match of a model's answers to a table's wordings that are marked, and to the others, a line each.

    Raises:
        UserError: the table can't be used.
    """
    wordings = wordings_of_file(file, rows)
    asked = [rows[one.row] for one in wordings]
    answers = ask(predictor, [row["image"] for row in asked], [one.text for one in wordings], "wordings")
    scores = 100 * all_scores(asked, answers)[:, 0]
    lines = []
    for title, wanted in (("marked", True), ("not marked", False)):
        chosen = [i for i, one in enumerate(wordings) if words.are_unlike(one.text) == wanted]
        if chosen:
            exact_match = mean_with_interval(scores[chosen], [asked[i]["image_id"] for i in chosen])
            lines.append(f"{title}: {len(chosen):,} wordings, EM {interval_text(exact_match)}")
    return lines


def training_words(rows: datasets.Dataset) -> QuestionWords:
    """The words that a run with the starter's recipe keeps.

    Raises:
        UserError: there are too few.
    """
    found = words_of(add_implied_questions(add_box_questions(rows)))
    if found is None:
        raise UserError("The training rows are too few to tell which questions are unlike them; choose more.")
    return found


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: data, model or table can't be used.
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.far_questions", description="Which questions are marked as unlike the training's."
    )
    parser.add_argument("--dataset", required=True, help="as for train.py")
    parser.add_argument("--model", help="a trained model, which answers the wordings")
    parser.add_argument("--wordings", type=Path, help="CSV file with the columns wording and question")
    options = parser.parse_args(argv)
    if (options.model is None) != (options.wordings is None):
        raise UserError("Give --model and --wordings together, or neither.")
    dataset = load_splits(options.dataset, "train", "validation")
    words = training_words(dataset["train"])
    print(f"{len(words.words):,} words of training questions")
    held_out = [
        text
        for question in counts_of(dataset["train"], "question")
        for text, _ in probe_wordings(question, HELD_OUT, PER_QUESTION)
    ]
    parts = by_hand() | {"validation questions as asked": list(counts_of(dataset["validation"], "question"))}
    parts["wordings of training questions, never trained on"] = held_out
    for title, questions in parts.items():
        print(f"{title}: {share_marked(words, questions)} marked")
    if options.model is not None:
        typed = [row["wording"] for row in read_csv(options.wordings)]
        print(f"wordings of the table: {share_marked(words, typed)} marked")
        predictor = Predictor.from_pretrained(options.model)
        print("\n".join(are_marked_ones_wrong(words, predictor, list(dataset["validation"]), options.wordings)))


if __name__ == "__main__":
    run_command(main, logging.WARNING)
