"""Do heat maps of a trained model point at what its answer names?"""

import pytest
import torch

from metrics.grounding import grounding_figures, named_boxes, point
from modeling.asking.predictor import Predictor
from modeling.training.arguments import ViltTrainingArguments
from modeling.vilt.checkpoints import build_model
from modeling.vilt.family import build_trainer
from modeling.vilt.predictor import ViltPredictor
from processing.data import load_vqa_dataset
from processing.images import open_image
from processing.phantom.files import write_phantoms


@pytest.fixture(scope="module")
def pointing(tmp_path_factory):
    """What a trained starter answers rightly to questions whose answer names something that the image has a box of:
    the row, the boxes, and the map."""
    folder = write_phantoms(tmp_path_factory.mktemp("pointing") / "set", num_images=300)
    dataset = load_vqa_dataset(str(folder)).filter(lambda row: named_boxes("", row["answer"], row["boxes"]))
    args = ViltTrainingArguments(  # as recipes/vilt_starter_phantom.yaml, in smaller batches
        output_dir=str(folder.parent / "run"),
        **{"model_name_or_path": "starter", "vision_learning_rate": 0, "learning_rate": 5e-4, "weight_decay": 0.05},
        **{"num_train_epochs": 12, "per_device_train_batch_size": 16, "questions_per_image": 4, "warmup_steps": 0.1},
        **{"lr_scheduler_type": "cosine", "save_strategy": "no", "eval_strategy": "no", "disable_tqdm": True},
    )
    torch.manual_seed(0)
    model, processor = build_model(args, dataset)
    del model.encoder.layer[1:]  # one layer learns in a minute where to look, three take ten
    build_trainer(args, model, processor, dataset).train()
    predictor = Predictor(ViltPredictor(model, processor, torch.device("cpu"), torch.float32))
    found = []
    for row in [*dataset["validation"], *dataset["test"]]:
        if predictor.answer(row["image"], row["question"], top_k=1).answer == row["answer"]:
            boxes = named_boxes("", row["answer"], row["boxes"])
            found.append((row, boxes, predictor.heat_map(row["image"], row["question"])))
    return found


def figures_of(found):
    rows = [
        {
            **{"image_id": row["image_id"], "correct": True, "boxes": boxes},
            "pointing": point(heat, boxes, open_image(row["image"]).size),
        }
        for row, boxes, heat in found
    ]
    return grounding_figures(rows)[0]


def beside_the_middle(found):
    return [one for one in found if not figures_of([one])["center"]]


def test_maps_point_at_what_the_answer_names(pointing):
    """Far more often than chance; also where always pointing at the middle of the image would never hit; and more
    often than the maps of the same images' other answers, which a fixed habit would equal."""
    others = [
        (row, boxes, heat)
        for row, boxes, _ in pointing
        for other, _, heat in pointing
        if row["image"] == other["image"] and row["answer"] != other["answer"]
    ]
    everything, beside, habit = (figures_of(part) for part in (pointing, beside_the_middle(pointing), others))
    print(everything, beside, habit, sep="\n")
    assert everything["questions"] > 100
    assert beside["questions"] > 25
    assert everything["hit"][1] > 1.5 * everything["chance"]
    assert everything["mass"][1] > 1.5 * everything["area"]
    assert beside["hit"][1] > 1.5 * beside["chance"]
    assert everything["hit"][0] > habit["hit"][0] + 6


def test_model_that_looks_at_the_wrong_place_is_found_out(pointing):
    """The same answers, all right, with maps that are mirrored at the middle of the image."""
    mirrored = [(row, boxes, heat[:, ::-1]) for row, boxes, heat in pointing]
    right, wrong = figures_of(pointing), figures_of(mirrored)
    beside, wrong_beside = figures_of(beside_the_middle(pointing)), figures_of(beside_the_middle(mirrored))
    print(wrong, wrong_beside, sep="\n")
    assert wrong["hit"][2] < right["hit"][0]
    assert wrong["mass"][2] < right["mass"][0]
    assert wrong_beside["hit"][0] < beside["hit"][0] / 2
