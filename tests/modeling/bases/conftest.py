"""Imitations of base models in repos of the Hub, and caches of their own."""

from collections.abc import Callable

import datasets
import pytest

from processing.storage import cache_dir
from tests.support.hub.server import HubServer
from tests.support.hub_models import blip2_files, vilt_files

MLM, VQA = "dandelin/vilt-b32-mlm", "dandelin/vilt-b32-finetuned-vqa"
ANSWERS = ("yes", "no", "2")


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Empty caches: the Hub's, whose folder its client has read already, and the project's."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(folder / "medical-vqa"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Switches the Hub off, as `HF_HUB_OFFLINE=1` does."""
    return lambda: monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def texts(dataset: datasets.DatasetDict) -> list[str]:
    return [text for row in dataset["train"] for text in (row["question"], row["answer"])]


@pytest.fixture
def mlm(hub: HubServer, dataset: datasets.DatasetDict) -> dict:
    """The weights of `dandelin/vilt-b32-mlm` on the Hub."""
    hub.repos[f"models/{MLM}"], weights = vilt_files(dataset["train"]["question"])
    return weights


@pytest.fixture
def vqa(hub: HubServer, dataset: datasets.DatasetDict) -> dict:
    """The weights of `dandelin/vilt-b32-finetuned-vqa` on the Hub."""
    hub.repos[f"models/{VQA}"], weights = vilt_files(dataset["train"]["question"], ANSWERS)
    return weights


@pytest.fixture
def blip2(hub: HubServer, texts: list[str]) -> Callable[..., dict]:
    """Puts a BLIP-2 on the Hub and returns its weights."""

    def put(kind: str, name: str, year: int = 2026) -> dict:
        hub.repos[f"models/{name}"], weights = blip2_files(kind, texts, year)
        return weights

    return put


def converted() -> list[str]:
    """What the project's cache holds of converted weights."""
    folder = cache_dir() / "converted"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
