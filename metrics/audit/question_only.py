"""What answers are worth that never look at the image: the question alone, by counts and by a small text classifier.

The classifier is a multinomial logistic regression over the words and the pairs of words of a question, with an L2
penalty, fitted by L-BFGS. Its penalty is chosen on training images that are held back.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import logsumexp

from metrics.audit.findings import usual_spelling
from metrics.audit.table import Table
from metrics.intervals import mean_with_interval
from metrics.vqa import all_scores, majority_answers, most_frequent_answer
from processing.splits import TRAIN

WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")  # Chinese has no spaces, so each character is a word
PENALTIES = (3.0, 1.0, 0.3)  # of the squared weights, against the sum over rows of the log loss; strongest first
USUAL_PENALTY = 1.0  # where there are too few images to choose by
MIN_IMAGES = 10  # of which some are held back
HELD_BACK = 0.1  # of the training images
MAX_ANSWERS = 1_000  # the most frequent ones; the classifier gives no other
MAX_QUESTIONS = 20_000  # different ones that it is fitted to, drawn at random where there are more
MIN_QUESTIONS = 2  # different ones that have a word or pair which counts
MAX_WEIGHTS = 500_000  # words and pairs times answers; the most frequent words and pairs are kept
ITERATIONS = 30  # of L-BFGS, a fit
Words = tuple[str, ...]


def question_alone(table: Table, split: int, seed: int = 0) -> list[dict[str, Any]]:
    """Figures of answers to the questions of a split, made of training rows without their images.

    Args:
        table: with training rows.
        split: to answer.
        seed: of what is drawn at random.

    Returns:
        An entry for each way to answer: its `name`, and `figures` of `all`, `open` and `closed` questions, as far as
        there are any: `n`, and `exact_match` and `f1` as of `metrics.intervals.mean_with_interval`.
    """
    train, numbers = table.of_split(TRAIN), table.of_split(split)
    train_rows, rows = ([table.rows[i] for i in chosen.tolist()] for chosen in (train, numbers))
    answers = {
        "most frequent answer": [most_frequent_answer(train_rows)] * len(rows),
        "most frequent answer to the same question": majority_answers(train_rows, rows),
        "text-only classifier": text_only_answers(
            [row["question"] for row in train_rows],
            [row["answer"] for row in train_rows],
            [table.answers[i][0] for i in train.tolist()],
            table.image[train],
            [row["question"] for row in rows],
            seed,
        ),
    }
    images = [str(image) for image in table.image[numbers]]
    return [{"name": name, "figures": _figures(rows, texts, images)} for name, texts in answers.items()]


def _figures(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str], images: Sequence[str]
) -> dict[str, dict[str, Any]]:
    scores, found = 100 * all_scores(rows, texts)[:, :2], {}
    for name, answer_type in (("all", None), ("open", "OPEN"), ("closed", "CLOSED")):
        chosen = [i for i, row in enumerate(rows) if answer_type in (None, row["answer_type"])]
        if chosen:
            exact_match, f1 = (mean_with_interval(scores[chosen, k], [images[i] for i in chosen]) for k in (0, 1))
            found[name] = {"n": len(chosen), "exact_match": exact_match, "f1": f1}
    return found


def text_only_answers(
    questions: Sequence[str],
    answers: Sequence[str],
    identities: Sequence[str],
    images: np.ndarray,
    asked: Sequence[str],
    seed: int = 0,
) -> list[str]:
    """The answers of the text-only classifier.

    Args:
        questions, answers, identities, images: of the N training rows; an answer is a class by its identity.
        asked: the questions to answer.
        seed: of the images that are held back, and of the questions to fit where there are too many.
    """
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for text, identity in zip(answers, identities, strict=True):
        spellings[identity][text] += 1
    common = sorted(spellings, key=lambda identity: (-spellings[identity].total(), identity))[:MAX_ANSWERS]
    number_of = {identity: number for number, identity in enumerate(common)}
    classes = np.array([number_of.get(identity, -1) for identity in identities])
    words = [_words(question) for question in questions]
    model = _TextClassifier(words, classes, len(common), seed)
    everything, penalty = np.ones(len(questions), dtype=bool), USUAL_PENALTY
    distinct = np.unique(images)
    if len(distinct) >= MIN_IMAGES:
        drawn = np.random.default_rng(seed).permutation(distinct)[: max(1, round(HELD_BACK * len(distinct)))]
        held_back = np.isin(images, drawn)
        judged = [words[i] for i in np.flatnonzero(held_back)]
        right = []
        for each in PENALTIES:
            model.fit(~held_back, each)
            right.append((model.predict(judged) == classes[held_back]).sum())
        penalty = PENALTIES[int(np.argmax(right))]
    model.fit(everything, penalty)
    return [usual_spelling(spellings[common[number]]) for number in model.predict([_words(text) for text in asked])]


def _words(question: str) -> Words:
    """The words of a question and each two beside each other, each once."""
    words = WORD.findall(question.casefold())
    return tuple(dict.fromkeys([*words, *map(" ".join, zip(["<", *words], [*words, ">"], strict=True))]))


class _TextClassifier:
    """The classifier; each fit starts from the weights of the one before.

    Args:
        texts, classes: of the N training rows; rows of class -1 are never fitted.
        num_classes: how many classes there are.
        seed: of the different texts that are used where there are too many.
    """

    def __init__(self, texts: Sequence[Words], classes: np.ndarray, num_classes: int, seed: int) -> None:
        distinct = list(dict.fromkeys(texts))
        if len(distinct) > MAX_QUESTIONS:
            drawn = np.random.default_rng(seed).choice(len(distinct), MAX_QUESTIONS, replace=False)
            distinct = [distinct[i] for i in np.sort(drawn)]
        place = {text: i for i, text in enumerate(distinct)}
        self._text = np.array([place.get(text, -1) for text in texts])
        self._classes = classes
        frequency = Counter(word for text in distinct for word in text)
        common = [word for word, count in frequency.most_common(MAX_WEIGHTS // num_classes) if count >= MIN_QUESTIONS]
        self._features = {word: i for i, word in enumerate(common)}
        self._inputs = self._as_matrix(distinct)
        self._weights = np.zeros((self._inputs.shape[1], num_classes))

    def fit(self, rows: np.ndarray, penalty: float) -> None:
        """Fits the rows of a mask ``(N,)``.

        Rows of one text are counted together, which changes nothing in the log loss and saves most of the time.
        """
        rows = rows & (self._text >= 0) & (self._classes >= 0)
        inputs, shape = self._inputs, self._weights.shape
        counts = np.zeros((inputs.shape[0], shape[1]))
        np.add.at(counts, (self._text[rows], self._classes[rows]), 1)
        totals, expected = counts.sum(axis=1), inputs.T @ counts

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat.reshape(shape)
            scores = inputs @ weights
            log_sums = logsumexp(scores, axis=1)
            probabilities = np.exp(scores - log_sums[:, None])
            value = totals @ log_sums - (expected * weights).sum() + penalty / 2 * (weights**2).sum()
            gradient = inputs.T @ (probabilities * totals[:, None]) - expected + penalty * weights
            return value, gradient.ravel()

        options = {"maxiter": ITERATIONS}
        found = minimize(loss, self._weights.ravel(), jac=True, method="L-BFGS-B", options=options)
        self._weights = found.x.reshape(shape)

    def predict(self, texts: Sequence[Words]) -> np.ndarray:
        """The likeliest class of each text."""
        return (self._as_matrix(texts) @ self._weights).argmax(axis=1)

    def _as_matrix(self, texts: Sequence[Words]) -> csr_array:
        """1 where a text has a word, and 1 for every text, ``(texts, features + 1)``."""
        known = self._features
        entries = [[known[word] for word in text if word in known] + [len(known)] for text in texts]
        starts = np.cumsum([0, *map(len, entries)])
        columns = np.array([column for entry in entries for column in entry], dtype=np.int64)
        return csr_array((np.ones(len(columns)), columns, starts), shape=(len(texts), len(known) + 1))
