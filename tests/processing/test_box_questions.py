"""processing.box_questions: what the boxes of training images answer."""

import re

import datasets
import pytest
from PIL import Image

from processing.box_questions import add_box_questions
from processing.data import load_vqa_dataset
from processing.good_rows import SCHEMA

ANSWERS = ["Yes", "No", "0", "1", "2", "3", "Left", "Right", "Both"]
ANSWERS += ["Liver", "Spleen", "Bladder", "Left Kidney", "Right Kidney"]


@pytest.fixture
def ask(tmp_path):
    """Rows about images of 100 x 100 pixels, given as location, boxes and rows; and other rows with all answers."""

    def build(*images):
        rows = []
        for number, (location, boxes, pairs) in enumerate(images):
            path = tmp_path / f"{number}.png"
            Image.new("RGB", (100, 100)).save(path)
            found = None if boxes is None else [{"label": label, "bbox": box} for label, box in boxes]
            about = {"image": str(path), "image_id": str(number), "location": location, "boxes": found}
            rows += [about | {"question": question, "answer": answer} for question, answer in pairs]
        plain = {"image": "other", "image_id": "other", "location": "Elsewhere", "boxes": None, "question": "Say it."}
        rows += [plain | {"answer": answer} for answer in ANSWERS]
        columns = {name: [row.get(name) for row in rows] for name in SCHEMA} | {"row": list(range(len(rows)))}
        return datasets.Dataset.from_dict(columns, features=SCHEMA)

    return build


def added_to(rows):
    """The rows that are added."""
    more = add_box_questions(rows)
    return more.to_list()[len(rows) :]


def made_of(rows, image="0"):
    """The answers of the questions that are added about an image."""
    return {row["question"]: row["answer"] for row in added_to(rows) if row["image_id"] == image}


ABDOMEN = [
    ("Liver", [10, 20, 40, 40]),  # area 1600
    ("Spleen", [70, 40, 20, 20]),  # area 400
    ("Left Kidney", [60, 60, 10, 10]),  # area 100; the right one is not there
]
TRUE = [("Does the picture contain liver?", "Yes")]


def test_organs_are_asked_for_counted_and_compared(ask):
    made = made_of(
        ask(("Abdomen", ABDOMEN, TRUE), ("Abdomen", [("Bladder", [40, 70, 20, 20])], [("Is this a CT?", "Yes")]))
    )
    asked = "\n".join(made)
    for organ, there in (("spleen", "Yes"), ("kidney", "Yes"), ("bladder", "No")):  # one in images of this body part
        found = [answer for question, answer in made.items() if re.search(rf"(contain|there|the) {organ}\b", question)]
        assert found == [there]
    assert "heart" not in asked  # none was seen in the abdomen
    number = [
        answer for question, answer in made.items() if re.fullmatch(r"How many( existing)? kidneys .*", question)
    ]
    assert number == ["1"]
    assert made["What is the leftmost organ in this image?"] == "Liver"
    assert made["What is the rightmost organ in this image?"] == "Spleen"
    sizes = {question: answer for question, answer in made.items() if question.startswith("Which is")}
    order = ["liver", "spleen", "left kidney"]
    for question, answer in sizes.items():
        named = sorted(re.findall("liver|spleen|left kidney", question), key=order.index)
        small = re.search("small", question)
        assert answer.lower() == named[-1 if small else 0]
    assert len(sizes) == 8  # six of two organs, both of three
    assert made["Do any of the organs in the picture belong to the urinary system?"] == "Yes"
    assert made["Do any of the organs in the picture belong to the respiratory system?"] == "No"
    functions = [
        q for q in made if re.match("Are there organs in the picture that can|Does the picture contain the", q)
    ]
    assert len(functions) == 6
    assert all((made[q] == "Yes") == bool(re.search("detox|discharg|immunity", q)) or "digest" in q for q in functions)


def test_sizes_that_boxes_cannot_tell_apart_are_not_compared(ask):
    boxes = [("Liver", [0, 0, 40, 40]), ("Spleen", [50, 0, 36, 40]), ("Left Kidney", [60, 60, 20, 20])]
    made = made_of(ask(("Abdomen", [*boxes, ("Right Kidney", [0, 60, 10, 10])], TRUE)))
    two = "liver or spleen|spleen or liver|left kidney or right kidney|right kidney or left kidney"
    assert not re.search(rf"(bigger|smaller) in this image, ?({two})", "\n".join(made))
    assert not re.search("biggest in this image, .*(liver.* spleen)", "\n".join(made))
    assert re.search("(bigger|smaller) in this image, ?(left kidney or liver|liver or left kidney)", "\n".join(made))


@pytest.mark.parametrize(
    "answers", [[], [("Is there spleen in this image?", "No")], [("How many kidneys in this image?", "2")]]
)
def test_nothing_is_asked_where_people_say_otherwise_or_nothing(ask, answers):
    assert made_of(ask(("Abdomen", ABDOMEN, answers or [("Is this a CT?", "Yes")]))) == {}


def test_one_box_of_one_organ_says_nothing_of_others(ask):
    marked = ("Abdomen", [("Liver", [10, 20, 40, 40]), ("Liver Cancer", [20, 30, 5, 5])], TRUE)
    assert made_of(ask(marked, ("Abdomen", ABDOMEN, TRUE))) == {}


def test_kinds_in_which_people_and_boxes_differ_elsewhere_are_not_asked(ask):
    rightmost = ("What is the rightmost organ in this image?", "Liver")  # the boxes say Spleen
    other = ("Abdomen", ABDOMEN, [*TRUE, ("Is there spleen in this image?", "Yes"), rightmost])
    made = made_of(ask(("Abdomen", ABDOMEN, TRUE), other))
    assert len(made) > 10
    assert not {"What is the leftmost organ in this image?", rightmost[0]} & made.keys()


def test_what_was_asked_is_not_asked_again_and_answers_are_those_of_training(ask):
    asked = [*TRUE, ("what is the leftmost organ in this image", "Liver")]
    made = made_of(ask(("Abdomen", [*ABDOMEN, ("Pancreas", [20, 20, 50, 50])], asked)))
    assert not {"Does the picture contain liver?", "What is the leftmost organ in this image?"} & made.keys()
    assert made["What is the rightmost organ in this image?"] == "Spleen"
    assert set(made.values()) <= {*ANSWERS}  # no Pancreas


BRAIN = [("Brain Edema", [60, 30, 20, 20]), ("Brain Enhancing Tumor", [65, 35, 5, 5])]  # the left of a patient


def test_findings_of_the_brain(ask):
    true = [
        ("How many kinds of abnormalities are there in this image?", "2"),
        ("Which lobe is abnormal,left or right?", "Left"),
    ]
    assert made_of(ask(("Brain_Tissue", BRAIN, true))) == {
        "Does the patient have brain edema?": "Yes",
        "Does the patient have brain enhancing tumor?": "Yes",
        "Does the patient have brain non-enhancing tumor?": "No",
        "Is/Are there abnormalities in the patient's left brain lobe?": "Yes",
        "Is/Are there abnormalities in the patient's right brain lobe?": "No",
        "Which lobe is abnormal in this image?": "Left",
        "Which hemisphere is abnormal in this image?": "Left",
        "Which hemisphere is abnormal in this image,left or right?": "Left",
        "Which lobe is normal in this image?": "Right",
        "Which hemisphere is normal?": "Right",
    }


def test_findings_of_the_chest(ask):
    boxes = [("Nodule", [20, 20, 10, 10]), ("Effusion", [70, 70, 20, 20])]
    true = [
        ("Which side of lung is abnormal in this image?", "Both"),
        ("Can pneumonia be observed on the lower left lung in this picture?", "No"),
    ]
    made = made_of(ask(("Lung", boxes, true)))
    places = {question: answer for question, answer in made.items() if question.startswith("Can ")}
    assert len(places) == 8
    yes = {
        "Can nodule be observed on the upper right lung in this picture?",
        "Can pleural effusion be observed on the lower left lung in this picture?",
    }
    assert {question for question, answer in places.items() if answer == "Yes"} == yes & places.keys()
    assert {question: made[question] for question in made.keys() - places.keys()} == {
        "Is/Are there abnormalities in the patient's left lung?": "Yes",
        "Is/Are there abnormalities in the patient's right lung?": "Yes",
        "Which lobe is abnormal in this image?": "Both",
    }


@pytest.mark.parametrize("middle", [46, 54])
def test_a_finding_in_the_middle_has_no_side(ask, middle):
    boxes = [*BRAIN, ("Brain Edema", [middle - 5, 60, 10, 10])]
    true = [
        ("How many kinds of abnormalities are there in this image?", "2"),
        ("Which hemisphere is normal?", "Right"),
    ]
    made = made_of(ask(("Brain_Tissue", boxes, true), ("Brain_Tissue", BRAIN, true)))
    assert len(made) == 3
    assert all(question.startswith("Does the patient have") for question in made)


def test_sides_are_asked_of_a_body_part_only_where_people_name_them_as_boxes_do(ask):
    """In some of SLAKE's brain images left is left."""
    right = ("Brain_Tissue", BRAIN, [("Which lobe is abnormal,left or right?", "Left")])
    mirrored = ("Brain", BRAIN, [("Which lobe is abnormal,left or right?", "Right")])
    rows = ask(right, mirrored)
    assert made_of(rows, "0")["Which hemisphere is normal?"] == "Right"
    assert made_of(rows, "1") == {}


def test_rows_come_first_as_they_were_and_the_draw_is_always_the_same(ask):
    rows = ask(("Abdomen", ABDOMEN, TRUE))
    more = add_box_questions(rows)
    assert more.select(range(len(rows))).to_list() == rows.to_list()
    assert more.to_list() == add_box_questions(rows).to_list()
    added = added_to(rows)
    assert len({row["row"] for row in more}) == len(more)
    assert max(row["row"] for row in added) < 0
    assert {row["image"] for row in added} == {rows[0]["image"]}
    assert all(row["question_id"] is row["answer_type"] is row["content_type"] is None for row in added)


def test_rows_without_boxes_stay_as_they_are(ask):
    rows = ask(("Abdomen", None, TRUE), ("Abdomen", [], TRUE))
    assert add_box_questions(rows) is rows


def test_log_counts_the_questions_and_the_images_that_got_some(ask, caplog):
    caplog.set_level("INFO")
    rows = ask(("Abdomen", ABDOMEN, TRUE), ("Abdomen", ABDOMEN, [("Is this a CT?", "Yes")]))
    assert f"Added {len(added_to(rows))} training questions that the boxes of 1 images answer." in caplog.text


def held_out(dataset):
    """Pairs of the answers of boxes and of people to questions that the boxes' trust does not rest on."""
    rows = dataset["train"]
    half, rest = (rows.select(range(start, len(rows), 2)) for start in (0, 1))
    people = {(row["image"], re.sub(r"\W+", " ", row["question"].lower())): row["answer"].lower() for row in rest}
    for row in added_to(half):
        answer = people.get((row["image"], re.sub(r"\W+", " ", row["question"].lower())))
        if answer is not None:
            yield row["answer"].lower(), answer


def test_boxes_of_phantoms_answer_as_the_phantoms_do(phantoms):
    pairs = list(held_out(load_vqa_dataset(str(phantoms))))
    assert len(pairs) > 5
    assert all(boxes == truth for boxes, truth in pairs)


def test_boxes_of_slake_answer_as_people_do(slake):
    pairs = list(held_out(load_vqa_dataset(str(slake))))
    assert len(pairs) > 60
    assert sum(boxes == people for boxes, people in pairs) > 0.97 * len(pairs)
