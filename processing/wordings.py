"""Questions in other words: what a question asks, and the wordings that ask the same.

The tables in `wording_tables` group wordings. Of each group, `asked` wordings are those of SLAKE and a few more. New
ones are in two halves: `training` wordings may be trained on. `held_out` ones never are, so they show whether a model
understands words that it has not seen. Words for what fills a slot, such as an organ, are halved in the same way.
"""

import functools
import itertools
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

TABLES = Path(__file__).parent / "wording_tables"
ASKED, TRAINING, HELD_OUT = "asked", "training", "held_out"
PARTS = (ASKED, TRAINING, HELD_OUT)
PER_LINE = 8  # wordings of a line of the tables that a question without slots gets
MAX_WORDINGS = 12  # of a question with slots, as data sets have many of them
SYNONYM_SHARE = 0.5  # of values of slots that get other words
TERSE_SHARE = 0.2  # of training wordings that lose their filler words
FILLERS = {"a", "an", "are", "do", "does", "image", "in", "is", "it", "of", "picture", "the", "there", "this", "was"}
TYPED_SHARE = 0.3  # of training wordings that lose their capital letters, and of those that lose their question mark
TABLE_OF_SLOT = {"one": "organ", "other": "organ", "third": "organ", "doing": "do"}  # where it isn't named the same
OPEN_SLOTS = {"thing": r"\S.*\S"}  # filled by anything


class Meaning(NamedTuple):
    """What a question asks: its group of wordings, and what fills their slots, sorted by slot."""

    group: str
    slots: tuple[tuple[str, str], ...] = ()


class Line(NamedTuple):
    """A wording of the tables, slots and choices of words open, with the part of its group that it belongs to."""

    group: str
    part: str
    text: str


@functools.cache
def lines() -> tuple[Line, ...]:
    """All wordings of the tables."""
    return tuple(
        Line(group, part, text)
        for file in sorted(TABLES.glob("*.yaml"))
        if file.name != "synonyms.yaml"
        for group, parts in yaml.safe_load(file.read_text(encoding="utf-8")).items()
        for part in PARTS
        for text in parts[part].splitlines()
    )


@functools.cache
def groups() -> dict[str, dict[str, list[str]]]:
    """The texts of the lines by group and part."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in lines():
        found.setdefault(line.group, {part: [] for part in PARTS})[line.part].append(line.text)
    return found


@functools.cache
def synonyms() -> dict[str, dict[str, dict[str, Any]]]:
    """By table and value: the value's words by part, and `doing`, its form with -ing, for what organs do."""
    return yaml.safe_load((TABLES / "synonyms.yaml").read_text(encoding="utf-8"))


def key(question: str) -> str:
    """A question without case and punctuation."""
    return re.sub(r"\W+", " ", question.lower()).strip()


def is_short(line: str) -> bool:
    """Whether a line of the tables is a short form, as people type them: those have no mark at their end."""
    return not line.endswith(("?", "."))


def expansions(line: str) -> list[str]:
    """The wordings of a line of the tables, slots left open."""
    parts = [part.split("|") for part in re.split(r"\[(.*?)\]", line)]
    return list(dict.fromkeys(_tidy("".join(chosen)) for chosen in itertools.product(*parts)))


@functools.lru_cache(maxsize=2**16)
def meaning(question: str) -> Meaning | None:
    """What a question asks; None where no group has it."""
    own = re.sub(r"\s*,\s*", ", ", " ".join(question.lower().split())).rstrip(" ?.")
    for group, pattern in _patterns():
        if match := pattern.fullmatch(own):
            return Meaning(group, tuple(sorted(_value(*item) for item in match.groupdict().items())))
    return None


def word(line: str, slots: Mapping[str, str], part: str = ASKED, rng: random.Random | None = None) -> str:
    """A wording of a line of the tables, with its slots filled.

    Args:
        line: where it offers words to choose from, the first are taken, or random ones.
        slots: what fills them.
        part: the half whose other words for what fills the slots may be taken; of `ASKED`, none.
        rng: chooses the words.
    """
    chosen = rng.choice(expansions(line)) if rng else expansions(line)[0]

    def filled(match: re.Match[str]) -> str:
        slot = match[1]
        table = TABLE_OF_SLOT.get(slot, slot)
        value = slots[table if slot == "doing" else slot]
        side, own = _side_and_name(value) if table == "organ" else ("", value)
        known = synonyms().get(table, {}).get(own, {})
        if slot == "doing":
            return known["doing"]
        others = known.get(part, ()) if part != ASKED else ()
        return side + rng.choice(others) if rng and others and rng.random() < SYNONYM_SHARE else value

    text = re.sub(r"\{(\w+)\}", filled, chosen)
    text = re.sub(r"\b[aA]\(n\) (\w+)", lambda match: f"{_article(match[1])} {match[1]}", text)
    return text if is_short(line) else text[0].upper() + text[1:]


@functools.lru_cache(maxsize=2**16)
def training_wordings(question: str) -> tuple[str, ...]:
    """Other wordings of a question that may be trained on, as people type them; always the same ones.

    Some have no capital letters, no question mark or no filler words. A question that no group has changes in no
    other way.
    """
    rng = random.Random(question)
    asks = meaning(question)
    texts = [question]
    if asks:
        slots, of_group = dict(asks.slots), groups()[asks.group]
        new, asked = of_group[TRAINING], of_group[ASKED]
        if slots:
            chosen = rng.sample([*new, *asked], min(MAX_WORDINGS, len(new) + len(asked)))
            texts = [word(line, slots, TRAINING, rng) for line in chosen]
        else:
            texts = [text for line in (*new, *asked) for text in _some(expansions(line), PER_LINE, rng)]
    rng.shuffle(texts)
    typed = dict.fromkeys(_typed(text, rng) for text in texts)
    return tuple(text for text in typed if text != question)


def probe_wordings(question: str, part: str, limit: int) -> list[tuple[str, bool]]:
    """Other wordings of a question from one part of its group, and whether each is a short form.

    They are always the same ones for a question, and none where no group has it. Half of them are short forms, as far
    as there are so many.
    """
    asks = meaning(question)
    if not asks:
        return []
    rng = random.Random(f"{part} {question}")
    chosen = list(groups()[asks.group][part])
    rng.shuffle(chosen)
    made = [(word(line, dict(asks.slots), part, rng), is_short(line)) for line in chosen]
    other = [(text, short) for text, short in made if key(text) != key(question)]
    short = [one for one in other if one[1]][: limit // 2]
    return [one for one in other if not one[1]][: limit - len(short)] + short


@functools.cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Patterns of all wordings by group; of two that fit, the one with more words of its own comes first."""
    ordered = sorted(lines(), key=lambda line: len(re.sub(r"\{\w+\}", "", expansions(line.text)[-1])), reverse=True)
    return tuple((line.group, re.compile(_pattern(line.text))) for line in ordered)


def _pattern(line: str) -> str:
    """A line of the tables as a regular expression for questions in lower case without a mark at their end."""
    parts = re.split(r"(\[.*?\]|\{\w+\}|[aA]\(n\))", line.rstrip("?."))
    pattern = ""
    for part in parts:
        if part.startswith("["):
            words = [re.escape(words.lower()).replace(r"\ ", " ?") for words in part[1:-1].split("|")]
            pattern += f"(?:{'|'.join(words)})"
        elif part.startswith("{"):
            pattern += f"(?P<{part[1:-1]}>{_values(part[1:-1])})"
        else:
            pattern += "an?" if part.lower() == "a(n)" else re.escape(part.lower()).replace(r"\ ", " ?")
    return pattern  # spaces may be left out, as those beside an empty choice are


@functools.cache
def _values(slot: str) -> str:
    if slot in OPEN_SLOTS:
        return OPEN_SLOTS[slot]
    table = TABLE_OF_SLOT.get(slot, slot)
    known = synonyms()["organ"] | synonyms()["counted"] if table == "counted" else synonyms()[table]
    if slot == "doing":
        names = [value["doing"] for value in known.values()]
    else:
        names = [*known, *(name for value in known.values() for part in PARTS for name in value.get(part, ()))]
    longest_first = sorted({name.lower() for name in names}, key=len, reverse=True)
    return ("(?:(?:left|right) )?" if table == "organ" else "") + f"(?:{'|'.join(map(re.escape, longest_first))})"


@functools.cache
def names(table: str) -> dict[str, str]:
    """The values of a table by each of their names in lower case."""
    found: dict[str, str] = {}
    for value, words in synonyms()[table].items():
        for name in (value, *(name for part in PARTS for name in words.get(part, ())), words.get("doing", value)):
            found.setdefault(name.lower(), value)
    return found


def _value(slot: str, text: str) -> tuple[str, str]:
    """A slot and what fills it, in the words of SLAKE."""
    if slot in OPEN_SLOTS:
        return slot, text
    table = TABLE_OF_SLOT.get(slot, slot)
    own = "do" if slot == "doing" else slot
    if table == "counted" and text not in names("counted"):
        table = "organ"
    if table == "organ":
        side, name = _side_and_name(text)
        return own, side + names(table).get(name, name)
    return own, names(table)[text]


def _side_and_name(organ: str) -> tuple[str, str]:
    """The side of an organ with a space after it, empty where there is none, and its name without it."""
    side = next((side for side in ("left ", "right ") if organ.startswith(side)), "")
    return side, organ.removeprefix(side)


def _typed(text: str, rng: random.Random) -> str:
    """A question as people type it: some without filler words, capital letters or a mark at their end."""
    if rng.random() < TERSE_SHARE:
        content = [part for part in text.split() if part.lower().strip("?.,") not in FILLERS]
        text = " ".join(content) if len(content) > 1 else text
    lower, unmarked = rng.random() < TYPED_SHARE, rng.random() < TYPED_SHARE
    text = text.lower() if lower else text
    return text.rstrip(" ?.") if unmarked else text


def _some(values: list[str], number: int, rng: random.Random) -> list[str]:
    return values if len(values) <= number else rng.sample(values, number)


def _tidy(text: str) -> str:
    text = re.sub(r" +([?.,])", r"\1", re.sub(r" {2,}", " ", text)).strip()
    return re.sub(r"(\{\w+\}|\w),(?=\S)", r"\1, ", text)


def _article(word: str) -> str:
    return "an" if re.match(r"(?i)[aeio]|m[rs]|x|ultra", word) else "a"
