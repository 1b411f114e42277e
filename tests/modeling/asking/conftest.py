"""Models to ask."""

import pytest
import torch

from modeling.asking.predictor import Predictor
from modeling.blip2.answering import Answering
from modeling.blip2.base import load_base
from modeling.blip2.predictor import Blip2Predictor
from modeling.training.arguments import ViltTrainingArguments
from modeling.vilt.checkpoints import build_model
from modeling.vilt.predictor import ViltPredictor
from processing.images import open_image
from tests.support.tiny_blip2 import tiny_blip2

QUESTION = "Is the left lung healthy?"


@pytest.fixture(scope="module")
def image(dataset):
    """Wider than high, so that rows and columns can't be mixed up."""
    return open_image(dataset["train"]["image"][0]).resize((96, 64))


@pytest.fixture(scope="module")
def predictors(dataset, tmp_path_factory):
    """A function from the kind of a model to its predictor; the models are untrained, with large weights."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Predictor] = {}

    def vilt(name: str) -> Predictor:
        args = ViltTrainingArguments(output_dir=str(folder), model_name_or_path=name, fp16=False)
        torch.manual_seed(0)
        model, processor = build_model(args, dataset)
        if name == "scratch:tiny":
            for parameter in [p for p in model.parameters() if p.ndim > 1]:
                torch.nn.init.normal_(parameter, std=0.3)
        return Predictor(ViltPredictor(model, processor, torch.device("cpu"), torch.float32))

    def of(kind: str) -> Predictor:
        if kind in made:
            return made[kind]
        if kind in ("vilt", "starter"):
            made[kind] = vilt("scratch:tiny" if kind == "vilt" else kind)
        else:
            base = load_base(str(tiny_blip2(kind, dataset, folder / kind)), torch.float32)
            candidates = ["Yes", "No", "Left Lung"] if kind == "llama" else None
            answering = Answering(max_new_tokens=5, candidates=candidates)
            made[kind] = Predictor(Blip2Predictor(*base, torch.device("cpu"), answering))
        return made[kind]

    return of


@pytest.fixture
def vilt(runs):
    return Predictor.from_pretrained(runs("vilt"), dtype="float32")


@pytest.fixture
def starter(runs):
    return Predictor.from_pretrained(runs("starter"), dtype=torch.float32)


@pytest.fixture(scope="module")
def images(dataset):
    return list(dict.fromkeys(dataset["train"]["image"]))
