"""modeling.vlm.separate: models of other architectures, whose questions are read one by one, or that are refused."""

import logging

import pytest

from modeling.parts.kinds import CHAT_MODELS, family_of
from modeling.vlm.architectures import ARCHITECTURES
from modeling.vlm.images import VisionPart
from modeling.vlm.separate import make_reader
from processing.errors import UserError
from tests.modeling.vlm.tiny_runs import trained
from tests.support.tiny_vlms import MAKERS, save_tiny_vlm, tiny_vlm

OTHER_KINDS = {"mistral3": "vlm", "paligemma": None, "mllama": None, "instructblip": None, "git": None, "bert": None}


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    """A folder with a model whose layers are recurrent in part."""
    return save_tiny_vlm("qwen3_5", tmp_path_factory.mktemp("recurrent"))


def test_a_run_says_that_nothing_is_shared(recurrent, dataset, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = trained(recurrent, tmp_path, dataset, evidence_weight=1.0, max_steps=1)
    assert f"{recurrent}: questions about one image are read one by one, as no shared prefix is known" in caplog.text
    assert trainer.answering.evidence_labels is None


def test_features_that_change_the_answer_are_refused(monkeypatch):
    tiny = tiny_vlm("aya_vision")
    right = VisionPart.forward
    monkeypatch.setattr(VisionPart, "forward", lambda self, pixels: right(self, pixels) * 2)
    wanted = r"^tiny: a model of type aya_vision can't answer from kept features of its images \(its logits differ by "
    with pytest.raises(UserError, match=wanted):
        make_reader(tiny.model, tiny.processor, "tiny")


def test_a_model_that_can_not_be_asked_so_is_refused(monkeypatch):
    tiny = tiny_vlm("aya_vision")
    monkeypatch.delattr(type(tiny.model.model), "get_image_features")
    with pytest.raises(UserError, match=r"^tiny: a model of type aya_vision can't answer from kept features"):
        make_reader(tiny.model, tiny.processor, "tiny")


@pytest.mark.parametrize(("model_type", "family"), OTHER_KINDS.items())
def test_families_of_other_kinds(model_type, family):
    assert family_of(model_type) == family


def test_every_model_that_shares_its_prefix_is_known_and_tested():
    assert tuple(ARCHITECTURES) == tuple(MAKERS) == CHAT_MODELS
