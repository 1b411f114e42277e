"""When two answers are the same answer."""

import re
import unicodedata

ARTICLES = ("a", "an", "the")
END_MARKS = ".,;:!?…。，、；：！？．"  # noqa: RUF001
QUOTES = "\"'`“”‘’„«»「」『』"  # noqa: RUF001

SAME_LOOK = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0xB5: 0x3BC, 0x2010: 0x2D, 0x2011: 0x2D}
# A hyphen in a word (x-ray) is spelling; any other one, also between letters or Roman numbers (I-II), is a sign.
ALONE = re.compile(r"(?<![^\W\d_])([ivx]+|[a-z])[-−–](?=(?:[ivx]+|[a-z])(?![^\W\d_]))")  # noqa: RUF001
SIGNS = re.compile(
    r"[+<>=±≤≥≠%‰°/*^~$#]|(?<=\d)['\"]"
    r"|(?<![^\W\d_])[-−–]|[-−–](?![^\W\d_])"  # noqa: RUF001
    r"|[.,:](?=\d)|(?<=\w)[;&|_@\\,](?=\w)"
)


def answer_identity(answer: str) -> str:
    """What two answers share exactly if they are the same answer.

    Case, white space, invisible characters, the form of Unicode, the width of a sign, articles before a word,
    punctuation at the end and quotes around the answer do not count. Everything else does: signs, decimal points,
    comparison marks, `%`, `/`, brackets and digits. The normalisation of SQuAD, which makes `HER2+` and `HER2-` equal,
    is for scores only. An answer of nothing but punctuation stays as it is.
    """
    plain = "".join(char for char in answer.translate(SAME_LOOK) if unicodedata.category(char) != "Cf")
    text = " ".join(unicodedata.normalize("NFC", plain).lower().split())
    words = _without_end_marks(text).split()
    kept = [word for i, word in enumerate(words) if not _is_article(words, i)]
    return " ".join(kept) or text


def same_signs(one: str, other: str) -> bool:
    """Whether two answers have the same signs at the same places: `+`, `-`, `<`, `%`, decimal points and the like.

    Exact Match ignores them, so it needs this to tell `HER2+` from `HER2-`. Answers of one `answer_identity` have the
    same signs.
    """
    return _signs(one) == _signs(other)


def _signs(answer: str) -> list[tuple[str, int]]:
    """Each sign with the number of letters and digits before it."""
    text = ALONE.sub(r"\1 - ", unicodedata.normalize("NFKC", answer_identity(answer)))
    return [(match[0], sum(map(str.isalnum, text[: match.start()]))) for match in SIGNS.finditer(text)]


def _is_article(words: list[str], i: int) -> bool:
    """Whether a word is an article before another word.

    The letter of `hepatitis A` and of `vitamin A deficiency` is none, so `a` counts at the beginning alone, and not in
    `A B` and the blood group `A positive`.
    """
    word, after = words[i], words[i + 1 : i + 2]
    if word == "a" and (i > 0 or (len(words) == 2 and (len(words[1]) == 1 or words[1] in ("positive", "negative")))):
        return False
    return word in ARTICLES and bool(after) and after[0][0].isalnum()


def _without_end_marks(text: str) -> str:
    """The text without quotes around it and punctuation at its end; the mark of 5" or of A' is no such quote."""
    while True:
        shorter = text.rstrip(END_MARKS + " ")
        if len(shorter) > 1 and shorter[0] in QUOTES and shorter[-1] in QUOTES:
            shorter = shorter[1:-1]
        if shorter == text:
            return text
        text = shorter
