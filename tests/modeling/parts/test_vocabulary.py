"""modeling.parts.vocabulary: answers that are the same, in their most frequent spelling."""

from collections import Counter

from modeling.parts.vocabulary import build_vocabulary, labels_of
from processing.row_values import counts_of


def test_vocabulary_is_sorted_and_shows_the_most_frequent_spelling():
    answers = ["Spinal cord", "Spinal Cord", "Spinal Cord", "yes", "No", "no", "Lung, Heart", "lung heart", "1"]
    assert build_vocabulary(Counter(answers)) == ["1", "Lung, Heart", "No", "Spinal Cord", "lung heart", "yes"]


def test_vocabulary_of_slake_merges_spellings(slake_rows):
    vocabulary = build_vocabulary(counts_of(slake_rows["train"], "answer"))
    assert len(set(slake_rows["train"]["answer"])) == 226  # of 228: one is empty, two differ by a space
    assert len(vocabulary) <= 220
    labels = {answer: i for i, answer in enumerate(vocabulary)}
    unknown = [a for a in slake_rows["validation"]["answer"] if a not in labels_of([a], labels)]
    assert len(unknown) == 3


def test_answers_find_their_label_however_they_are_written():
    labels = {"Left Lung": 0, "A": 1, "": 2}
    assert labels_of(["left lung.", "a", "", "Kidney"], labels) == {"left lung.": 0, "a": 1, "": 2}
