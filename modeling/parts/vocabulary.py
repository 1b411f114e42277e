"""The answers that a classifier chooses among."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from processing.answers import answer_identity


def build_vocabulary(counts: Mapping[str, int]) -> list[str]:
    """The distinct answers, sorted.

    Answers of one identity (`processing.answers`) are one, in its most frequent spelling. Of equally frequent ones it
    is the first in the alphabet.

    Args:
        counts: how many rows have each answer.
    """
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for answer, count in counts.items():
        spellings[answer_identity(answer)][answer] += count
    return sorted(min(counts, key=lambda answer: (-counts[answer], answer)) for counts in spellings.values())


def labels_of(answers: Iterable[str], label2id: dict[str, int]) -> dict[str, int]:
    """The label id of each given answer that is in the vocabulary."""
    ids = {answer_identity(label): i for label, i in label2id.items()}
    return {answer: ids[key] for answer in set(answers) if (key := answer_identity(answer)) in ids}
