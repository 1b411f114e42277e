"""Tables of questions."""

import csv
import io
import os
from pathlib import Path

from tqdm import trange

from modeling.asking.predictor import BATCH_SIZE, Predictor
from processing.errors import UserError
from processing.sources.tables import read_csv
from processing.storage import write_atomically
from processing.validation import file_inside

ANSWER_COLUMNS = ("prediction", "confidence", "error")


def answer_table(predictor: Predictor, table: Path, out: Path) -> int:
    """Answers the rows of a CSV file and writes them with the columns `prediction`, `confidence` and `error`.

    `error` is empty where there is an answer.

    Args:
        table: with the columns `image`, a path relative to the table and inside its folder, and `question`.
        out: is written at the end, whole or not at all.

    Returns:
        The number of rows with an error.

    Raises:
        UserError: the table can't be read or lacks these columns, or `out` can't be written.
    """
    rows = read_csv(table)
    columns = list(rows[0]) if rows else []
    if missing := [name for name in ("image", "question") if name not in columns]:
        raise UserError(f"{table}: there is no column {missing[0]}, or no row; it needs image and question.")
    if taken := [name for name in ANSWER_COLUMNS if name in columns]:
        raise UserError(f"{table}: it has a column {taken[0]} already, which the answers need; rename it.")
    root = Path(os.path.realpath(table.parent))
    asked = []
    for row in rows:
        row |= dict.fromkeys(ANSWER_COLUMNS, "")
        try:
            path = file_inside(root, row["image"])
        except (ValueError, OSError):  # it holds a NUL, or is no path here
            path = None
        if path is None:
            row["error"] = "The image path is empty or leaves the folder of the table."
        else:
            asked.append((path, row))
    asked.sort(key=lambda pair: pair[0])  # an image's questions together
    for start in trange(0, len(asked), BATCH_SIZE, desc="Answering", unit="batch"):
        paths, part = zip(*asked[start : start + BATCH_SIZE], strict=True)
        for row, result in zip(part, predictor.try_batch(paths, [row["question"] for row in part], 1), strict=True):
            if isinstance(result, UserError):
                row["error"] = str(result)
            else:
                row |= {"prediction": result.answer, "confidence": round(result.confidence, 6)}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns, *ANSWER_COLUMNS])
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_atomically(out, text.getvalue())
    except OSError as error:
        raise UserError(f"{out}: can't be written ({error.strerror}); choose another --out.") from error
    return sum(bool(row["error"]) for row in rows)
