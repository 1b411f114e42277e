"""The phantom data set as rows, and real rows."""

import datasets
import pytest

from processing.data import load_vqa_dataset


@pytest.fixture(scope="session")
def dataset(phantoms) -> datasets.DatasetDict:
    return load_vqa_dataset(str(phantoms))


@pytest.fixture(scope="session")
def images(dataset) -> list[str]:
    """The paths of its training images."""
    return list(dict.fromkeys(dataset["train"]["image"]))


@pytest.fixture(scope="session")
def slake_rows(slake) -> datasets.DatasetDict:
    """The English rows of the real SLAKE."""
    return load_vqa_dataset(str(slake))
