"""The evidence head of both kinds of ViLT: trained beside the answers, saved, and left out without boxes."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from metrics.grounding import point
from modeling.predictor import Predictor
from modeling.vilt.checkpoints import build_model
from modeling.vilt.evidence import find_evidence
from modeling.vilt.family import build_trainer
from processing.images import open_image
from tests.modeling.vilt.arguments import arguments, starter_arguments

KINDS = pytest.mark.parametrize("make", [arguments, starter_arguments], ids=["vilt", "starter"])


@pytest.mark.parametrize("kind", ["vilt", "starter"])
def test_a_trained_model_says_where_it_found_its_answers(runs, kind):
    folder = runs(kind)
    lines = [json.loads(line) for line in (folder / "predictions_validation.jsonl").read_text().splitlines()]
    assert any(line["evidence"] for line in lines) or kind == "starter", "a dozen steps are few for a large one"
    labels = set(json.loads((folder / "config.json").read_text())["evidence_labels"])
    for box in (box for line in lines for box in line["evidence"]):
        left, top, width, height = box["box"]
        assert min(left, top) >= 0 < min(width, height)
        assert max(left + width, top + height) <= 1.0001
        assert box["label"] in labels
        assert 0.5 <= box["probability"] <= 1
    report = json.loads((folder / "report" / "report.json").read_text())["validation"]
    assert report["evidence"][0]["questions"] == report["grounding"][0]["questions"] > 0
    assert "### Evidence" in (folder / "report" / "report.md").read_text()


@pytest.mark.parametrize("kind", ["vilt", "starter"])
def test_the_predictor_finds_what_the_evaluation_found(runs, phantoms, kind):
    predictor = Predictor.from_pretrained(runs(kind), dtype="float32")
    lines = (runs(kind) / "predictions_validation.jsonl").read_text().splitlines()[:12]
    for line in map(json.loads, lines):
        answer = predictor.answer(phantoms / "imgs" / line["image_id"].removeprefix("imgs/"), line["question"])
        assert answer.answer == line["prediction"]
        assert np.array(answer.evidence.cells).shape == (14, 14)
        assert [box.label for box in answer.evidence.boxes] == [box["label"] for box in line["evidence"]]
        found = [[box.probability, *box.box] for box in answer.evidence.boxes]
        assert found == [pytest.approx([box["probability"], *box["box"]], abs=2e-3) for box in line["evidence"]]


@KINDS
def test_no_boxes_no_head(make, dataset, tmp_path):
    without = dataset.map(lambda row: {"boxes": None}, load_from_cache_file=False, features=dataset["train"].features)
    args = make(tmp_path / "run", max_steps=1, save_strategy="no", disable_tqdm=True, per_device_train_batch_size=4)
    for rows, weight in ((without, 0.5), (dataset, 0.0)):
        args.evidence_weight = weight
        model, processor = build_model(args, rows)
        assert model.evidence is None
    build_trainer(args, model, processor, dataset).save_model(tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "evidence" in name or "detection" in name]  # noqa: SIM118


def test_the_head_learns_beside_the_answers(dataset, tmp_path):
    """Of a ViLT; tests/modeling/asking/test_pointing.py shows what that of a starter learns."""
    torch.manual_seed(0)
    args = arguments(
        tmp_path,
        max_steps=30,
        learning_rate=3e-3,
        per_device_train_batch_size=16,
        questions_per_image=4,
        lr_scheduler_type="constant",
        save_strategy="no",
        disable_tqdm=True,
    )
    model, processor = build_model(args, dataset)
    trainer = build_trainer(args, model, processor, dataset)
    rows = [row for row in dataset["train"] if row["answer"] in {box["label"] for box in row["boxes"] or []}][:24]
    label2id = model.config.label2id

    def mass() -> float:
        model.eval()
        batch = trainer.data_collator.prompts(rows)
        del batch["row"]
        found = find_evidence(model, batch, [label2id[row["answer"]] for row in rows], rows)
        inside = []
        for row, evidence in zip(rows, found, strict=True):
            cells = np.array(evidence.cells)
            boxes = [box for box in row["boxes"] if box["label"] == row["answer"]]
            pointing = point(cells / cells.sum(), boxes, open_image(row["image"]).size)
            inside.append(pointing.mass - pointing.area)
        return float(np.mean(inside))

    before = mass()
    trainer.train()
    assert abs(before) < 0.05
    assert mass() > 0.15


@KINDS
def test_a_model_goes_on_without_boxes_and_then_has_no_head(make, dataset, tmp_path):
    args = make(tmp_path / "run", max_steps=1, save_strategy="no", disable_tqdm=True)
    model, processor = build_model(args, dataset)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    assert model.evidence is not None
    args.model_name_or_path, args.evidence_weight = str(tmp_path / "model"), 0.0
    going_on, _ = build_model(args, dataset)
    assert going_on.evidence is None
    kept = going_on.state_dict()
    assert kept.keys() < model.state_dict().keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())
