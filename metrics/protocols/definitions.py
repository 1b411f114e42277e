"""What each protocol gives for an answer. docs/protocols.md has their sources and oddities.

A protocol scores a prediction against the gold answers of its question, 0 to 1; of several gold answers the one that
fits best counts.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from metrics.accuracy import is_accurate
from metrics.squad_v2.scoring import exact_score, f1_score, normalize_answer
from metrics.vqa import answer_scores
from processing.answers import ARTICLES

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
MAX_PERIODS = 32  # that are dropped: the scripts pass the flag re.UNICODE, which is 32, in the place of the count
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Protocol(NamedTuple):
    """A named way to score answers.

    Attributes:
        name: in tables and JSON.
        score: of a prediction and the gold answers of its question, 0 to 1; None where the protocol does not count
            the question.
        answer_type: the only one that it covers, OPEN or CLOSED; None for all questions.
    """

    name: str
    score: Callable[[str, Sequence[str]], float | None]
    answer_type: str | None = None


def protocols(vocabulary: Collection[str] | None = None) -> list[Protocol]:
    """All protocols, in the order of docs/protocols.md.

    Args:
        vocabulary: the answers that a classifier could give, for `mevf_accuracy`; None where it is not known.
    """
    return [
        Protocol("squad_v2_exact", _squad_v2(exact_score)),
        Protocol("squad_v2_f1", _squad_v2(f1_score)),
        Protocol("accuracy", _best(lambda said, gold: float(is_accurate(said, gold)))),
        Protocol("lmms_eval_exact_match", _best(lmms_eval_exact_match)),
        Protocol("lmms_eval_exact_match_no_flags", _best(lambda said, gold: float(said.strip() == gold))),
        Protocol("llava_med_open_recall", _best(llava_med_open_recall), "OPEN"),
        Protocol("llava_med_closed", _best(llava_med_closed), "CLOSED"),
        Protocol("llava_med_closed_all", _best(lambda said, gold: llava_med_closed(said, gold) or 0.0), "CLOSED"),
        Protocol("mevf_accuracy", _mevf(vocabulary)),
        Protocol("bleu_1", _best(lambda said, gold: answer_scores(said, gold).bleu_1)),
    ]


def normalize_vqa(text: str) -> str:
    """An answer as the scripts descended from VQA's evaluation compare it (Antol et al. 2015, arXiv:1505.00468).

    A mark of `VQA_PUNCTUATION` is dropped where it stands beside a space anywhere in the text, or where the text has
    a comma between two digits; else it becomes a space. Periods that no digit follows are dropped, the first 32 of
    them. Then come lower case, digits for the words zero to ten and none, and no articles. VQA's table of contractions
    (dont for don't) is left out.
    """
    kept, thousands = text, re.search(r"\d,\d", text)
    for mark in VQA_PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if beside_space or thousands else " ")
    kept = re.sub(r"\.(?!\d)", "", kept, count=MAX_PERIODS)
    words = [DIGITS.get(word, word) for word in kept.lower().split()]
    return " ".join(word for word in words if word not in ARTICLES)


def lmms_eval_exact_match(prediction: str, gold: str) -> float:
    """`exact_match` with `ignore_case` and `ignore_punctuation`: articles and spaces inside an answer count."""
    return float(_plain(prediction.strip()) == _plain(gold))


def llava_med_open_recall(prediction: str, gold: str) -> float:
    """t / (t + m): t words of the prediction that the gold answer has, m gold words that the prediction lacks."""
    words, expected = (Counter(normalize_vqa(text.lower()).split()) for text in (prediction, gold))
    found = sum(count for word, count in words.items() if word in expected)
    missing = sum(count for word, count in expected.items() if word not in words)
    return found / (found + missing) if found else 0.0


def llava_med_closed(prediction: str, gold: str) -> float | None:
    """1 where the text of the gold answer is in a prediction that holds yes or no, also inside a word.

    Without yes or no it is 0. With either, and without the gold answer, the script does not count the question: None.
    """
    said, expected = (normalize_vqa(text.lower()) for text in (prediction, gold))
    if "yes" not in said and "no" not in said:
        return 0.0
    return 1.0 if expected in said else None


def mevf_label(answer: str) -> str:
    """The class of an answer among those of MEVF's classifier."""
    return normalize_vqa(answer).replace("x ray", "xray")


def _plain(text: str) -> str:
    return text.lower().translate(NO_PUNCTUATION)


def _best(score: Callable[[str, str], float | None]) -> Callable[[str, Sequence[str]], float | None]:
    """The score against the gold answer that fits best; None where none of them counts."""

    def best(prediction: str, golds: Sequence[str]) -> float | None:
        return max((found for gold in golds if (found := score(prediction, gold)) is not None), default=None)

    return best


def _squad_v2(score: Callable[[str, str], float]) -> Callable[[str, Sequence[str]], float | None]:
    """The best score; a gold answer of nothing but articles and punctuation counts where there is no other."""

    def best(prediction: str, golds: Sequence[str]) -> float | None:
        return _best(score)(prediction, [gold for gold in golds if normalize_answer(gold)] or [""])

    return best


def _mevf(vocabulary: Collection[str] | None) -> Callable[[str, Sequence[str]], float | None]:
    """1 where the prediction is of the class of a gold answer, and that class is in the vocabulary."""
    labels = None if vocabulary is None else {mevf_label(answer) for answer in vocabulary}

    def score(prediction: str, gold: str) -> float:
        label = mevf_label(gold)
        return float(label == mevf_label(prediction) and (labels is None or label in labels))

    return _best(score)
