"""processing.answers: which answers are the same, and which only look so."""

import itertools
from collections import Counter

import pytest

from modeling.parts.vocabulary import build_vocabulary, labels_of
from processing.answers import answer_identity, same_signs
from processing.data import load_vqa_dataset
from processing.row_values import counts_of
from tests.processing.conftest import rows_of

SAME = [
    ("Spinal Cord", "spinal  cord\n"),
    ("the left lung", "Left lung"),
    ("a mass in the liver", "Mass in liver"),
    ("Yes.", "yes"),
    ("Yes !", "yes?;:,"),
    ('"Normal."', "normal"),
    ("“Yes”", "yes"),
    ("是。", "是"),
    ("A", "a."),
    ("HER2+.", "her2+"),
    ("5 mm.", "5 mm"),
    ("x-ray", "X-Ray"),
    ("hepatitis A", "Hepatitis a."),
    ("yes", "yes\u200b", "\u200eYes"),
    ("5 \u03bcm", "5 \u00b5m"),
    ("x-ray", "x\u2011ray"),
    ("<5 mm", "\uff1c5 mm"),
]
DIFFERENT = [
    ("HER2+", "HER2-", "HER2"),
    ("1.5 cm", "15 cm", "1,5 cm", "-1.5 cm"),
    ("<5 mm", ">5 mm", "5 mm", "≤5 mm", "=5 mm", "~5 mm"),
    ("-5", "5", "+5", "±5", "−5"),  # noqa: RUF001
    ("10-20", "1020", "10/20", "10 20", "10.20", "10:20"),
    ("5%", "5", "5‰", "$5", "#5", "5*", "5°", '5"', "5'"),
    ("+", "-", "?", "", "%", "(+)", "(-)", "++"),
    ("T1/T2", "T1T2", "T1-T2", "T1 T2", "T1+T2"),
    ("x-ray", "xray", "x ray"),
    ("C3-C4", "C3,C4", "C3C4"),
    ("G1P0", "G1,P0", "G1.P0"),
    ("ER+/PR-", "ER-/PR+", "ER+/PR+", "ERPR"),
    ("hepatitis A", "hepatitis B", "hepatitis"),
    ("A", "B", "the", "an"),
    ("10^3", "103", "10e3"),
    ("_", "no_mass", "no mass", "nomass"),
    ("lung, heart", "lung heart"),
    ("[1]", "1", "{1}", "<1>", "|1|"),
    ("IV", "I.V", "I-V"),
    ("左肺", "右肺"),
    ("A", "A'", "A''"),
    ("A positive", "positive", "AB positive"),
    ("A B", "B", "AB", "A C", "C"),
]


@pytest.mark.parametrize("pair", SAME, ids=str)
def test_spellings_of_an_answer_are_the_same(pair):
    assert len({answer_identity(answer) for answer in pair}) == 1


@pytest.mark.parametrize("answers", DIFFERENT, ids=str)
def test_answers_that_differ_in_a_sign_are_different(answers):
    for one, other in itertools.combinations(answers, 2):
        assert answer_identity(one) != answer_identity(other), (one, other)
    vocabulary = build_vocabulary(Counter(answers))
    assert sorted(vocabulary) == sorted(answers)
    labels = {answer: i for i, answer in enumerate(vocabulary)}
    assert labels_of(answers, labels) == labels


def test_an_identity_is_its_own_identity():
    for answer in itertools.chain(*SAME, *DIFFERENT):
        assert answer_identity(answer_identity(answer)) == answer_identity(answer)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("HER2+", "HER2-", False),
        ("1.5 cm", "15 cm", False),
        (".5 cm", "5 cm", False),
        ("p = .5", "p = 5", False),
        ("'5'", "5", True),
        ('"L5"', "l5.", True),
        ("<5 mm", "＜5 mm", True),  # noqa: RUF001
        ("5%", "5", False),
        ('5"', "5", False),
        ("10-20", "1020", False),
        ("-5", "5", False),
        ("x-ray", "Xray", True),
        ("The left lung.", "left lung", True),
        ("lung, heart", "lung heart", True),
        ("T1/T2", "T1T2", False),
        ("Grade I-II", "Grade III", False),
        ("A-B", "AB", False),
        ("I,II", "III", False),
        ("1;2", "12", False),
        ("t(9;22)", "t(922)", False),
        ("1/12", "11/2", False),
        ("1.15", "11.5", False),
        ("T-cell", "tcell", True),
        ("non-small-cell", "nonsmallcell", True),
    ],
)
def test_signs_that_exact_match_ignores(one, other, same):
    assert same_signs(one, other) is same
    assert same_signs(other, one) is same


def test_opposite_answers_of_a_table_are_classes_of_their_own(table):
    file = table(*({"answer": answer} for answer in ("HER2+", "HER2-", "1.5 cm", "15 cm", "her2+.", "<5", ">5")))
    answers = [row["answer"] for row in rows_of(load_vqa_dataset(str(file)))]
    assert build_vocabulary(Counter(answers)) == ["1.5 cm", "15 cm", "<5", ">5", "HER2+", "HER2-", "lung"]


@pytest.mark.parametrize(("language", "count"), [("en", 219), ("zh", 252)])
def test_slake_has_as_many_answers_as_by_the_normalisation_of_squad_but_for_a_wide_comma(slake, language, count):
    assert (
        len(build_vocabulary(counts_of(load_vqa_dataset(str(slake), language=language)["train"], "answer"))) == count
    )


def test_vqa_rad_keeps_answers_apart_that_differ_in_a_hyphen(vqa_rad):
    vocabulary = build_vocabulary(counts_of(load_vqa_dataset(str(vqa_rad))["train"], "answer"))
    assert len(vocabulary) == 394
    assert {"X-ray", "Xray", "MRI/FLAIR", "MRI-FLAIR"} <= {*vocabulary}
