"""Do heat maps of a trained model, and evidence, point at what an answer names?"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from metrics.grounding import grounding_figures, named_boxes, point
from modeling.asking.predictor import Predictor
from modeling.parts.evidence import EvidenceHead, evidence_loss
from modeling.training.arguments import ViltTrainingArguments
from modeling.vilt.checkpoints import build_model
from modeling.vilt.evidence import evidence_targets
from modeling.vilt.family import build_trainer
from modeling.vilt.predictor import ViltPredictor
from processing.data import load_vqa_dataset
from processing.images import open_image
from processing.phantom.files import write_phantoms

pytestmark = pytest.mark.xdist_group("pointing")  # one worker trains the model


class Pointing(NamedTuple):
    """A right answer that names something in the image, the boxes of that, and the heat map of the answer."""

    row: dict[str, Any]
    boxes: Any
    heat: np.ndarray


class Run(NamedTuple):
    """A trained starter, the rows whose answer names something that the image has a box of, and kept features."""

    predictor: Predictor
    dataset: Any
    features: Any
    boxed: Any  # an untrained one with an evidence head


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = write_phantoms(tmp_path_factory.mktemp("pointing") / "set", num_images=300)
    dataset = load_vqa_dataset(str(folder)).filter(lambda row: named_boxes("", row["answer"], row["boxes"]))
    args = ViltTrainingArguments(  # as recipes/vilt_starter_phantom.yaml, in smaller batches
        output_dir=str(folder.parent / "run"),
        model_name_or_path="starter",
        vision_learning_rate=0,
        evidence_weight=0.0,
        learning_rate=5e-4,
        weight_decay=0.05,
        num_train_epochs=12,
        per_device_train_batch_size=16,
        questions_per_image=4,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
    )
    torch.manual_seed(0)
    model, processor = build_model(args, dataset)
    del model.encoder.layer[1:]  # one layer learns in a minute where to look, three take ten
    trainer = build_trainer(args, model, processor, dataset)
    trainer.train()
    predictor = Predictor(ViltPredictor(model, processor, torch.device("cpu"), torch.float32))
    boxed, _ = build_model(replace(args, evidence_weight=0.5), dataset)
    return Run(predictor, dataset, trainer.data_collator.images.features, boxed)


@pytest.fixture(scope="module")
def pointings(run) -> list[Pointing]:
    """The right answers to held-out rows."""
    predictor = run.predictor
    rows = [*run.dataset["validation"], *run.dataset["test"]]
    answers = predictor.answer_batch([row["image"] for row in rows], [row["question"] for row in rows], top_k=1)
    return [
        Pointing(row, named_boxes("", row["answer"], row["boxes"]), predictor.heat_map(row["image"], row["question"]))
        for row, answer in zip(rows, answers, strict=True)
        if answer.answer == row["answer"]
    ]


def figures_of(pointings: list[Pointing]) -> dict[str, Any]:
    rows = [
        {
            "image_id": row["image_id"],
            "correct": True,
            "boxes": boxes,
            "pointing": point(heat, boxes, open_image(row["image"]).size),
        }
        for row, boxes, heat in pointings
    ]
    return grounding_figures(rows)[0]


def beside_the_middle(pointings: list[Pointing]) -> list[Pointing]:
    """Those that the middle of the image would not hit."""
    return [one for one in pointings if not figures_of([one])["center"]]


def test_maps_point_at_what_the_answer_names(pointings):
    """Far more often than chance, also where the middle of the image would never hit.

    And more often than the maps of the same image's other answers, which a fixed habit would equal.
    """
    others = [
        Pointing(one.row, one.boxes, other.heat)
        for one in pointings
        for other in pointings
        if one.row["image"] == other.row["image"] and one.row["answer"] != other.row["answer"]
    ]
    everything, beside, habit = (figures_of(part) for part in (pointings, beside_the_middle(pointings), others))
    assert everything["questions"] > 100
    assert beside["questions"] > 25
    assert everything["hit"][1] > 1.5 * everything["chance"]
    assert everything["mass"][1] > 1.5 * everything["area"]
    assert beside["hit"][1] > 1.5 * beside["chance"]
    assert everything["hit"][0] > habit["hit"][0] + 6


def test_maps_of_the_wrong_place_are_noticed(pointings):
    """The same answers, all right, with maps that are mirrored at the middle of the image."""
    mirrored = [one._replace(heat=one.heat[:, ::-1]) for one in pointings]
    right, wrong = figures_of(pointings), figures_of(mirrored)
    beside, wrong_beside = figures_of(beside_the_middle(pointings)), figures_of(beside_the_middle(mirrored))
    assert wrong["hit"][2] < right["hit"][0]
    assert wrong["mass"][2] < right["mass"][0]
    assert wrong_beside["hit"][0] < beside["hit"][0] / 2


def test_evidence_points_at_what_is_named_and_that_of_shuffled_boxes_is_found_out(run):
    """A head that learned from other images' boxes knows where a label usually is, and no more."""
    rows = list({row["image"]: row for row in run.dataset["train"]}.values())
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = [row | {"boxes": rows[other]["boxes"]} for row, other in zip(rows, order, strict=True)]
    true, false = (figures_of(_found_by(_train_head(run, chosen), run)) for chosen in (rows, shuffled))
    assert true["hit"][0] > 95 > true["center"] + 30
    assert true["mass"][0] > 60 > 3 * true["area"]
    assert false["hit"][2] < true["hit"][1]
    assert false["mass"][2] < true["mass"][1]


def _train_head(run: Run, rows: list[dict[str, Any]]) -> EvidenceHead:
    """A head that learned from rows to find what their labels name."""
    model = run.boxed
    targets = evidence_targets(model)
    torch.manual_seed(0)
    head = EvidenceHead(model.vision_top.fine_channels, 384, 14)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(6):
        for batch in torch.randperm(len(rows)).split(16):
            own = [rows[i] for i in batch.tolist()]
            found = targets(own)
            texts = head.embed_texts(torch.zeros_like(found["answers"]), found["answers"])
            evidence_loss(head(_places(head, run, own), texts, found["rows"]), found["masks"]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return head.eval()


def _places(head: EvidenceHead, run: Run, rows: list[dict[str, Any]]) -> torch.Tensor:
    patches = torch.stack([run.features[row["image"]] for row in rows])
    return head.embed_images(run.boxed.vision_top.unfold(patches))


def _found_by(head: EvidenceHead, run: Run) -> list[Pointing]:
    """What a head finds of what the answers of held-out rows name."""
    model, pointings = run.boxed, []
    for row in run.dataset["test"]:
        answer = model.evidence.answers[[model.config.label2id.get(row["answer"], 0)]]
        with torch.no_grad():
            texts = head.embed_texts(torch.zeros_like(answer), answer)
            cells = head(_places(head, run, [row]), texts, torch.tensor([0]))[0].sigmoid().numpy()
        pointings.append(Pointing(row, named_boxes("", row["answer"], row["boxes"]), cells / cells.sum()))
    return pointings
