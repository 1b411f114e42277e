"""What the Hub refuses of a model: one sentence for each reason, in training, in a Predictor and before a push."""

import html

import pytest
from streamlit.testing.v1 import AppTest

import train
from modeling.asking.predictor import Predictor
from modeling.hub.client import Destination, find_model
from modeling.parts.model_files import open_model
from processing.errors import UserError
from spaces_app import gradio_app, models
from tests.modeling.bases.conftest import MLM
from tests.support.app_server import ROOT

TOKEN = "the Hub rejects the token; log in again with `hf auth login`, or correct or unset HF_TOKEN."
GATED = "the model is gated; accept its terms on its page of the Hub, and log in with `hf auth login`."
MISSING = "the Hub has no such model, or it is private; check the name, or log in with `hf auth login`."
REVISION = "the model has no revision v9; name a branch, tag or commit of it."
OFFLINE = "not in the cache, and HF_HUB_OFFLINE is set; load it once with a connection, or give a folder."
NETWORK = "not in the cache, and the Hub can't be reached ("


def told(name: str, revision: str | None, folder) -> set[str]:
    """How training and a Predictor end, without the name of the model."""
    flags = ["--model_type", "vilt", "--model_name_or_path", name, "--output_dir", str(folder)]
    flags += [] if revision is None else ["--model_revision", revision]
    sentences = set()
    for ask in (lambda: train.main(flags), lambda: Predictor.from_pretrained(name, revision=revision)):
        with pytest.raises(UserError) as error:
            ask()
        assert "\n" not in str(error.value)
        sentences.add(str(error.value))
    return sentences


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr(train, "load_vqa_dataset", lambda *_, **__: pytest.fail("the data set was loaded"))


def test_invalid_token(mlm, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert told(MLM, None, tmp_path / "out") == {f"{MLM}: {TOKEN}"}


def test_gated_model(mlm, hub, tmp_path):
    hub.fail("HEAD", "/resolve/", status=403, times=99, headers={"X-Error-Code": "GatedRepo"})
    assert told(MLM, None, tmp_path / "out") == {f"{MLM}: {GATED}"}


def test_gated_weights_of_a_model_whose_config_is_cached(mlm, hub):
    files = open_model(MLM)
    hub.fail("HEAD", "/resolve/", status=403, times=99, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(UserError) as error:
        files.weights(read_pickled=True)
    assert str(error.value) == f"{MLM}: {GATED}"


def test_missing_model_and_missing_revision(mlm, tmp_path):
    assert told("user/none", None, tmp_path / "out") == {f"user/none: {MISSING}"}
    assert told(MLM, "v9", tmp_path / "out") == {f"{MLM}: {REVISION}"}


def test_no_network_and_a_hub_that_is_switched_off(mlm, hub, offline, tmp_path):
    hub.fail("GET", "/api/models", drop=True, times=99)
    sentences = told(MLM, None, tmp_path / "out")
    assert all(sentence.startswith(f"{MLM}: {NETWORK}") for sentence in sentences)
    offline()
    assert told(MLM, None, tmp_path / "out") == {f"{MLM}: {OFFLINE}"}


def test_cache_serves_where_the_hub_fails(mlm, hub):
    commit = open_model(MLM).commit
    hub.fail("GET", "/api/models", status=503, times=99)
    assert open_model(MLM).commit == commit
    assert open_model(MLM).weights(read_pickled=True).is_dir()


def test_weights_that_were_not_fetched_are_told_offline(mlm, hub, offline):
    files = open_model(MLM)
    offline()
    with pytest.raises(UserError) as error:
        files.weights(read_pickled=True)
    assert str(error.value) == f"{MLM}: {OFFLINE}"


def test_base_of_a_push_is_told_alike(mlm, hub, token, waits, monkeypatch):
    destination, flag = Destination("user/model"), "--model_name_or_path"
    with pytest.raises(UserError) as error:
        find_model(destination, flag, "user/none")
    assert str(error.value) == f"{flag} user/none: {MISSING}"
    hub.fail("GET", "/api/models", status=403, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(UserError) as error:
        find_model(destination, flag, MLM)
    assert str(error.value) == f"{flag} {MLM}: {GATED}"
    with pytest.raises(UserError) as error:
        find_model(Destination("user/model", token="hf_wrong"), flag, MLM)
    assert str(error.value) == f"{flag} {MLM}: {TOKEN}"
    hub.fail("GET", "/api/models", drop=True, times=99)
    with pytest.raises(UserError, match="the Hub can't be reached"):
        find_model(destination, flag, MLM)


def gated(hub, monkeypatch) -> None:
    hub.fail("HEAD", "/resolve/", status=403, times=99, headers={"X-Error-Code": "GatedRepo"})


def invalid_token(hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")


def no_network(hub, monkeypatch) -> None:
    hub.fail("GET", "/api/models", drop=True, times=99)


@pytest.mark.parametrize(("trouble", "sentence"), [(gated, GATED), (invalid_token, TOKEN), (no_network, NETWORK)])
def test_both_apps_say_it_too(mlm, hub, monkeypatch, trouble, sentence):
    monkeypatch.setenv("MODEL_ID", MLM)
    monkeypatch.setattr(models, "LOADING", models.Loading())
    trouble(hub, monkeypatch)
    with pytest.raises(UserError) as error:
        gradio_app.load()
    assert str(error.value).startswith(f"{MLM}: {sentence}")
    page = AppTest.from_file(str(ROOT / "spaces_app" / "page.py"), default_timeout=120).run()
    shown = [html.unescape(element.proto.body) for element in page.get("html")]
    assert any(f"The model can't be loaded. {MLM}: {sentence}" in text for text in shown)
