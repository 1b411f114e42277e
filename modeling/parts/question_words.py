"""The words of a model's training questions, by which it notices a question that is unlike all of them.

`benchmarks.far_questions` compares the rule with others.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import datasets

from modeling.parts.model_files import ModelFiles
from processing.errors import UserError
from processing.row_values import BATCH
from processing.storage import write_atomically
from processing.wordings import training_wordings

QUESTION_WORDS_FILE = "question_words.json"
LETTERS = 5  # of a word that count, so that "abdominal" is as known as "abdomen"
LEAST_SOURCES = 3  # patients, studies or images, so that the words of one patient's questions are not kept
UNKNOWN_SHARE = 0.5  # of a question's words, from which it is unlike the training's
MAX_OWN_SHARE = 0.1  # of the training's own questions that would be unlike it, where its words say too little
MAX_REWORDED = 20_000  # different questions whose other wordings count too, the first ones
WORD = re.compile(r"[\u2e80-\u9fff]|[^\W_\u2e80-\u9fff]+")  # a character of Chinese or Japanese, or a whole word
COMMON_WORDS = frozenset(  # of any question in English, whatever it is about
    """a about all also am an and any are as at be been being but by can could did do does for from had has have he
    her here him his how i if in into is it its may me more most much my no not of on one or our out please she should
    so some such tell than that the their them then there these they this those to too us was we were what when where
    which who whose why will with would yes you your""".split()  # noqa: SIM905  # as a list, each has its own line
)


@dataclass(frozen=True)
class QuestionWords:
    """The words that a model's training questions have.

    Args:
        words: the first `LETTERS` letters of each, in lower case, without `COMMON_WORDS` and numbers.
    """

    words: frozenset[str]

    def are_unlike(self, question: str) -> bool:
        """Whether at least `UNKNOWN_SHARE` of a question's words are in no training question."""
        asked = content_words(question)
        unknown = sum(word not in self.words for word in asked)
        return unknown > 0 and unknown >= UNKNOWN_SHARE * len(asked)

    def save(self, folder: str | Path) -> None:
        """Writes them into a model's folder."""
        text = json.dumps({"words": sorted(self.words)}, indent=0, ensure_ascii=False)
        write_atomically(Path(folder) / QUESTION_WORDS_FILE, text + "\n")

    @classmethod
    def from_pretrained(cls, files: ModelFiles) -> "QuestionWords | None":
        """Those of a model's files, None where they have none.

        Raises:
            UserError: the file is damaged.
        """
        content = files.read_json(QUESTION_WORDS_FILE)
        if content is None:
            return None
        words = content.get("words")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(f"{files.name}: its {QUESTION_WORDS_FILE} is damaged; save or download the model again.")
        return cls(frozenset(words))


def content_words(question: str) -> list[str]:
    """What `QuestionWords` has of the words of a question, in their order."""
    words = WORD.findall(question.lower())
    return [word[:LETTERS] for word in words if word not in COMMON_WORDS and not word.isdecimal()]


def words_of(rows: datasets.Dataset) -> QuestionWords | None:
    """The words of training questions, without those of the questions of one or two patients.

    A word counts if it is in the questions about at least `LEAST_SOURCES` patients or studies (`group`), or images
    where the data does not name these. The wordings that training may use instead of a question count as the question,
    also for a run that did not use them: in other words, a question is still about what the training asked.

    Args:
        rows: of the training, with `question`, `image` and `group`.

    Returns:
        None where more than `MAX_OWN_SHARE` of the rows' own questions would be unlike these words.
    """
    of_question: dict[str, set[str]] = {}
    sources: dict[str, set[str]] = defaultdict(set)
    kept: set[str] = set()
    for batch in rows.select_columns(["question", "group", "image"]).iter(BATCH):
        for question, group, image in zip(*batch.values(), strict=True):
            words = of_question.get(question)
            if words is None:
                words = set(content_words(question))
                if len(of_question) < MAX_REWORDED:
                    words.update(*map(content_words, training_wordings(question)))
                    of_question[question] = words
            for word in words - kept:
                sources[word].add(group or image)
                if len(sources[word]) == LEAST_SOURCES:
                    kept.add(word)
    found = QuestionWords(frozenset(kept))
    batches = rows.select_columns(["question"]).iter(BATCH)
    unlike = sum(found.are_unlike(question) for batch in batches for question in batch["question"])
    return found if unlike <= MAX_OWN_SHARE * len(rows) else None


def write_question_words(rows: datasets.Dataset, folder: str | Path) -> None:
    """Writes the words of training questions beside a model, also beside a merged one in `folder/merged`.

    Where `words_of` finds too few, no file is left. The rows are as for `words_of`.
    """
    found = words_of(rows)
    for place in (Path(folder), Path(folder) / "merged"):
        if found is not None and place.is_dir():
            found.save(place)
        else:
            (place / QUESTION_WORDS_FILE).unlink(missing_ok=True)
