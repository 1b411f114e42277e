"""When two answers are the same answer."""

import re
import unicodedata

ARTICLES = ("a", "an", "the")
END_MARKS = ".,;:!?…。，、；：！？．"  # noqa: RUF001
QUOTES = "\"'`“”‘’„«»「」『』"  # noqa: RUF001

# A hyphen between letters (x-ray) is spelling; any other one is a minus or a range.
SIGNS = re.compile(r"[+<>=±≤≥≠%‰°/*^~$#]|(?<=\d)['\"]|(?<![^\W\d_])[-−–]|[-−–](?![^\W\d_])|[.,:](?=\d)")  # noqa: RUF001


def answer_identity(answer: str) -> str:
    """What two answers share exactly if they are the same answer.

    Case, white space, the form of Unicode, articles before a word, punctuation at the end and quotes around the answer
    do not count. Everything else does: signs, decimal points, comparison marks, `%`, `/`, brackets and digits. The
    normalisation of SQuAD, which makes `HER2+` and `HER2-` equal, is for scores only. An answer of nothing but
    punctuation stays as it is.
    """
    text = " ".join(unicodedata.normalize("NFC", answer).lower().split())
    words = _without_end_marks(text).split()
    kept = [word for i, word in enumerate(words) if not _is_article(words, i)]
    return " ".join(kept) or text


def same_signs(one: str, other: str) -> bool:
    """Whether two answers have the same signs in the same order: `+`, `-`, `<`, `%`, `/`, decimal points and the like.

    Exact Match ignores them, so it needs this to tell `HER2+` from `HER2-`. Answers of one `answer_identity` have the
    same signs.
    """
    return _signs(one) == _signs(other)


def _signs(answer: str) -> list[str]:
    return SIGNS.findall(unicodedata.normalize("NFKC", answer_identity(answer)))


def _is_article(words: list[str], i: int) -> bool:
    """Whether a word is an article before another word.

    The letter of `hepatitis A` and of `vitamin A deficiency` is none, so `a` counts at the beginning alone.
    """
    word, after = words[i], words[i + 1 : i + 2]
    return word in ARTICLES and (word != "a" or i == 0) and bool(after) and after[0][0].isalnum()


def _without_end_marks(text: str) -> str:
    """The text without quotes around it and punctuation at its end; the mark of 5" or of A' is no such quote."""
    while True:
        shorter = text.rstrip(END_MARKS + " ")
        if len(shorter) > 1 and shorter[0] in QUOTES and shorter[-1] in QUOTES:
            shorter = shorter[1:-1]
        if shorter == text:
            return text
        text = shorter
