"""Tables of questions."""

from collections.abc import Iterable
from pathlib import Path

from tqdm import trange

from modeling.asking.predictor import BATCH_SIZE, Predictor
from modeling.parts.evidence import boxes_as_json
from processing.choices import option_texts
from processing.errors import UserError, shorten
from processing.image_paths import MISSING, OUTSIDE, ImageFolder
from processing.image_source import label_of
from processing.problems import Problem
from processing.sources.columns import ColumnFinder, option_columns, options_of
from processing.sources.csv_tables import read_csv
from processing.storage import csv_text, write_atomically

ANSWER_COLUMNS = ("prediction", "confidence", "evidence", "unlike_training", "error")


def answer_table(predictor: Predictor, table: Path, out: Path, column_names: Iterable[str] = ()) -> int:
    """Answers the rows of a CSV file and writes them with the columns of `ANSWER_COLUMNS`.

    `evidence` is JSON: a list of boxes with `label`, `probability` and `box` (left, top, width and height in shares of
    the image), or nothing for a model that was trained without boxes. `unlike_training` is "yes" where the training
    had few or no questions like this one. `error` is empty where there is an answer. Text that a spreadsheet would run
    as a formula gets an apostrophe.

    Args:
        table: with the columns `image`, a path relative to the table and inside its folder, and `question`. Rows that
            have options, in columns as for training (`Choice A` ..., `choices`), are answered by one of them.
        out: is written at the end, whole or not at all.
        column_names: `field=column` pairs where the columns have other names.

    Returns:
        The number of rows with an error.

    Raises:
        UserError: the table can't be read or lacks these columns, or `out` can't be written.
    """
    rows = list(read_csv(table))
    if not rows:
        raise UserError(f"{table}: there is no row; write a line for each question, under the names of the columns.")
    columns = list(rows[0])
    names = ColumnFinder(column_names).find(table, columns, fields=("image", "question"))
    image_column, question_column = names["image"], names["question"]
    if taken := [name for name in ANSWER_COLUMNS if name in columns]:
        raise UserError(f"{table}: it has a column {taken[0]} already, which the answers need; rename it.")
    options = option_columns(columns)
    folder = ImageFolder(table.parent)
    asked = []
    for row in rows:
        row |= dict.fromkeys(ANSWER_COLUMNS, "")
        found = folder.find(row[image_column])
        if isinstance(found, Problem):
            row["error"] = _sentence(found)
        else:
            asked.append((str(folder.root / found), row))
    asked.sort(key=lambda pair: pair[0])  # an image's questions together
    for start in trange(0, len(asked), BATCH_SIZE, desc="Answering", unit="batch"):
        paths, part = zip(*asked[start : start + BATCH_SIZE], strict=True)
        choices = [_choices(row, options) for row in part]
        results = predictor.try_batch(paths, [row[question_column] for row in part], 1, choices)
        for path, row, result in zip(paths, part, results, strict=True):
            if isinstance(result, UserError):  # it quotes the whole path
                row["error"] = str(result).replace(label_of(path), shorten(row[image_column]))
            else:
                confidence = round(result.confidence, 6)
                row |= {
                    "prediction": result.answer,
                    "confidence": confidence,
                    "evidence": boxes_as_json(result.evidence),
                    "unlike_training": "yes" if result.unlike_training else "",
                }
    try:
        write_atomically(out, csv_text([*columns, *ANSWER_COLUMNS], rows))
    except OSError as error:
        raise UserError(f"{out}: can't be written ({error.strerror}); choose another --out.") from error
    return sum(bool(row["error"]) for row in rows)


def _choices(row: dict[str, str], columns: list[str]) -> list[str] | None:
    """The options of a row; None where it has fewer than two, as in training."""
    options = option_texts(options_of(row, columns) or [])
    return options if len(options) > 1 else None


def _sentence(problem: Problem) -> str:
    """Why a row has no image."""
    if problem.kind == MISSING:
        return f"The image does not exist, or its path is empty ({problem.detail}); correct the path."
    if problem.kind == OUTSIDE:
        return f"The image path leaves the folder of the table ({problem.detail}); move the image into the folder."
    return f"There is {problem.kind} ({problem.detail})."
