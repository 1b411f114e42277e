"""Folders to push, and the client that pushes them."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import CommitInfo, HfApi

from tests.modeling.hub.samples import CARD, MODEL, WEIGHTS


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(token="hf_write")


@pytest.fixture
def client_waits(monkeypatch) -> list[float]:
    """How long the client itself waits before it tries again; it doesn't, in tests."""
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture
def model_folder(tmp_path) -> Path:
    """A folder with a card, a config and weights."""
    folder = tmp_path / "model"
    (folder / "metrics").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text("{}")
    (folder / "metrics" / "test.json").write_text('{"accuracy": 0.8}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return folder


@pytest.fixture
def pushed(api, model_folder) -> CommitInfo:
    """The commit of `model_folder` on the Hub."""
    api.create_repo(MODEL)
    return api.upload_folder(repo_id=MODEL, folder_path=model_folder)


@pytest.fixture(scope="package")
def finished(phantoms, tmp_path_factory) -> Path:
    """The folder of a run that ended."""
    from tests.modeling.hub.pushing import run

    folder = tmp_path_factory.mktemp("finished") / "out"
    run("--dataset", phantoms, "--output_dir", folder, "--do_predict")
    return folder


@pytest.fixture
def run_folder(finished, tmp_path) -> Path:
    """A copy of `finished`, which a test may change."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"
