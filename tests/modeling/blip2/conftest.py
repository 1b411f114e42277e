"""Tiny BLIP-2 models of three kinds, and rows to ask them."""

from pathlib import Path

import pytest
import transformers

from modeling.blip2.network import Blip2ForQuestionAnswering
from tests.modeling.blip2.tiny_runs import KINDS, TinyModel, untrained
from tests.support.tiny_blip2 import tiny_blip2


@pytest.fixture(scope="package")
def bases(dataset, tmp_path_factory) -> dict[str, Path]:
    """A folder with a tiny BLIP-2 of each kind, as the Hub's are laid out."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: tiny_blip2(kind, dataset, folder / kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def tiny(request, bases, dataset, tmp_path) -> TinyModel:
    base = bases[request.param]
    model = Blip2ForQuestionAnswering.from_pretrained(base).eval()
    stock = transformers.Blip2ForConditionalGeneration.from_pretrained(base).eval()
    return TinyModel(request.param, model, stock, untrained(base, tmp_path, dataset).data_collator)


@pytest.fixture
def rows(dataset):
    return [dataset["train"][i] for i in (0, 1, 2, 3, 20, 21, 22, 40)]  # of three images, 4, 3 and 1
