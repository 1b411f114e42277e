"""Exact Match and F1 of Chinese answers, by characters, as CMRC 2018 defines them.

Source: Cui et al. 2019, "A Span-Extraction Dataset for Chinese Machine Reading Comprehension",
https://arxiv.org/abs/1810.07366, and the behaviour of its evaluation script.
"""

import re

PUNCTUATION = "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"  # noqa: RUF001
_TOKEN = re.compile(r"[\u4e00-\u9fa5]|[^\s\u4e00-\u9fa5]+")  # a Chinese character, or a run of anything else
_NO_PUNCTUATION = str.maketrans("", "", PUNCTUATION)


def normalize_answer(text: str) -> str:
    """Lowers the case and drops punctuation, signs among it."""
    return text.lower().strip().translate(_NO_PUNCTUATION)


def exact_score(prediction: str, gold: str) -> float:
    """1.0 where both answers are the same in lower case and without punctuation, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(gold))


def f1_score(prediction: str, gold: str) -> float:
    """F1 of the longest run of characters that both answers share, 0 to 1.

    A word of another script counts as one character. With a run of c, P = c / |prediction| and R = c / |gold|:
    F1 = 2 P R / (P + R). CMRC has no questions without an answer, so an answer of nothing but punctuation follows
    SQuAD v2: F1 is 1 where both answers are such and 0 otherwise.
    """
    predicted, expected = _TOKEN.findall(normalize_answer(prediction)), _TOKEN.findall(normalize_answer(gold))
    if not predicted or not expected:
        return float(predicted == expected)
    common = _longest_common_run(predicted, expected)
    return 2 * common / (len(predicted) + len(expected)) if common else 0.0


def _longest_common_run(one: list[str], other: list[str]) -> int:
    """The length of the longest run of tokens in both, by dynamic programming."""
    longest, ending_here = 0, [0] * (len(other) + 1)  # of the runs that end at a pair of tokens
    for token in one:
        ending_here = [0] + [ending_here[i] + 1 if token == part else 0 for i, part in enumerate(other)]
        longest = max(longest, *ending_here)
    return longest
