"""The phantom data set as rows, and real rows."""

import functools
from collections.abc import Iterator

import datasets
import gguf
import pytest

from processing.data import load_vqa_dataset


@pytest.fixture(scope="session")
def dataset(phantoms) -> datasets.DatasetDict:
    return load_vqa_dataset(str(phantoms))


@pytest.fixture(scope="session", autouse=True)
def language_model_read_once() -> Iterator[None]:
    """To assemble the BLIP-2 starter takes half the time: transformers reads the same GGUF file again and again."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GGUFReader", "get_tensor_name_map"):
            patch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
        yield


@pytest.fixture(scope="session")
def images(dataset) -> list[str]:
    """The paths of its training images."""
    return list(dict.fromkeys(dataset["train"]["image"]))


@pytest.fixture(scope="session")
def slake_rows(slake) -> datasets.DatasetDict:
    """The English rows of the real SLAKE."""
    return load_vqa_dataset(str(slake))
