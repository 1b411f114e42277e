"""processing.implied_questions: what the fields of training images and people's answers about them imply."""

import datasets
import pytest

from processing.data import load_vqa_dataset
from processing.good_rows import SCHEMA
from processing.implied_questions import add_implied_questions
from processing.wordings import meaning

ANSWERS = ["Yes", "No", "CT", "MRI", "X-Ray", "Transverse Plane", "Coronal Plane"]


def rows_of(*images):
    """Rows about images, given as modality, location, labels of boxes and pairs; and other rows with all answers."""
    rows = []
    for number, (modality, location, labels, pairs) in enumerate(images):
        boxes = None if labels is None else [{"label": label, "bbox": [0, 0, 9, 9]} for label in labels]
        about = {"image": f"{number}.png", "image_id": str(number), "modality": modality, "location": location}
        rows += [about | {"boxes": boxes, "question": question, "answer": answer} for question, answer in pairs]
    rows += [{"image": "other", "image_id": "other", "question": "Say it.", "answer": answer} for answer in ANSWERS]
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA} | {"row": list(range(len(rows)))}
    return datasets.Dataset.from_dict(columns, features=SCHEMA)


def added_to(rows):
    return add_implied_questions(rows).to_list()[len(rows) :]


def made_of(rows, image="0"):
    """The answers that are added about an image, by the group of the question and what fills its slots."""
    found = {}
    for row in added_to(rows):
        if row["image_id"] == image:
            asks = meaning(row["question"])
            found[" ".join([asks.group, *(value for _, value in asks.slots)])] = row["answer"]
    return found


# Questions that make other values known, so that they can be asked of other images.
CORONAL = ("X-Ray", "Lung", None, [("Is this a coronal plane?", "Yes"), ("Is this a study of the head?", "No")])
MR = ("MRI", "Brain", None, [("What modality is used to take this image?", "MRI"), ("Is this an MRI?", "Yes")])


def test_fields_and_answers_give_both_polarities():
    people = [("What is the scanning plane of this image?", "Transverse Plane"), ("How was this image taken?", "CT")]
    made = made_of(rows_of(("CT", "Abdomen", None, people), CORONAL, MR))
    assert made == {
        "modality, yes or no CT": "Yes",
        "modality, yes or no MRI": "No",
        "plane, yes or no transverse": "Yes",
        "plane, yes or no coronal": "No",
        "part of the body, yes or no abdomen": "Yes",
        "part of the body, yes or no head": "No",
    }


def test_open_questions_get_the_answer_that_people_give():
    made = made_of(rows_of(("MRI", None, None, [("Where is the liver?", "Left")]), MR))
    assert made == {"modality, yes or no MRI": "Yes", "modality": "MRI"}


def test_nothing_is_asked_where_sources_differ_or_are_silent():
    people = [("How was this image taken?", "MRI"), ("Which part of the body does this image belong to?", "Chest")]
    assert made_of(rows_of(("CT", "Abdomen", None, people), CORONAL, MR)) == {}
    silent = rows_of((None, None, None, [("Where is the liver?", "Left")]))
    assert add_implied_questions(silent) is silent
    denied = made_of(rows_of(("CT", None, None, [("Is this a CT?", "No")]), MR))
    assert denied == {}


def test_what_was_asked_in_any_wording_is_not_asked_again():
    people = [("Was this image taken by CT?", "Yes"), ("Is this an MR?", "No")]
    made = made_of(rows_of(("CT", None, None, people), MR))
    assert not {"modality, yes or no CT", "modality, yes or no MRI"} & made.keys()


@pytest.mark.parametrize(
    ("people", "normal"),
    [
        ([("Does this image look abnormal?", "Yes")], False),
        ([("What diseases are included in the picture?", "Pneumonia")], False),
        ([("What diseases are included in the picture?", "None")], True),
        ([("Where is/are the abnormality located?", "Left Lung")], False),
        ([("What diseases are included in the picture?", "None"), ("Is the liver healthy?", "No")], None),
        ([("Is the liver healthy?", "Yes"), ("Is the spleen healthy?", "Yes")], True),
        ([("Where is the liver?", "Left")], None),
    ],
)
def test_health_follows_from_answers_that_agree(people, normal):
    rows = rows_of((None, None, None, people))
    made = made_of(rows)
    asked = {"image normal", "abnormalities"} - {meaning(question).group for question, _ in people}
    health = {name: answer for name, answer in made.items() if name in ("image normal", "abnormalities")}
    if normal is None:
        assert health == {}
    else:
        expected = {"image normal": "Yes" if normal else "No", "abnormalities": "No" if normal else "Yes"}
        assert health == {name: expected[name] for name in asked}


def test_an_organ_that_is_healthy_is_not_abnormal():
    made = made_of(rows_of((None, None, None, [("Is the liver healthy?", "Yes"), ("Is the lung abnormal?", "Yes")])))
    assert (made["organ abnormal liver"], made["organ healthy lung"]) == ("No", "No")
    assert "image normal" not in made or made["image normal"] == "No"


def test_boxes_of_findings_speak_where_people_agree_with_them():
    sick = (None, None, ["Lung", "Pneumonia"], [("Does this image look abnormal?", "Yes")])
    well = (None, None, ["Liver"], [("Does this image look abnormal?", "No")])
    silent = (None, None, ["Liver"], [("Where is the liver?", "Left")])
    assert made_of(rows_of(silent, sick, well)) == {"image normal": "Yes", "abnormalities": "No"}
    wrong = (None, None, ["Liver"], [("Does this image look abnormal?", "Yes")])
    assert made_of(rows_of(silent, sick, wrong)) == {}


def test_numbers_go_on_below_those_of_the_rows():
    rows = rows_of(MR, CORONAL)
    rows = rows.remove_columns("row").add_column("row", [*range(len(rows) - 3), -3, -2, -1]).cast(rows.features)
    numbers = [row["row"] for row in added_to(rows)]
    assert numbers == list(range(-4, -4 - len(numbers), -1))
    assert numbers
    assert added_to(rows) == added_to(rows)


def test_real_questions_get_answers_of_training_rows(vqa_rad):
    rows = load_vqa_dataset(str(vqa_rad))["train"]
    found = added_to(rows)
    assert len(found) > 400
    assert {row["answer"] for row in found} <= set(rows["answer"])
