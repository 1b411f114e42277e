"""The options of a question with choices in one form: texts without their letters, the right one as the answer."""

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from processing.answers import SAME_LOOK, answer_identity
from processing.errors import quoted
from processing.problems import Problem
from processing.sources.rows import Row
from processing.sources.values import text_of

LONGEST_QUESTION = 4_000  # characters that are searched for options
MARKS = ").:、"  # behind a letter; full width signs count as their narrow ones
LETTER = re.compile(rf"\s*\(?\s*([A-Za-z])\s*[{MARKS}]{{1,2}}\s*")
LETTER_ALONE = re.compile(rf"\s*\(?\s*([A-Za-z])\s*[{MARKS}]{{0,2}}\s*")
# The styles of letters in a question, one of which all its options have.
STYLES = [re.compile(rf"(?<![A-Za-z0-9.(]){style}\s*") for style in (r"\(([A-Z])\)", r"([A-Z])\)", r"([A-Z]):")]
DOTTED_STYLES = [re.compile(rf"(?<![A-Za-z0-9.(]){style}\s*") for style in (r"([A-Z])\.", r"([A-Z])、")]
TITLE = re.compile(r"(?<=[?.。\n])\s*(?:answer\s+)?(?:options|choices|选项)\s*:\s*$", re.IGNORECASE)
INSTRUCTION = re.compile(
    r"\s(?:please\s+)?(?:answer|choose|select|respond|reply)\s+(?:with|using|by|from|one|the)\b[^?]*$", re.IGNORECASE
)
CONNECTED = re.compile(r"(?:or|and|vs|versus)\b|.*\s(?:or|and|vs|versus)[\s.,;]*$", re.IGNORECASE)
NO_RIGHT_OPTION = (
    "it can't be told which option is right; write the letter of one into answer_label, or its text into answer"
)


class _Found(NamedTuple):
    """Options that stand in a question.

    Attributes:
        question: what stands before them.
        options: their texts, by their letters from A on.
    """

    question: str
    options: list[str]


def read_choices(row: Row) -> Problem | None:
    """Brings the options of a row into one form, in place; rows without options stay as they are.

    `choices` become the distinct texts of the options without their letters. `answer` becomes the text of the right
    one, and `answer_label` its letter by its place among `choices`. Several `answers` become the texts of the options
    that they name. A row without `choices` whose question names its options gets them from there, and its question
    ends before them.

    The right option is the one that `answer_label` names; where that names none, the one whose text is the answer;
    where there is none, the one whose letter is the answer. Options that are the same answer
    (`processing.answers.answer_identity`) count once, and empty ones not at all. A row with fewer than two options is
    one without: its answer stays as it is. So is a row without an answer, as none of its options is right.

    Args:
        row: raw, with `question` and `answer`; `choices` are texts.

    Returns:
        The problem of a row with `choices` of which the right one can't be told.
    """
    question, written, label = row["question"], row.pop("choices", None), row.pop("answer_label", None)
    if isinstance(row["answer"], bool) or not isinstance(row["answer"], str | int | float | None):
        return None  # which is told as a problem of the answer
    answer = " ".join((text_of(row["answer"]) or "").split())
    if not written:
        found = _in_question(question, answer) if isinstance(question, str) else None
        if found is not None:
            row["question"] = found.question
            _set_choices(row, found.options, _named(answer, found.options))
        return None
    if len(written) == 1 and (found := _in_question(f"?\n{written[0]}", answer)):
        written = found.options
    texts = _without_letters(written)
    if len(_distinct(texts)) < 2 or not (answer or _letter(label)):
        return None
    row |= {"choices": written, "answer_label": label}  # which the list of bad rows shows
    by_label, by_answer = _of_letter(_letter(label), texts), _named(answer, texts)
    if _letter(label) and by_label is None:
        detail = f"answer_label {quoted(label)} names none of the options {_list(texts)}"
        return Problem(NO_RIGHT_OPTION, detail)
    if by_label is not None and by_answer is not None and not _same(texts[by_label], texts[by_answer]):
        return Problem(NO_RIGHT_OPTION, f"answer_label {quoted(label)}, but answer {quoted(answer)}")
    right = by_answer if by_label is None else by_label
    if right is None:
        return Problem(NO_RIGHT_OPTION, f"answer {quoted(answer)} is none of the options {_list(texts)}")
    _set_choices(row, texts, right)
    return None


def option_texts(options: Sequence[str]) -> list[str]:
    """The distinct texts of options without the letters in front of them; empty ones are left out."""
    return _distinct(_without_letters(options))


def letter_of(place: int) -> str:
    """The letter of the option at a place, 0 the first; its number beyond Z."""
    return ascii_uppercase[place] if place < len(ascii_uppercase) else str(place + 1)


def _set_choices(row: Row, texts: Sequence[str], right: int | None) -> None:
    """Writes options into a row, the right one of which is known by its place."""
    if right is None:
        return
    options = _distinct(texts)
    place = next(i for i, option in enumerate(options) if _same(option, texts[right]))
    row |= {"choices": options, "answer": options[place], "answer_label": letter_of(place)}
    if row.get("answers"):
        named = [_named(" ".join(gold.split()), texts) for gold in row["answers"]]
        row["answers"] = [next(o for o in options if _same(o, texts[i])) for i in named if i is not None]


def _without_letters(written: Sequence[str]) -> list[str]:
    """The texts of options; letters go where each option that is not empty begins with its own.

    An option such as `C. difficile` has no letter of its own.
    """
    texts = [" ".join(text.split()) for text in written]
    matches = [LETTER.match(text.translate(SAME_LOOK)) for text in texts]
    own = [match is not None and match[1].upper() == letter_of(i) for i, match in enumerate(matches)]
    if sum(own) < 2 or not all(is_own or not text for is_own, text in zip(own, texts, strict=True)):
        return texts
    return [text[match.end() :] if match else text for text, match in zip(texts, matches, strict=True)]


def _distinct(texts: Sequence[str]) -> list[str]:
    """The texts that are not empty, without those that are the same answer as an earlier one."""
    return list({answer_identity(text): text for text in reversed(texts) if text}.values())[::-1]


def _same(one: str, other: str) -> bool:
    return answer_identity(one) == answer_identity(other)


def _letter(label: Any) -> str | None:
    """The letter that a label is, such as `b`, `(B)` and `B.`; None where it is none."""
    match = LETTER_ALONE.fullmatch(" ".join(label.translate(SAME_LOOK).split())) if isinstance(label, str) else None
    return match[1].upper() if match else None


def _of_letter(letter: str | None, texts: Sequence[str]) -> int | None:
    """The place of the option of a letter; None where there is none, or it is empty."""
    place = ascii_uppercase.index(letter) if letter else len(texts)
    return place if place < len(texts) and texts[place] else None


def _named(answer: str, texts: Sequence[str]) -> int | None:
    """The place of the option that an answer names by its text, by its letter and text, or by its letter."""
    match = LETTER.match(answer.translate(SAME_LOOK))
    with_letter = _of_letter(match[1].upper(), texts) if match else None
    for place, text in enumerate(texts):
        if text and _same(answer, text):
            return place
    if match and with_letter is not None and _same(answer[match.end() :], texts[with_letter]):
        return with_letter
    return _of_letter(_letter(answer), texts)


def _list(texts: Sequence[str]) -> str:
    return ", ".join(quoted(text) for text in texts if text)


def _in_question(question: str, answer: str) -> _Found | None:
    """The options that a question names at its end, where the answer is one of them.

    They are capital letters of one style, A first and none left out, each with a text behind it. Either each of them
    begins a line, or what stands before A ends like a question or is a title such as "Options:". An instruction behind
    them ("Answer with the letter.") goes too. Anything less certain is no list of options.
    """
    if len(question) > LONGEST_QUESTION:
        return None
    same_look = question.translate(SAME_LOOK)
    for style in (*STYLES, *DOTTED_STYLES):
        marks = list(style.finditer(same_look))
        for i, mark in enumerate(marks):
            chain = _chain(marks[i:]) if mark[1] == "A" else []
            if len(chain) < 2:
                continue
            found = _cut(question, same_look, chain, is_dotted=style in DOTTED_STYLES)
            if found is not None and _named(answer, found.options) is not None:
                return found
    return None


def _chain(marks: Sequence[re.Match]) -> list[re.Match]:
    """Marks of the letters A, B, C and so on, as far as they come in this order; other letters are text."""
    chain: list[re.Match] = []
    for mark in marks:
        if len(chain) < len(ascii_uppercase) and mark[1] == ascii_uppercase[len(chain)]:
            chain.append(mark)
    return chain


def _cut(question: str, same_look: str, chain: Sequence[re.Match], *, is_dotted: bool) -> _Found | None:
    """The question before a chain of marks and the texts behind each; None where they are no list of options."""
    ends = [*(mark.start() for mark in chain[1:]), len(same_look)]
    parts = [question[mark.end() : end] for mark, end in zip(chain, ends, strict=True)]
    parts[-1] = INSTRUCTION.sub("", parts[-1])
    in_lines = all("\n" in same_look[max(0, mark.start() - 2) : mark.start()].replace(" ", "") for mark in chain)
    if in_lines and any("\n" in part.strip() for part in parts):
        return None  # the question goes on behind them
    before = question[: chain[0].start()].rstrip()
    stem = TITLE.sub("", before.translate(SAME_LOOK)).rstrip()
    has_title = len(stem) < len(before)
    before = before[: len(stem)]
    ends_sentence = stem.endswith(("?", "。") if is_dotted else ("?", ".", "。"))
    if not stem or not (in_lines or has_title or ends_sentence):
        return None
    options = [" ".join(part.split()).rstrip(" ,;.，、；。") for part in parts]  # noqa: RUF001
    if any(not re.search(r"\w", text) or CONNECTED.match(text) or text.endswith(("?", "？")) for text in options):  # noqa: RUF001
        return None
    return None if len(_distinct(options)) < 2 else _Found(before, options)
