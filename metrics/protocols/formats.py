"""Files of predictions, recognised by their fields: this project's, those of other evaluations, and plain tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metrics.protocols.figures import Answered
from processing.errors import UserError, quoted, shorten
from processing.sources.columns import NAMED_COLUMNS, find_column
from processing.sources.tables import read_records
from processing.sources.values import text_of

OPEN_TYPES = ("open", "other", "number")  # the last two are VQA's and PathVQA's
CLOSED_TYPES = ("closed", "close", "yes/no")
WANTED = (
    "id and prediction (with answer, answer_type and image_id where they are known), question_id and text "
    "(LLaVA-Med), doc_id, target and resps (lmms-eval), or response and answer (MedEvalKit)"
)

PREDICTIONS = ("prediction", "text", "response")  # a text, or a list of one

Values = Mapping[str, Any]


class Format(NamedTuple):
    """How a program writes predictions.

    Attributes:
        name: in messages.
        fields: that every file of the format has.
        read: the row of one entry and its number in the file.
        has_ids: whether its ids are those of the data set's questions.
    """

    name: str
    fields: tuple[str, ...]
    read: Callable[[Values, int], Answered]
    has_ids: bool = True


class Predictions(NamedTuple):
    """A file of predictions.

    Attributes:
        format: which one it is.
        rows: in the order of the file; their ids are all different.
        empty: how many predictions are missing or empty.
    """

    format: Format
    rows: list[Answered]
    empty: int


def read_predictions(file: Path) -> Predictions:
    """Reads a file of predictions.

    A missing prediction is the answer "". A missing gold answer is "" too where other rows have one: no answer.

    Raises:
        UserError: the file can't be read, it is in no known format, an answer is no text, or two rows have one id.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; give a file of predictions.")
    entries: list[Values] = [record.values for record in read_records(file, None)]
    if not entries:
        raise UserError(f"{file}: it has no rows; give a file with a prediction a row.")
    kind, entries = _recognise(file, entries)
    _refuse_objects(file, kind, entries)
    rows = [kind.read(values, number) for number, values in enumerate(entries, start=1)]
    _refuse_repeated(file, rows)
    if any(row.answers for row in rows):
        rows = [row if row.answers else row._replace(answers=("",)) for row in rows]
    return Predictions(kind, rows, sum(not row.prediction for row in rows))


def answer_type_of(value: Any) -> str | None:
    """OPEN or CLOSED for the usual names of answer types, yes/no, other and number among them; else None."""
    name = (text_of(value) or "").lower().removesuffix("-ended")
    if name in OPEN_TYPES:
        return "OPEN"
    return "CLOSED" if name in CLOSED_TYPES else None


def _recognise(file: Path, records: Sequence[Values]) -> tuple[Format, list[Values]]:
    """The format of a file, and its entries with the fields as that format calls them."""
    present = list(dict.fromkeys(name for values in records for name in values))
    for kind in FORMATS:
        columns = {field: find_column(field, present) for field in (*kind.fields, *OPTIONAL)}
        if all(columns[field] for field in kind.fields):
            names = {column: field for field, column in columns.items() if column}
            return kind, [{names.get(name, name): value for name, value in values.items()} for values in records]
    found = ", ".join(quoted(name) for name in present[:NAMED_COLUMNS])
    raise UserError(f"{file}: no known format of predictions (fields: {found}); it needs {WANTED}.")


def _refuse_objects(file: Path, kind: Format, entries: Iterable[Values]) -> None:
    """Refuses predictions and gold answers that are no texts, which would all count as wrong."""
    golds = ("target",) if "target" in kind.fields else ("answer", "answers")
    fields = [field for field in kind.fields if field in PREDICTIONS] + [*golds]
    for number, values in enumerate(entries, start=1):
        for field in fields:
            value = values.get(field)
            items = value if isinstance(value, list) and (field in golds or len(value) < 2) else [value]
            if not all(isinstance(item, str | int | float | None) for item in items):
                raise UserError(f"{file} row {number}: {field} is no text but {quoted(value)}; write a text.")


def _refuse_repeated(file: Path, rows: Iterable[Answered]) -> None:
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if not row.id:
            raise UserError(f"{file} row {number}: it has no id; write that of its question.")
        if row.id in first:
            raise UserError(
                f"{file} row {number}: the id {shorten(row.id)} is that of row {first[row.id]} too; keep one of them."
            )
        first[row.id] = number


def _only(value: Any) -> Any:
    """What a list of one value holds; None of an empty one."""
    return (value[0] if value else None) if isinstance(value, list) else value


def _texts(value: Any) -> tuple[str, ...]:
    """The gold answers in a field: one text, or a list of them."""
    values = value if isinstance(value, list) else [value]
    return tuple(text for item in values if (text := text_of(item)) is not None)


def _first_text(values: Values, names: Iterable[str]) -> str | None:
    return next((text for name in names if (text := text_of(values.get(name))) is not None), None)


def _plain_row(values: Values, _: int) -> Answered:
    answers = _texts(values.get("answers")) or _texts(values.get("answer"))
    image = _first_text(values, ("image_id", "image"))
    return _row(_first_text(values, ("id", "question_id")), values.get("prediction"), answers, values, image)


def _llava_med_row(values: Values, _: int) -> Answered:
    prompt = (text_of(values.get("prompt")) or "").replace("<image>", " ")
    row = _row(values.get("question_id"), values.get("text"), _texts(values.get("answer")), values)
    return row._replace(question=text_of(prompt))


def _lmms_eval_row(values: Values, _: int) -> Answered:
    doc = values.get("doc")
    facts: Values = doc if isinstance(doc, dict) else {}
    said = values.get("filtered_resps") or values.get("resps")
    while isinstance(said, list):
        said = said[0] if said else None
    id_ = _first_text(facts, ("question_id", "qid", "id")) or values.get("doc_id")
    image = _first_text(facts, ("image_id", "img_id", "img_name"))
    return _row(id_, said, _texts(values.get("target")), facts, image)


def _med_eval_kit_row(values: Values, number: int) -> Answered:
    return _row(number, values.get("response"), _texts(values.get("answer")), values)


def _row(id_: Any, prediction: Any, answers: tuple[str, ...], facts: Values, image: str | None = None) -> Answered:
    return Answered(
        id=text_of(id_) or "",
        prediction=text_of(_only(prediction)) or "",
        answers=answers,
        answer_type=answer_type_of(facts.get("answer_type")),
        image_id=image,
        question=text_of(facts.get("question")),
        overlap=text_of(facts.get("overlap")),
    )


OPTIONAL = ("answer", "answers", "answer_type", "image_id", "image", "question", "overlap", "prompt", "doc", "resps")
# The first whose fields a file has is taken.
FORMATS = (
    Format("this project's predictions", ("id", "image_id", "question", "prediction", "confidence"), _plain_row),
    Format("a table of ids and predictions", ("id", "prediction"), _plain_row),
    Format("a table of ids and predictions", ("question_id", "prediction"), _plain_row),
    Format("lmms-eval's samples", ("doc_id", "target", "filtered_resps"), _lmms_eval_row),
    Format("lmms-eval's samples", ("doc_id", "target", "resps"), _lmms_eval_row),
    Format("LLaVA-Med's answers", ("question_id", "text"), _llava_med_row),
    Format("MedEvalKit's results", ("response", "answer"), _med_eval_kit_row, has_ids=False),
)
