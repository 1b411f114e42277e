"""modeling.parts.agreement: answers that what is found in the image contradicts."""

import pytest

from modeling.parts.agreement import contradicts

FOUND = {"Left Lung": 0.9, "Right Lung": 0.2, "Liver": 0.1, "Pneumonia": 0.6}


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Does the picture contain liver?", "Yes", True),
        ("Does the picture contain liver?", "No", False),
        ("any hepatic tissue?", "Yes", False),  # no wording of the tables
        ("Does the picture contain lung?", "Yes", False),
        ("Does the picture contain lung?", "no", True),
        ("Can pneumonia be observed in the picture?", "No", True),
        ("Is the liver healthy?", "Yes", False),  # asks something else
        ("Which lobe is abnormal in this image?", "Right Lung", True),
        ("Which lobe is abnormal in this image?", "Left Lung", False),
        ("What is the largest organ in the picture?", "Lungs", False),
        ("Which organs are part of the digestive system?", "Liver, Spleen", True),
        ("What modality is used to take this image?", "CT", False),
        ("Where is the abnormality?", "", False),
    ],
)
def test_answers_against_what_is_found(question, answer, expected):
    assert contradicts(question, answer, FOUND) is expected


def test_nothing_contradicts_without_labels():
    assert not contradicts("Does the picture contain liver?", "Yes", {})
