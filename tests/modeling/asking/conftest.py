"""Models to ask: untrained ones with large weights, and those that `train.py` trained a little."""

import pytest
import torch

from modeling.asking.predictor import Predictor
from modeling.blip2.base import load_base
from modeling.blip2.predictor import Blip2Predictor
from modeling.parts.model_files import open_model
from modeling.training.arguments import ViltTrainingArguments
from modeling.vilt.checkpoints import build_model
from modeling.vilt.predictor import ViltPredictor
from modeling.writing.answering import Answering
from processing.images import open_image
from tests.support.tiny_blip2 import tiny_blip2

QUESTION = "Is the left lung healthy?"


@pytest.fixture(scope="package")
def image(dataset):
    """Wider than high, so that rows and columns can't be mixed up."""
    return open_image(dataset["train"]["image"][0]).resize((96, 64))


@pytest.fixture(scope="package")
def untrained(dataset, tmp_path_factory):
    """A function from the kind of a model to its predictor. The models are untrained, with large weights."""
    folder = tmp_path_factory.mktemp("untrained")
    made: dict[str, Predictor] = {}

    def vilt(name: str) -> Predictor:
        args = ViltTrainingArguments(
            output_dir=str(folder),
            model_name_or_path=name,
            fp16=False,
            evidence_weight=0.0 if "scratch" in name else 0.5,
        )
        torch.manual_seed(0)
        model, processor = build_model(args, dataset)
        if name == "scratch:tiny":
            for parameter in [p for p in model.parameters() if p.ndim > 1]:
                torch.nn.init.normal_(parameter, std=0.3)
        return Predictor(ViltPredictor(model, processor, torch.device("cpu"), torch.float32))

    def blip2(kind: str) -> Predictor:
        model, processor = load_base(open_model(str(tiny_blip2(kind, dataset, folder / kind))), torch.float32)
        candidates = ["Yes", "No", "Left Lung"] if kind == "llama" else None
        answering = Answering(max_new_tokens=5, candidates=candidates)
        return Predictor(Blip2Predictor(model, processor, torch.device("cpu"), answering))

    def predictor(kind: str) -> Predictor:
        if kind not in made:
            names = {"vilt": "scratch:tiny", "starter": "starter"}
            made[kind] = vilt(names[kind]) if kind in names else blip2(kind)
        return made[kind]

    return predictor


@pytest.fixture(scope="package")
def trained_predictor(runs):
    """A function from the name of a run to its predictor in float32, which tests share and leave as it is."""
    made: dict[str, Predictor] = {}

    def predictor(name: str) -> Predictor:
        if name not in made:
            made[name] = Predictor.from_pretrained(runs(name), dtype="float32")
        made[name]._kept.clear()
        return made[name]

    return predictor


@pytest.fixture
def vilt(trained_predictor) -> Predictor:
    return trained_predictor("vilt")


@pytest.fixture
def starter(trained_predictor) -> Predictor:
    return trained_predictor("starter")
