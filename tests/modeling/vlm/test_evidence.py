"""The evidence head over the features of an image as a whole: learned, saved, and found again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from metrics.grounding import named_boxes, point
from modeling.predictor import Predictor
from modeling.vlm.family import find_evidence
from processing.images import open_image
from tests.modeling.vlm.tiny_runs import trained, untrained
from tests.support.tiny_vlms import MAKERS, TINY, save_tiny_vlm

EVIDENCE = {"evidence_weight": 0.5}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model with 49 tokens an image."""
    return save_tiny_vlm("llava", tmp_path_factory.mktemp("base"), replace(TINY, side=7))


@pytest.fixture(scope="module")
def run(base, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = {"max_steps": 60, "per_device_train_batch_size": 16, "learning_rate": 3e-3, "merge_adapter": True}
    trainer = trained(base, folder, dataset, **options, **EVIDENCE)
    trainer.save_model()
    return trainer


@pytest.fixture(scope="module")
def rows(dataset):
    """Rows whose answers name boxes."""
    return [row for row in dataset["train"] if row["boxes"] and named_boxes("", row["answer"], row["boxes"])][:16]


def mass(trainer, rows) -> float:
    """The share of the evidence inside the boxes, above that of even evidence."""
    inside = []
    for row, evidence in zip(rows, find_evidence(trainer, rows), strict=True):
        cells = np.array(evidence.cells)
        boxes = named_boxes("", row["answer"], row["boxes"])
        pointing = point(cells / cells.sum(), boxes, open_image(row["image"]).size)
        inside.append(pointing.mass - pointing.area)
    return float(np.mean(inside))


def test_the_head_learns_where_things_are(run, base, dataset, rows, tmp_path):
    assert abs(mass(untrained(base, tmp_path, dataset, **EVIDENCE), rows)) < 0.05
    assert mass(run, rows) > 0.15


def test_adapter_and_merged_model_alone_find_what_the_trainer_finds(run, rows, dataset, caplog):
    folder = run.args.output_dir
    for place in (folder, f"{folder}/merged"):
        predictor = Predictor.from_pretrained(place, dtype="float32")
        answers = predictor.answer_batch([row["image"] for row in rows], [row["question"] for row in rows], top_k=1)
        asked = [row | {"answer": answer.answer} for row, answer in zip(rows, answers, strict=True)]
        for answer, evidence in zip(answers, find_evidence(run, asked), strict=True):
            np.testing.assert_allclose(answer.evidence.cells, evidence.cells, atol=2e-3)
        assert predictor.heat_map(rows[0]["image"], rows[0]["question"]).shape == (7, 7)
    assert not caplog.records
    labels = sorted({box["label"] for boxes in dataset["train"]["boxes"] for box in boxes or []})
    for file in ("answering.json", "merged/config.json"):
        with open(f"{folder}/{file}") as text:
            assert json.load(text)["evidence_labels"] == labels


@pytest.mark.parametrize("name", MAKERS)
def test_each_architecture_shows_the_image_as_a_whole(name, dataset, tmp_path):
    base = save_tiny_vlm(name, tmp_path / "base")
    trainer = untrained(base, tmp_path / "out", dataset, **EVIDENCE)
    [found] = find_evidence(trainer, [dataset["train"][0]])
    assert np.array(found.cells).shape == (14, 14)
    batch = trainer.training_collator([dataset["train"][i] for i in (0, 1, 2, 20)])
    loss = trainer.model(**batch).loss
    del batch["evidence"]
    assert loss > trainer.model(**batch).loss
    loss.backward()
    head = trainer.model.get_base_model().evidence
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())


def test_no_boxes_no_head(base, dataset, tmp_path):
    trainer = untrained(base, tmp_path, dataset)
    assert trainer.model.get_base_model().evidence is None
    assert find_evidence(trainer, [dataset["train"][0]]) == [None]
