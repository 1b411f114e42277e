"""Does a model agree with itself? The same question in other words, and questions whose answers exclude each other.

The wordings are those of SLAKE's English questions and, in each group, some that SLAKE does not have.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from metrics.intervals import mean_with_interval
from metrics.squad_v2.scoring import normalize_answer
from metrics.vqa import all_scores
from processing.answers import answer_identity

Ask = Callable[[Sequence[str], Sequence[str]], list[str]]  # images (paths) and questions to answers

# Groups of wordings that ask the same; {} is an organ, a plane, a system.
WORDINGS: dict[str, tuple[str, ...]] = {
    "modality": (
        "What modality is used to take this image?",
        "What modality is shown in this image?",
        "What imaging modality was used?",
        "What type of medical image is this?",
        "How was this image taken?",
        "Which imaging modality is this?",
        "With which modality was this picture made?",
    ),
    "CT": ("Is this a CT scan?", "Is this a CT?", "Is this image taken via CT?", "Was CT used for this image?"),
    "MRI": ("Is this an MRI scan?", "Is this an MRI?", "Is this image taken via MRI?", "Was MRI used for this image?"),
    "X-ray": ("Is this a X-Ray?", "Is this image taken via X-Ray?", "Was X-Ray used for this image?"),
    "plane": (
        "What is the scanning plane of this image?",
        "What scanning plane does this image belong to?",
        "In what plane is this image scanned?",
        "Which plane was scanned in this image?",
    ),
    "plane, yes or no": ("Is this a {} plane?", "Is this {} plane?", "Is this a {} section?", "Is the plane {}?"),
    "part of the body": (
        "Which part of the body does this image belong to?",
        "Where does the picture show?",
        "Where does the image represent in the body?",
        "Which part of the body is shown here?",
    ),
    "organ system": (
        "What organ system is primarily present in this image?",
        "What is the organ system visualized?",
        "What organ system is pictured?",
        "Which organ system is imaged?",
        "Which organ system does this image show?",
    ),
    "organ there": (
        "Does the picture contain {}?",
        "Does the {} exist in this picture?",
        "Does the {} appear in this image?",
        "Can the {} be seen in this image?",
    ),
    "largest organ": (
        "What is the largest organ in the picture?",
        "What is the biggest organ in the picture?",
        "Which organ in this image is the largest?",
    ),
    "number": (
        "How many {} in this image?",
        "How many {} are there in this image?",
        "How many {} are shown in this image?",
        "How many existing {} in this image?",
        "What is the number of {} in this image?",
    ),
    "colour": (
        "What color does the {} show in the picture?",
        "What color is the {} in the picture?",
        "Which color has the {} in this image?",
    ),
    "organ healthy": (
        "Is the {} healthy?",
        "Does the {} look healthy?",
        "Is the {} normal appearing?",
        "Does the {} look normal?",
    ),
    "organ abnormal": ("Is the {} abnormal?", "Does the {} look abnormal?", "Does the {} look unhealthy?"),
    "image normal": ("Does this image look normal?", "Is this image normal?", "Is everything normal in this image?"),
    "abnormalities": (
        "Are there abnormalities in this image?",
        "Does this image look abnormal?",
        "Does the patient have any abnormalities?",
        "Is anything abnormal in this image?",
    ),
    "diseases": (
        "What diseases are included in the picture?",
        "What diseases can be seen in the picture?",
        "Which diseases does this image show?",
    ),
    "place of the abnormality": (
        "Where is/are the abnormality located?",
        "Where is the abnormality in this image?",
        "Where are the abnormalities in this image?",
        "Where is/are the abnormality located in this picture?",
        "In which place is the abnormality?",
    ),
    "organs of a system": (
        "Which organs/organ in the picture belong to the {} system?",
        "Which organs/organ is part of the {} system in this image?",
        "Which organs of the {} system does this image show?",
    ),
}
EXCLUSIVE = {  # at most one is to be answered by yes
    "modality": ("Is this a CT scan?", "Is this an MRI scan?", "Is this a X-Ray?"),
    "plane": ("Is this a transverse plane?", "Is this a coronal plane?", "Is this sagittal plane?"),
    "part of the body": tuple(f"Is this a study of the {part}?" for part in ("chest", "abdomen", "head")),
}
OPPOSITE = {  # exactly one is to be answered by yes
    "normal or abnormal": ("Does this image look normal?", "Does this image look abnormal?"),
    "abnormalities or normal": ("Are there abnormalities in this image?", "Is this image normal?"),
}


def spelling(question: str) -> str:
    """A question in lower case, with one space between words and one question mark at the end."""
    return " ".join(question.lower().split()).rstrip(" ?") + "?"


_PATTERNS = [
    (group, re.compile(re.escape(spelling(wording)).replace(r"\{\}", r"(?P<what>.+)")))
    for group, wordings in WORDINGS.items()
    for wording in sorted(wordings, key=len, reverse=True)  # "How many existing {}" before "How many {}"
]


def other_wordings(question: str) -> tuple[str, list[str]] | None:
    """The group of a question and its other wordings, or None where no group has it."""
    own = spelling(question)
    for group, pattern in _PATTERNS:
        if match := pattern.fullmatch(own):
            what = match.groupdict().get("what", "")
            others = [wording.replace("{}", what) for wording in WORDINGS[group]]
            return group, [wording for wording in others if spelling(wording) != own]
    return None


def paraphrase_figures(
    ask: Ask, rows: Sequence[Mapping[str, Any]], answers: Sequence[str], known: Collection[str] = ()
) -> list[dict[str, Any]]:
    """How often other wordings of a question get the same answer.

    Args:
        ask: the model.
        rows: with `image`, `image_id`, `question`, `answer` and `language`.
        answers: the model's, to the questions as asked.
        known: questions of the training rows.

    Returns:
        A table for all wordings, for those that the training rows have and have not, and by group. `group` names the
        part; `questions` and `wordings` count what was asked; `consistent` `[value, low, high]` is the share of
        wordings whose answer equals that to the question as asked; `exact_match` is that of the wordings and
        `exact_match_as_asked` that of the questions as asked. Figures are in percent.
    """
    seen = {spelling(question) for question in known}
    asked = [
        (i, group, wording)
        for i, row in enumerate(rows)
        for group, wordings in [other_wordings(row["question"]) or ("", [])]
        for wording in wordings
    ]
    if not asked:
        return []
    found = ask([rows[i]["image"] for i, _, _ in asked], [wording for _, _, wording in asked])
    same = np.array(
        [answer_identity(one) == answer_identity(answers[i]) for one, (i, _, _) in zip(found, asked, strict=True)]
    )
    right = all_scores([rows[i] for i, _, _ in asked], found)[:, 0]
    first = all_scores([rows[i] for i, _, _ in asked], [answers[i] for i, _, _ in asked])[:, 0]
    parts = {"all": np.full(len(asked), True)}
    if known:
        new = np.array([spelling(wording) not in seen for _, _, wording in asked])
        parts |= {"wordings of the training rows": ~new, "other wordings": new}
    parts |= {group: np.array([other == group for _, other, _ in asked]) for group in WORDINGS}
    return [
        {
            "group": group,
            "questions": len({i for (i, _, _), inside in zip(asked, part, strict=True) if inside}),
            "wordings": int(part.sum()),
            "consistent": mean_with_interval(
                100 * same[part], [rows[asked[j][0]]["image_id"] for j in np.flatnonzero(part)]
            ),
            "exact_match": round(100 * float(right[part].mean()), 2),
            "exact_match_as_asked": round(100 * float(first[part].mean()), 2),
        }
        for group, part in parts.items()
        if part.any()
    ]


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
