"""Models, checkpoints and caches of version 0.1 are read as that version read them (saved_by_0_1/README.md)."""

import importlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModel, LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoConfig

import train
from modeling.asking.predictor import Predictor
from modeling.blip2.adapter import build_model
from modeling.blip2.family import describe_run
from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.blip2.starter import (
    Blip2StarterConfig,
    Blip2StarterForQuestionAnswering,
    blip2_starter_checkpoint,
    blip2_starter_folders,
)
from modeling.training.arguments import Blip2TrainingArguments
from modeling.training.checkpoints import find_checkpoint
from modeling.vilt.starter import ViltStarterConfig, ViltStarterForQuestionAnswering, starter_checkpoint
from processing.errors import UserError
from processing.phantom.files import DRAWING
from tests.modeling.version_0_1 import ANSWERS, CACHE_NAMES, SAVED

TOLERANCE = 1e-5  # relative; processors with other vector instructions differ by 3e-6
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A copy of the saved folders, in which the adapter names the folder of its base."""
    folder = tmp_path_factory.mktemp("copy") / "saved"
    shutil.copytree(SAVED, folder)
    file = folder / "opt" / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": str(folder / "opt_base")}
    file.write_text(json.dumps(config))
    shutil.copytree(folder / "opt", folder / "choosing")
    answering = json.loads((folder / "opt" / "answering.json").read_text()) | ANSWERS["choosing"]["answering"]
    (folder / "choosing" / "answering.json").write_text(json.dumps(answering))
    return folder


@pytest.mark.parametrize("name", ["vilt", "opt", "choosing"])
def test_model_gives_the_answers_and_the_heat_map_that_it_gave(saved, name):
    predictor = Predictor.from_pretrained(saved / name, dtype="float32")
    expected = ANSWERS[name]["answers"]
    assert len({answer["answer"] for answer in expected}) >= 4
    for image in ("0.png", "1.png", "2.png"):
        rows = [row for row in expected if row["image"] == image]
        answers = predictor.answer_batch(SAVED / "images" / image, [row["question"] for row in rows], top_k=3)
        for row, answer in zip(rows, answers, strict=True):
            check_answer(asdict(answer), row)
    heat = ANSWERS[name]["heat_map"]
    found = predictor.heat_map(SAVED / "images" / heat["image"], heat["question"], heat["answer"])
    np.testing.assert_allclose(found, np.array(heat["map"]), atol=1e-5)


def check_answer(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("answer", "question_cut", "silent"):
        assert found[name] == expected[name], expected["question"]
    assert found["confidence"] == pytest.approx(expected["confidence"], rel=TOLERANCE)
    pairs = zip(found["alternatives"], expected["alternatives"], strict=True)
    for one, other in pairs:
        assert one["answer"] == other["answer"], expected["question"]
        assert one["confidence"] == pytest.approx(other["confidence"], rel=TOLERANCE)


def test_some_of_the_answers_are_withheld():
    for name in ("vilt", "choosing"):
        assert {answer["silent"] for answer in ANSWERS[name]["answers"]} == {True, False}


def test_peft_finds_the_class_that_an_adapter_names(saved):
    for name, expected in (("opt", Blip2ForQuestionAnswering), ("blip2_starter", Blip2StarterForQuestionAnswering)):
        mapping = json.loads((SAVED / name / "adapter_config.json").read_text())["auto_mapping"]
        module = importlib.import_module(mapping["parent_library"])
        assert getattr(module, mapping["base_model_class"]) is expected
    model = AutoPeftModel.from_pretrained(saved / "opt", import_allowlist=["modeling.blip2_model"])
    assert type(model.get_base_model()) is Blip2ForQuestionAnswering


# The starters, whose weights are too large to keep here --------------------------------------------------------------


def saved_parameters(name: str) -> dict[str, tuple[torch.dtype, torch.Size]]:
    parameters = json.loads((SAVED / name).read_text())
    return {name: (DTYPES[dtype], torch.Size(shape)) for name, (dtype, shape) in parameters.items()}


def parameters_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (value.dtype, value.shape) for name, value in state.items()}


def test_vilt_starter_has_the_parameters_that_were_saved():
    config = AutoConfig.from_pretrained(SAVED / "starter")
    assert type(config) is ViltStarterConfig
    with torch.device("meta"):
        model = ViltStarterForQuestionAnswering(config)
    assert parameters_of(model.state_dict()) == saved_parameters("starter/parameters.json")


@pytest.fixture
def blip2_starter():
    """The base of the BLIP-2 starter, without memory for its weights."""
    config = AutoConfig.from_pretrained(SAVED / "blip2_starter")
    assert type(config) is Blip2StarterConfig
    with torch.device("meta"):
        model = Blip2StarterForQuestionAnswering(config)
        model.language_model.to(torch.bfloat16)
    return model


def test_blip2_starter_has_the_parameters_that_were_saved(blip2_starter):
    tied = "language_model.lm_head.weight"  # the word embeddings, which are saved once
    found = parameters_of(blip2_starter.state_dict())
    assert found.pop(tied) == found["language_model.model.embed_tokens.weight"]
    assert found == saved_parameters("blip2_starter/parameters.json")


def test_adapter_on_the_blip2_starter_has_the_parameters_that_were_saved(blip2_starter):
    config = LoraConfig.from_pretrained(SAVED / "blip2_starter")
    with torch.device("meta"):
        model = get_peft_model(blip2_starter, config)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    assert parameters_of(state) == saved_parameters("blip2_starter/adapter_parameters.json")


# Runs that version 0.1 began -----------------------------------------------------------------------------------------


@pytest.mark.skipif(DRAWING != 1, reason="phantoms are drawn in another way now")
def test_run_resumes_from_a_checkpoint_to_the_losses_that_followed(phantoms, tmp_path):
    checkpoint = tmp_path / "checkpoint-402"
    shutil.copytree(SAVED / "vilt_checkpoint", checkpoint)
    shutil.copy(SAVED / "vilt" / "model.safetensors", checkpoint)
    flags = ["--model_name_or_path", "scratch:tiny", "--learning_rate", "1e-2", "--optim", "adafactor"]
    flags += ["--lr_scheduler_type", "constant", "--per_device_train_batch_size", "16", "--max_steps", "408"]
    flags += ["--logging_steps", "3", "--save_strategy", "no", "--do_eval", "False", "--fp16", "False"]
    with pytest.raises(UserError, match=r"checkpoint-402 is from another run \(its evidence_labels differs\)"):
        train.main([*flags, "--dataset", str(phantoms), "--output_dir", str(tmp_path)])
    flags += ["--evidence_weight", "0"]  # which there was not in 0.1
    train.main([*flags, "--disable_tqdm", "True", "--dataset", str(phantoms), "--output_dir", str(tmp_path)])
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    losses = {str(entry["step"]): entry["loss"] for entry in history if "loss" in entry and entry["step"] > 402}
    assert losses == pytest.approx(ANSWERS["resumed_losses"], rel=10 * TOLERANCE)  # after six steps


def test_checkpoint_of_an_adapter_belongs_to_a_run_with_the_same_flags(saved, dataset, tmp_path, caplog):
    shutil.copytree(saved / "opt", tmp_path / "checkpoint-400")
    shutil.copy(SAVED / "vilt_checkpoint" / "trainer_state.json", tmp_path / "checkpoint-400")
    torch.save({}, tmp_path / "checkpoint-400" / "scheduler.pt")
    args = Blip2TrainingArguments(
        output_dir=str(tmp_path),
        model_name_or_path=str(saved / "opt_base"),
        lora_targets=["attention", "dense", "projection", "language_model"],
        lora_dropout=0.0,
        fp16=False,
        resume_from_checkpoint=str(tmp_path / "checkpoint-400"),
    )
    model, _ = build_model(args, dataset)
    with pytest.raises(UserError, match=r"checkpoint-400 is from another run \(its modules_to_save differs\)"):
        find_checkpoint(args, describe_run(model))
    args.evidence_weight = 0.0  # no evidence head, as there was none in 0.1
    model, _ = build_model(args, dataset)
    assert find_checkpoint(args, describe_run(model)) == str(tmp_path / "checkpoint-400")


# Caches --------------------------------------------------------------------------------------------------------------


def test_assembled_starters_are_found_where_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path))
    for name in ("starter", "blip2_starter"):
        (tmp_path / "starter" / CACHE_NAMES[name]).mkdir(parents=True)
    assert starter_checkpoint().name == CACHE_NAMES["starter"]
    [folder] = [folder for folder in blip2_starter_folders() if folder.name == CACHE_NAMES["blip2_starter"]]
    assert blip2_starter_checkpoint(folder) == folder
