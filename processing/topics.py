"""Things to ask about an image, in SLAKE's wordings."""

from typing import NamedTuple


class Topic(NamedTuple):
    """One thing to ask about an image, with its answer.

    Attributes:
        kind: what it is about.
        wordings: questions that all ask it.
        answer: as the data set spells it.
        closed: the question names its possible answers.
    """

    kind: str
    wordings: tuple[str, ...]
    answer: str
    closed: bool = False


def what(kind: str, answer: str, *wordings: str) -> Topic:
    """A topic whose questions leave the answer open."""
    return Topic(kind, wordings, answer)


def which(kind: str, answer: str, *wordings: str) -> Topic:
    """A topic whose questions name the possible answers, which SLAKE calls closed."""
    return Topic(kind, wordings, answer, closed=True)


def yes_no(kind: str, truth: bool, *wordings: str) -> Topic:
    """A closed topic whose answer is Yes where `truth` holds, else No."""
    return which(kind, "Yes" if truth else "No", *wordings)
