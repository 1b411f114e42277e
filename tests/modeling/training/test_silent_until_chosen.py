"""A run with `--target_risk` that is killed while it saves: nothing that it leaves answers."""

import json
import shutil

import pytest
import safetensors.torch
import transformers.modeling_utils

import train
from metrics.abstention import SILENT_EVERYWHERE
from modeling.asking.predictor import Predictor
from modeling.writing.answering import Answering
from tests.support.killed import Killed
from tests.support.tiny_blip2 import tiny_blip2

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models

COMMON = ["--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", "True"]
COMMON += ["--fp16", "False", "--target_risk", "0.2"]


@pytest.fixture(autouse=True)
def few_answers_suffice(monkeypatch):
    monkeypatch.setattr("modeling.training.checks.MIN_ANSWERS", 21)


def killed_after(save):
    """A function that saves weights and does not live to do anything else."""

    def die(*args, **options):
        save(*args, **options)
        raise Killed

    return die


def test_blip2_killed_after_its_weights_are_written_is_silent(phantoms, dataset, tmp_path, monkeypatch):
    base, out = tiny_blip2("opt", dataset, tmp_path / "base"), tmp_path / "out"
    for folder in (out, out / "merged"):  # what a run that answered everything left
        folder.mkdir()
        Answering(threshold=0.0).save(folder)
    flags = ["--model_type", "blip2", "--model_name_or_path", str(base), "--dataset", str(phantoms), *COMMON]
    flags += ["--merge_adapter", "True", "--output_dir", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr("peft.peft_model.safe_save_file", killed_after(safetensors.torch.save_file))
        with pytest.raises(Killed):
            train.main(flags)
    assert (out / "adapter_model.safetensors").is_file()
    assert json.loads((out / "answering.json").read_text())["threshold"] == SILENT_EVERYWHERE > 1
    with monkeypatch.context() as patch:
        patch.setattr(transformers.modeling_utils, "safe_save_file", killed_after(safetensors.torch.save_file))
        with pytest.raises(Killed):
            train.main(flags)
    for folder in (out, out / "merged"):
        assert list(folder.glob("*model.safetensors"))
        assert json.loads((folder / "answering.json").read_text())["threshold"] == SILENT_EVERYWHERE
    shutil.copytree(base, out / "merged", dirs_exist_ok=True)  # with the tokenizer, which was not saved yet
    rows = dataset["validation"]
    answers = Predictor.from_pretrained(out / "merged").answer_batch(list(rows["image"]), list(rows["question"]), 1)
    assert len(answers) == len(rows)
    assert all(answer.silent for answer in answers)


def test_vilt_killed_after_its_weights_are_written_is_silent(phantoms, runs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(runs("vilt"), out)  # what a run that answered everything left
    assert json.loads((out / "config.json").read_text())["answer_threshold"] == 0
    monkeypatch.setattr(transformers.modeling_utils, "safe_save_file", killed_after(safetensors.torch.save_file))
    flags = ["--model_name_or_path", "scratch:tiny", "--dataset", str(phantoms), *COMMON, "--output_dir", str(out)]
    with pytest.raises(Killed):
        train.main(flags)
    assert (out / "model.safetensors").read_bytes() != (runs("vilt") / "model.safetensors").read_bytes()
    assert json.loads((out / "config.json").read_text())["answer_threshold"] == SILENT_EVERYWHERE
    assert Predictor.from_pretrained(out).abstention_threshold == SILENT_EVERYWHERE
