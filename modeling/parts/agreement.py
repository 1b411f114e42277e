"""Does what a model finds in an image contradict its answer?"""

from collections.abc import Mapping

from modeling.parts.evidence import FOUND
from processing.boxes import named_labels
from processing.wordings import meaning

PRESENCE = {"organ there", "finding there", "finding at a place"}  # groups of questions whether something is there


def contradicts(question: str, answer: str, found: Mapping[str, float]) -> bool:
    """Whether the answer names something that is not found, or denies something that is.

    "Yes" and "no" count where the question asks whether something is there. Names that stand for several labels, as
    "lung" for both, count as found where one of them is.

    Args:
        question: of any wording.
        answer: to it.
        found: the probability of each label of the data in the image, 0 to 1.
    """
    asks, said = meaning(question), answer.strip().lower()
    if said in ("yes", "no"):
        if asks is None or asks.group not in PRESENCE:
            return False
        named = _named(" ".join(value for _, value in asks.slots), found)
        return bool(named) and (max(named) >= FOUND) != (said == "yes")
    named = _named(answer, found)
    return bool(named) and max(named) < FOUND


def _named(text: str, found: Mapping[str, float]) -> list[float]:
    """The probabilities of the labels that a text names."""
    by_label = {label.lower(): probability for label, probability in found.items()}
    return [by_label[label] for label in named_labels(text, [{"label": label} for label in found])]
