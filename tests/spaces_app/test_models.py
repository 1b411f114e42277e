"""spaces_app.models: what is loaded once for all visitors."""

import gc
import time

import pytest

from processing.errors import UserError
from spaces_app.models import Loading


@pytest.fixture
def melted():
    """Undoes what a load does to this process."""
    gc.unfreeze()
    yield
    gc.unfreeze()


def loaded(loading):
    """The models, once they are there."""
    end = time.monotonic() + 120
    while (models := loading.models()) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return models


def test_models_and_their_packages_are_left_out_of_the_look_for_garbage_after_each_run(trained, melted, monkeypatch):
    monkeypatch.setenv("MODEL_ID", str(trained))
    monkeypatch.setenv("MODEL_DTYPE", "float32")
    before = len(gc.get_objects())
    models = loaded(Loading())
    assert list(models) == [str(trained)]
    frozen, looked_at = gc.get_freeze_count(), len(gc.get_objects())
    assert frozen > before * 0.9
    assert looked_at < frozen / 10


def test_a_model_that_can_not_be_loaded_is_told_and_tried_again_later(tmp_path, melted, monkeypatch):
    monkeypatch.setenv("MODEL_ID", str(tmp_path))
    loading = Loading()
    with pytest.raises(UserError, match=str(tmp_path)):
        loaded(loading)
    first = loading.began
    with pytest.raises(UserError, match=str(tmp_path)):
        loading.models()
    assert loading.began == first
