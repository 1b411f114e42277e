"""Plain accuracy, and the different answers that Exact Match takes for one."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from metrics import cmrc
from metrics.squad_v2.scoring import normalize_answer
from processing.answers import answer_identity
from processing.errors import quoted

logger = logging.getLogger(__name__)

NAMED_PAIRS = 3  # in the warning


def is_accurate(prediction: str, gold: str) -> bool:
    """Whether both answers are the same in lower case and with one space between words; all else counts."""
    return prediction.lower().split() == gold.lower().split()


def equal_for_exact_match(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of different gold answers that Exact Match can't tell apart, each answer in its most frequent spelling.

    Args:
        rows: with `answer` and `language`. In Chinese, answers count that either SQuAD v2 or CMRC 2018 makes equal.
    """
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        answer = row["answer"]
        identity = answer_identity(answer)
        spellings[identity][answer] += 1
        groups["squad", normalize_answer(answer)].add(identity)
        if row["language"] == "zh":
            groups["cmrc", cmrc.normalize_answer(answer)].add(identity)
    pairs = {pair: None for group in groups.values() for pair in combinations(sorted(group), 2)}
    usual = {
        identity: min(counts, key=lambda answer: (-counts[answer], answer)) for identity, counts in spellings.items()
    }
    return [(usual[one], usual[other]) for one, other in pairs]


def warn_of_equal_answers(rows: Iterable[Mapping[str, Any]]) -> None:
    """Warns where Exact Match can't tell gold answers apart, and names some of them."""
    pairs = equal_for_exact_match(rows)
    if pairs:
        named = "; ".join(f"{quoted(one)} and {quoted(other)}" for one, other in pairs[:NAMED_PAIRS])
        logger.warning(
            "Exact Match ignores punctuation and signs, so it can't tell %s of answers apart: %s%s. The accuracy "
            "beside it can.",
            "1 pair" if len(pairs) == 1 else f"{len(pairs):,} pairs",
            named,
            "; ..." if len(pairs) > NAMED_PAIRS else "",
        )
