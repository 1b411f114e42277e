"""processing.wordings: what questions ask, and other words for them, of which one half is never trained on."""

import itertools
import re

import pytest

from processing.data import load_vqa_dataset
from processing.wordings import (
    ASKED,
    HELD_OUT,
    PARTS,
    TABLE_OF_SLOT,
    TRAINING,
    Meaning,
    expansions,
    groups,
    key,
    lines,
    meaning,
    probe_wordings,
    synonyms,
    training_wordings,
    word,
)

EMPTY_WORDS = {"a", "an", "n", "the", "is", "are", "of", "in", "it", "this", "here"}
# What fills the slots of a wording in tests.
VALUES = {
    "color": "gray",
    "counted": "kidneys",
    "do": "digest food",
    "edge": "leftmost",
    "finding": "pneumonia",
    "larger": "smaller",
    "largest": "biggest",
    "lobe": "brain lobe",
    "modality": "X-Ray",
    "one": "left lung",
    "organ": "colon",
    "other": "liver",
    "part": "pelvic cavity",
    "place": "upper left",
    "plane": "transverse",
    "side": "right",
    "system": "urinary system",
    "thing": "gray organ on the left",
    "third": "heart",
    "weighting": "T2",
}


def slots_of(text):
    return tuple(sorted({"do" if slot == "doing" else slot for slot in re.findall(r"{(\w+)}", text)}))


def content(text):
    """The words of a wording that say something, in their order."""
    return tuple(part for part in key(text.replace("{", "slot")).split() if part not in EMPTY_WORDS)


@pytest.mark.parametrize(
    ("question", "group", "slots"),
    [
        ("what  imaging modality was used ?", "modality", {}),
        ("How many existing kidneys in this image?", "number", {"counted": "kidneys"}),
        ("How many kinds of abnormalities are there in this image?", "kinds of abnormalities", {}),
        ("Is this a transverse plane?", "plane, yes or no", {"plane": "transverse"}),
        ("axial slice", "plane, yes or no", {"plane": "transverse"}),
        ("Is this a X-Ray?", "modality, yes or no", {"modality": "X-Ray"}),
        ("Does the picture contain small bowel?", "organ there", {"organ": "small bowel"}),
        ("Where is the large intestine?", "place of an organ", {"organ": "colon"}),
        ("Does the windpipe look normal", "organ healthy", {"organ": "trachea"}),
        ("Which is bigger,liver or left kidney?", "larger of two", {"one": "liver", "other": "left kidney"}),
        ("Are there organs in the picture that can store urine?", "what organs can do", {"do": "store urine"}),
        ("Can pneumonia be observed on the lower right lung in this picture?", "finding at a place", None),
    ],
)  # fmt: skip
def test_what_a_question_asks(question, group, slots):
    asks = meaning(question)
    assert asks.group == group
    assert slots is None or dict(asks.slots) == {**slots, **({"larger": "bigger"} if "one" in slots else {})}


@pytest.mark.parametrize("question", ["Is brain tumor white relative to other tissues?", "这是什么", "Is this?", ""])
def test_a_question_of_no_group_asks_nothing_known(question):
    assert meaning(question) is None
    assert probe_wordings(question, HELD_OUT, 4) == []


def test_every_wording_asks_what_its_group_asks():
    for line in lines():
        for text in expansions(line.text):
            slots = {name: VALUES[name] for name in slots_of(text)}
            question = word(text, slots)
            assert meaning(question) == Meaning(line.group, tuple(sorted(slots.items()))), question


def test_all_wordings_of_a_group_have_the_same_slots():
    for group, parts in groups().items():
        found = {slots_of(text) for part in PARTS for line in parts[part] for text in expansions(line)}
        assert len(found) == 1, group
        assert all(len(parts[part]) >= (1 if part == ASKED else 2) for part in PARTS), group


def test_no_held_out_wording_is_trained_on_even_without_its_empty_words():
    trained = {content(text) for line in lines() if line.part != HELD_OUT for text in expansions(line.text)}
    held_out = [text for line in lines() if line.part == HELD_OUT for text in expansions(line.text)]
    assert len(held_out) > 300
    assert [text for text in held_out if content(text) in trained] == []
    names = itertools.chain.from_iterable(table.values() for table in synonyms().values())
    for words in names:
        assert not set(map(key, words.get(TRAINING, ()))) & set(map(key, words.get(HELD_OUT, ())))


def test_training_wordings_ask_the_same_in_words_that_are_not_held_out():
    organs = {*synonyms()["organ"], *synonyms()["counted"]}
    held_out = {
        key(name)
        for table, values in synonyms().items()
        for value, words in values.items()
        for name in words.get(HELD_OUT, ())
        if table in ("organ", "finding") and name not in organs and value
    }
    for question in (
        "Does the picture contain colon?",
        "Where is the trachea?",
        "What is the main organ in the image?",
    ):
        found = training_wordings(question)
        assert len(found) > 6
        assert question not in found
        assert len(set(found)) == len(found)
        assert not [text for text in found if any(f" {name} " in f" {key(text)} " for name in held_out)]
    texts = [text for line in lines() if line.part == ASKED for text in training_wordings(word(line.text, VALUES))]
    assert any(text.endswith("?") for text in texts)
    assert any(text == text.lower() and not text.endswith("?") for text in texts)


def test_training_wordings_are_always_the_same_and_unknown_questions_lose_only_their_form():
    assert training_wordings("Is this an MRI?") == training_wordings.__wrapped__("Is this an MRI?")
    for question in ("Who took Fred's photograph?", "Why is Fred ill?", "Did Fred swallow a coin?"):
        kept = {"fred", "ill", "coin", "swallow", "photograph", "took"} & set(key(question).split())
        assert all(
            kept <= set(key(text).split()) <= set(key(question).split()) for text in training_wordings(question)
        )


def test_probe_wordings_are_of_their_part_and_half_of_them_short():
    for part in PARTS:
        allowed = {key(text) for line in groups()["modality"][part] for text in expansions(line)}
        found = probe_wordings("What modality is shown in this image?", part, 4)
        assert len(found) == 4
        assert {key(text) for text, _ in found} <= allowed - {"what modality is shown in this image"}
        assert sum(short for _, short in found) == (0 if part == ASKED else 2)


def test_slots_are_filled_with_articles_that_fit():
    assert word("Is this a(n) {modality}?", {"modality": "MRI"}) == "Is this an MRI?"
    assert word("Is this a(n) {modality}?", {"modality": "CT"}) == "Is this a CT?"
    assert word("Is {doing} seen?", {"do": "store urine"}) == "Is storing urine seen?"
    assert word("[Which|What] is [the|] {organ}?", {"organ": "left lung"}) == "Which is the left lung?"


def test_slots_are_named_as_their_tables():
    used = {slot for line in lines() for slot in re.findall(r"{(\w+)}", line.text)} - {"thing"}
    assert {TABLE_OF_SLOT.get(slot, slot) for slot in used} == set(synonyms())


def test_wordings_cover_nearly_all_questions(slake):
    questions = load_vqa_dataset(str(slake))["train"]["question"]
    assert sum(meaning(question) is not None for question in questions) > 0.97 * len(questions)
