"""Untrained ViLT models and their processors."""

import copy

import pytest
import torch

from modeling.vilt.checkpoints import build_model
from modeling.vilt.family import build_trainer
from tests.modeling.vilt.arguments import arguments, starter_arguments


@pytest.fixture
def built(dataset, tmp_path):
    torch.manual_seed(0)
    return build_model(arguments(tmp_path), dataset)


@pytest.fixture(scope="package")
def loaded_starter(dataset, tmp_path_factory):
    """The starter, for `starter` to copy."""
    torch.manual_seed(0)
    return build_model(starter_arguments(tmp_path_factory.mktemp("starter")), dataset)


@pytest.fixture
def starter(loaded_starter):
    """The starter and its processor, which a test may change."""
    return copy.deepcopy(loaded_starter)


@pytest.fixture
def collate(starter, dataset, tmp_path):
    """The collator of the starter, with kept features and states."""
    return build_trainer(starter_arguments(tmp_path), *starter, dataset).data_collator
