"""metrics.grounding: which boxes a question names, and heat maps against boxes, worked out by hand."""

import numpy as np
import pytest

from metrics.grounding import grounding_figures, named_boxes, organ_of, point

BOXES = [
    {"label": label, "bbox": [0, 0, 1, 1]}
    for label in (
        "Left Lung",
        "Right Lung",
        "Liver",
        "Liver Cancer",
        "Brain Enhancing Tumor",
        "Brain Edema",
        "Infiltrate",
        "Tooth",
    )
]


@pytest.mark.parametrize(
    ("question", "answer", "labels"),
    [
        ("Is the lung healthy?", "No", {"Left Lung", "Right Lung"}),
        ("Which side of lung is abnormal, left or right?", "Right Lung", {"Left Lung", "Right Lung"}),
        ("Where is the pneumonia?", "Right Lung, Upper Left", {"Right Lung"}),
        ("How many LUNGS are there?", "2", {"Left Lung", "Right Lung"}),
        ("Can liver cancer be observed?", "Yes", {"Liver Cancer"}),
        ("Does the picture contain liver?", "Yes", {"Liver"}),
        ("Is there a brain tumor?", "Yes", {"Brain Enhancing Tumor"}),
        ("What diseases are included in the picture?", "Brain Edema", {"Brain Edema"}),
        ("Where is the infiltration?", "Left", {"Infiltrate"}),
        ("What color are the teeth?", "White", {"Tooth"}),
        ("Is this a study of the head?", "Yes", set()),
        ("Does it deliver?", "Toothache", set()),
    ],
)
def test_boxes_that_a_question_or_its_answer_names(question, answer, labels):
    assert {box["label"] for box in named_boxes(question, answer, BOXES)} == labels


def test_image_without_boxes_names_none():
    assert named_boxes("Is the lung healthy?", "No", []) == []


def test_organ_is_the_label_without_its_side():
    assert [organ_of(label) for label in ("Left Lung", "Liver", "Left")] == ["Lung", "Liver", "Left"]


def test_map_beside_a_box_by_hand():
    """Two rows of four cells over an image of 80 x 40 pixels, each cell 20 x 20."""
    heat = np.array([[0.1, 0.4, 0.1, 0], [0.1, 0.1, 0.1, 0.1]])
    box = {"label": "Liver", "bbox": [30.0, 0.0, 20.0, 10.0]}  # a quarter of two cells
    found = point(heat, [box], (80, 40))
    assert found.hit == 1
    assert found.mass == pytest.approx((0.4 + 0.1) / 4)
    assert found.area == pytest.approx(200 / 3200)
    assert found.chance == 2 / 8
    assert found.center == 2 / 4  # the middle of four columns and two rows is four cells
    assert point(heat[:, ::-1], [box], (80, 40)).hit == 1
    assert point(heat[::-1], [box], (80, 40)).hit == 0


@pytest.mark.parametrize(("side", "middle"), [(2, 2), (3, 1), (4, 2), (7, 1), (8, 2)])
def test_the_middle_is_one_cell_of_an_odd_side_and_two_of_an_even_one(side, middle):
    heat = np.full((side, side), 1 / side**2)
    start = 10 * ((side - middle) // 2)
    inner = {"label": "Liver", "bbox": [start, start, 10 * middle, 10 * middle]}
    outer = {"label": "Liver", "bbox": [0, 0, start, 10 * side]}
    assert point(heat, [inner], (10 * side, 10 * side)).center == 1
    if start:
        assert point(heat, [outer], (10 * side, 10 * side)).center == 0


def test_even_heat_hits_by_chance_and_has_the_mass_of_the_area():
    found = point(np.full((7, 7), 1 / 49), [{"label": "Liver", "bbox": [10, 20, 100, 50]}], (240, 200))
    assert found.hit == found.chance
    assert found.mass == pytest.approx(found.area, abs=1e-6)


def test_boxes_that_overlap_count_once_and_the_outside_not():
    boxes = [{"label": "a", "bbox": [-10, -10, 20, 20]}, {"label": "b", "bbox": [0, 0, 10, 10]}]
    assert point(np.full((1, 1), 1.0), boxes, (20, 20)).area == 0.25
    assert point(np.full((1, 1), 1.0), [{"label": "a", "bbox": [30, 30, 5, 5]}], (20, 20)) is None
    assert point(np.full((1, 1), 1.0), [{"label": "a", "bbox": [3, 3, 0, 0]}], (20, 20)) is None


def test_figures_in_all_and_by_organ():
    sure = point(np.array([[1.0, 0]]), [{"label": "Left Lung", "bbox": [0, 0, 10, 10]}], (20, 10))
    beside = point(np.array([[0.25, 0.75]]), [{"label": "Liver", "bbox": [0, 0, 5, 10]}], (20, 10))
    rows = [
        {
            "image_id": "a",
            "correct": True,
            "boxes": [{"label": "Left Lung"}, {"label": "Right Lung"}],
            "pointing": sure,
        },
        {"image_id": "b", "correct": False, "boxes": [{"label": "Liver"}, {"label": "Left Lung"}], "pointing": beside},
    ]
    table = grounding_figures(rows)
    assert [(entry["group"], entry["questions"], entry["images"]) for entry in table] == [
        ("all", 2, 2),
        ("right answers", 1, 1),
        ("wrong answers", 1, 1),
        ("Lung", 2, 2),
        ("Liver", 1, 1),
    ]
    assert table[0]["hit"] == [50, None, None]
    assert table[0]["mass"] == [round(100 * (1 + 0.125) / 2, 2), None, None]
    assert (table[0]["chance"], table[0]["center"], table[0]["area"]) == (50, 50, 37.5)
    assert [entry["hit"][0] for entry in table[1:]] == [100, 0, 50, 0]
    assert grounding_figures(rows * 10)[0]["hit"] == [50, None, None]  # rows are no images
    many = [row | {"image_id": f"{row['image_id']}{i}"} for i in range(10) for row in rows]
    value, low, high = grounding_figures(many)[0]["hit"]
    assert low < value < high
