"""The answers that a classifier chooses among."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from processing.answers import answer_identity


def build_vocabulary(answers: Iterable[str]) -> list[str]:
    """The distinct answers, sorted. Answers of one identity (`processing.answers`) are one, in its most frequent
    spelling (of equally frequent ones the first in the alphabet)."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for answer in answers:
        spellings[answer_identity(answer)][answer] += 1
    return sorted(min(counts, key=lambda answer: (-counts[answer], answer)) for counts in spellings.values())


def labels_of(answers: Iterable[str], label2id: dict[str, int]) -> dict[str, int]:
    """The label id of each given answer that is in the vocabulary."""
    ids = {answer_identity(label): i for label, i in label2id.items()}
    return {answer: ids[key] for answer in set(answers) if (key := answer_identity(answer)) in ids}
