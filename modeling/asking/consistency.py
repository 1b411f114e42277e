"""Does a model agree with itself? The same question in other words, and questions whose answers exclude each other.

Most other words are those of `processing.wordings`. One half of them is never trained on.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metrics.intervals import mean_with_interval
from metrics.squad_v2.scoring import normalize_answer
from metrics.vqa import all_scores
from processing.answers import answer_identity
from processing.errors import UserError
from processing.sources.columns import find_column
from processing.sources.csv_tables import read_csv
from processing.wordings import ASKED, HELD_OUT, TRAINING, meaning, probe_wordings

Ask = Callable[[Sequence[str], Sequence[str]], list[str]]  # images (paths) and questions to answers

PER_PART = 4  # other wordings of a question that are asked, of each part
PART_NAMES = {
    ASKED: "SLAKE's wordings",
    TRAINING: "wordings that training may use",
    HELD_OUT: "wordings never trained on",
}
IN_FILE = "wordings of the file"
SHORT = 3  # words
BODY_PARTS = ("chest", "abdomen", "head", "neck", "pelvic cavity")
EXCLUSIVE = {  # at most one is to be answered by yes
    "modality": ("Is this a CT scan?", "Is this an MRI scan?", "Is this a X-Ray?"),
    "modality, never trained on": tuple(f"Is the imaging technique {name}?" for name in ("CT", "MRI", "X-Ray")),
    "plane": ("Is this a transverse plane?", "Is this a coronal plane?", "Is this sagittal plane?"),
    "plane, never trained on": tuple(
        f"Is {name} the orientation of the picture?" for name in ("transverse", "coronal", "sagittal")
    ),
    "part of the body": tuple(f"Is this a study of the {part}?" for part in BODY_PARTS),
    "part of the body, never trained on": tuple(f"Do we see the {part} in this picture?" for part in BODY_PARTS),
}
OPPOSITE = {  # exactly one is to be answered by yes
    "normal or abnormal": ("Does this image look normal?", "Does this image look abnormal?"),
    "abnormalities or normal": ("Are there abnormalities in this image?", "Is this image normal?"),
    "abnormality or normal, never trained on": (
        "Can you find any abnormality in the scan?",
        "Can we say that the examination is normal?",
    ),
    "short forms, never trained on": ("something abnormal", "looks normal"),
}


class OtherWording(NamedTuple):
    """Other words for the question of a row.

    Attributes:
        row: the row's place.
        part: what the figures call the wordings that it belongs to.
        text: the question.
        short: it is a short form, such as `CT or MRI`.
    """

    row: int
    part: str
    text: str
    short: bool


def other_wordings(rows: Sequence[Mapping[str, Any]]) -> list[OtherWording]:
    """Those of `processing.wordings` for each row: some of each part."""
    return [
        OtherWording(i, name, text, short)
        for i, row in enumerate(rows)
        for part, name in PART_NAMES.items()
        for text, short in probe_wordings(row["question"], part, PER_PART)
    ]


def wordings_of_file(file: Path, rows: Sequence[Mapping[str, Any]]) -> list[OtherWording]:
    """Those of a CSV file for each row; those of at most `SHORT` words count as short forms.

    Args:
        file: with a column `wording`, and `question_id` or `question`, which say whose wording it is. A `question`
            stands for all rows that ask it.
        rows: with `question` and `question_id`.

    Raises:
        UserError: the file can't be read, lacks a column, or has no wording of these rows' questions.
    """
    table = list(read_csv(file))
    columns = list(table[0]) if table else []
    wording, by_id, by_text = (find_column(name, columns) for name in ("wording", "question_id", "question"))
    whose, key_column = ("question_id", by_id) if by_id else ("question", by_text)
    if not wording or not key_column:
        raise UserError(f"{file}: it needs the columns wording, and question_id or question, and a row.")
    wordings: dict[str, list[str]] = defaultdict(list)
    for line in table:
        wordings[line[key_column].strip()].append(line[wording].strip())
    found = [
        OtherWording(i, IN_FILE, text, len(text.split()) <= SHORT)
        for i, row in enumerate(rows)
        for text in wordings.get(str(row[whose]).strip(), ())
        if text
    ]
    if not found:
        raise UserError(
            f"{file}: no wording in it is of a question of this split, by {whose}; choose another --split."
        )
    return found


def paraphrase_figures(
    ask: Ask, rows: Sequence[Mapping[str, Any]], answers: Sequence[str], wordings: Sequence[OtherWording]
) -> list[dict[str, Any]]:
    """How often other wordings of a question get the same answer.

    Args:
        ask: the model.
        rows: with `image`, `image_id`, `question`, `answer` and `language`.
        answers: the model's, to the questions as asked.
        wordings: what to ask.

    Returns:
        A table for each part of the wordings: for all of them, for short forms and for each group of questions. `part`
        and `group` name them; `questions` and `wordings` count what was asked; `consistent` `[value, low, high]` is
        the share of wordings whose answer equals that to the question as asked; `exact_match` is that of the wordings
        and `exact_match_as_asked` that of the questions as asked. Figures are in percent.
    """
    if not wordings:
        return []
    found = ask([rows[one.row]["image"] for one in wordings], [one.text for one in wordings])
    asked = [rows[one.row] for one in wordings]
    first = [answers[one.row] for one in wordings]
    same = np.array([answer_identity(one) == answer_identity(other) for one, other in zip(found, first, strict=True)])
    right, right_first = all_scores(asked, found)[:, 0], all_scores(asked, first)[:, 0]
    of_row = [asks.group if (asks := meaning(row["question"])) else "other questions" for row in rows]
    groups = np.array([of_row[one.row] for one in wordings])
    places = np.array([one.row for one in wordings])
    short, part_of = np.array([one.short for one in wordings]), np.array([one.part for one in wordings])
    table = []
    for part in dict.fromkeys(one.part for one in wordings):
        inside = part_of == part
        chosen = {"all": inside, "short forms": inside & short}
        chosen |= {group: inside & (groups == group) for group in dict.fromkeys(groups.tolist())}
        table += [
            {
                "part": part,
                "group": group,
                "questions": len(set(places[these].tolist())),
                "wordings": int(these.sum()),
                "consistent": mean_with_interval(
                    100 * same[these], [rows[i]["image_id"] for i in places[these].tolist()]
                ),
                "exact_match": round(100 * float(right[these].mean()), 2),
                "exact_match_as_asked": round(100 * float(right_first[these].mean()), 2),
            }
            for group, these in chosen.items()
            if these.any()
        ]
    return table


def contradiction_figures(ask: Ask, images: Mapping[str, str]) -> list[dict[str, Any]]:
    """How often answers about an image exclude each other.

    Args:
        ask: the model.
        images: paths by image id.

    Returns:
        For each set of questions `questions`, `images`, `contradictory` `[value, low, high]` and `none`, in percent of
        images. `EXCLUSIVE` questions contradict each other with more than one yes, `OPPOSITE` ones unless there is
        exactly one. `none` counts images without any yes.
    """
    table = []
    for group, questions in (EXCLUSIVE | OPPOSITE).items():
        pairs = [(path, question) for path in images.values() for question in questions]
        answers = ask([path for path, _ in pairs], [question for _, question in pairs])
        yes = np.array([normalize_answer(answer) == "yes" for answer in answers]).reshape(len(images), -1).sum(1)
        wrong = yes != 1 if group in OPPOSITE else yes > 1
        table.append(
            {
                "group": group,
                "questions": list(questions),
                "images": len(images),
                "contradictory": mean_with_interval(100.0 * wrong, list(images)),
                "none": round(100 * float((yes == 0).mean()), 2),
            }
        )
    return table
