"""Exact Match and F1 of Chinese answers, by characters, as CMRC 2018 defines them.

Source: Cui et al. 2019, "A Span-Extraction Dataset for Chinese Machine Reading Comprehension",
https://arxiv.org/abs/1810.07366, and the behaviour of its evaluation script.
"""

import re

PUNCTUATION = "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"  # noqa: RUF001
_TOKEN = re.compile(r"[\u4e00-\u9fa5]|[^\s\u4e00-\u9fa5]+")  # a Chinese character, or a run of anything else
_NO_PUNCTUATION = str.maketrans("", "", PUNCTUATION)


def exact_score(prediction: str, gold: str) -> float:
    """1.0 where both answers are the same in lower case and without punctuation, else 0.0."""
    return float(_plain(prediction) == _plain(gold))


def f1_score(prediction: str, gold: str) -> float:
    """F1 of the longest run of characters that both answers share, 0 to 1; a word of another script counts as one.

    With a run of c, P = c / |prediction|, R = c / |gold|: F1 = 2 P R / (P + R). If either answer holds nothing but
    punctuation, F1 is 1 where both do and 0 otherwise, as in SQuAD v2: CMRC has no questions without an answer.
    """
    one, other = _TOKEN.findall(_plain(prediction)), _TOKEN.findall(_plain(gold))
    if not one or not other:
        return float(one == other)
    common = _common(one, other)
    return 2 * common / (len(one) + len(other)) if common else 0.0


def _plain(text: str) -> str:
    return text.lower().strip().translate(_NO_PUNCTUATION)


def _common(one: list[str], other: list[str]) -> int:
    """The length of the longest run that both share."""
    best, row = 0, [0] * (len(other) + 1)
    for token in one:
        row = [0] + [row[i] + 1 if token == part else 0 for i, part in enumerate(other)]
        best = max(best, *row)
    return best
