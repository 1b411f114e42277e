"""modeling.parts.evidence: maps of cells, what they say, and what a head learns from."""

import numpy as np
import pytest
import torch

from modeling.parts.evidence import (
    Detection,
    as_evidence,
    detection_facts,
    evidence_loss,
    moved_masks,
)
from modeling.parts.evidence_targets import EvidenceTargets, labels_of_boxes
from processing.images import open_image


def test_connected_places_become_boxes_with_the_label_that_is_surest_there():
    cells = np.zeros((4, 4))
    cells[0, 0], cells[0, 1], cells[3, 2] = 0.9, 0.6, 0.5
    cells[2, 2] = 0.49
    of_labels = np.zeros((2, 4, 4))
    of_labels[0, 0], of_labels[1, 3] = 1, 1
    evidence = as_evidence(cells, of_labels, ["Liver", "Spleen"])
    assert evidence.boxes == (
        Detection("Liver", 0.9, (0.0, 0.0, 0.5, 0.25)),
        Detection("Spleen", 0.5, (0.5, 0.75, 0.25, 0.25)),
    )
    assert evidence.cells[2] == (0.0, 0.0, 0.49, 0.0)
    assert as_evidence(np.full((4, 4), 0.49), of_labels, ["Liver", "Spleen"]).boxes == ()


def test_a_single_cell_beside_a_larger_place_of_its_label_is_noise():
    cells = np.zeros((5, 5))
    cells[0, :2], cells[2, 0], cells[4, 4] = 0.6, 0.9, 0.8
    of_labels = np.zeros((2, 5, 5))
    of_labels[0, :3], of_labels[1, 4] = 1, 1
    larger, other = Detection("Lung", 0.6, (0.0, 0.0, 0.4, 0.2)), Detection("Mass", 0.8, (0.8, 0.8, 0.2, 0.2))
    assert as_evidence(cells, of_labels, ["Lung", "Mass"]).boxes == (other, larger)
    cells[0, 1] = 0
    assert [found.label for found in as_evidence(cells, of_labels, ["Lung", "Mass"]).boxes] == ["Lung", "Mass", "Lung"]


def test_facts_of_a_label_are_its_probability_share_and_place():
    logits = torch.full((1, 2, 3, 3), -20.0)
    logits[0, 0, 0, 2] = 20.0
    probability, logit, share, x, y = detection_facts(logits).unflatten(1, (5, 2)).unbind(1)
    torch.testing.assert_close(probability[0], torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)
    assert logit[0].tolist() == pytest.approx([2.302, -2.302], abs=0.01)  # the logit of 0.999 in thirds
    torch.testing.assert_close(share[0], torch.tensor([4 / 9, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(x[0], torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(y[0], torch.tensor([-1.0, 0.0]), atol=1e-4, rtol=0)


def test_loss_by_hand():
    masks = torch.zeros(2, 2, 2)
    masks[0, 0, 0] = 1.0
    even = float(evidence_loss(torch.zeros(2, 2, 2), masks))
    dice = 1 - (2 * 0.5 + 1) / (4 * 0.5 + 1 + 1)
    assert even == pytest.approx(4 * np.log(2) + dice)
    assert float(evidence_loss(40 * (2 * masks - 1), masks)) == pytest.approx(0, abs=1e-6)
    assert evidence_loss(torch.zeros(0, 2, 2, requires_grad=True), masks[:0]).requires_grad, "as DDP needs it"


def test_masks_move_with_their_images():
    masks = torch.zeros(1, 14, 14)
    masks[0, 2, 3] = 1.0
    shift = torch.tensor([[[1.0, 0.0, -2 * 4 / 14], [0.0, 1.0, 0.0]]])  # four cells to the right
    assert moved_masks(masks, shift)[0].argmax() == 2 * 14 + 7
    away = torch.tensor([[[1.0, 0.0, 2 * 5 / 14], [0.0, 1.0, 0.0]]])
    assert moved_masks(masks, away).sum() == pytest.approx(0, abs=1e-5)


def test_targets_of_a_batch(tmp_path, phantom_image):
    boxes = [
        {"label": "Liver", "bbox": [0.0, 0.0, 48.0, 24.0]},
        {"label": "Left Lung", "bbox": [48.0, 48.0, 48.0, 48.0]},
    ]
    labels = labels_of_boxes(
        [boxes, [{"label": "Spleen", "bbox": [0, 0, 1, 1]}, {"label": "liver", "bbox": [0, 0, 1, 1]}]]
    )
    assert labels == ["Left Lung", "Liver", "Spleen"]
    row = {"image": phantom_image, "boxes": boxes, "question": "Does the picture contain liver?", "answer": "Yes"}
    absent = row | {"question": "Does the picture contain spleen?", "answer": "No"}
    without = {"image": "x.png", "boxes": None, "question": "Is this a CT?", "answer": "Yes"}
    told = []

    def texts_of(rows, targets):
        told[:] = [(target.row, target.answer, target.asked) for target in targets]
        return {"count": torch.tensor(len(rows))}

    targets = EvidenceTargets(labels, 4, texts_of, ["yes", "no"])
    unknown = row | {"answer": "Liver"}
    found = targets([without, row, absent | {"question": "Spleen?", "own_question": absent["question"]}, unknown])
    assert found["count"] == 4
    of_labels = [(1, "Left Lung", False), (1, "Liver", False), (1, "Spleen", False)]
    assert told == [*of_labels, (1, "Yes", True), (1, None, True), (2, "No", True), (2, None, True)]
    liver = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    lung = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    torch.testing.assert_close(
        found["masks"], torch.stack([lung, liver, 0 * liver, liver, liver, 0 * liver, 0 * liver])
    )
    assert targets([without])["masks"].shape == (0, 4, 4)
    assert not told
    EvidenceTargets(labels, 4, texts_of)([unknown])
    assert (0, "Liver", True) in told


@pytest.fixture
def phantom_image(phantoms):
    image = sorted((phantoms / "imgs").glob("*/source.jpg"))[0]
    assert open_image(image).size == (96, 96)
    return str(image)
