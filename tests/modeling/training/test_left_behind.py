"""What a run leaves in its folder: no token, and no path that is not of the command line."""

import shutil
import site
import sys
import tempfile
from pathlib import Path

import pytest

import train
from processing.data import load_vqa_dataset
from processing.storage import cache_dir
from tests.support.app_server import ROOT
from tests.support.files import contents
from tests.support.tiny_blip2 import tiny_blip2

TOKEN = "hf_" + "Secret" * 6
BLIP2 = ["--model_type", "blip2", "--merge_adapter", "True"]
FAMILIES = {
    "vilt": ["--model_name_or_path", "scratch:tiny"],
    "starter": ["--model_name_or_path", "starter"],
    "blip2": [*BLIP2, "--model_name_or_path", "base"],
    "blip2_starter": [*BLIP2, "--model_name_or_path", "starter", "--lora_targets", "language_model"],
}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.xdist_group("blip2_starter")) for name in FAMILIES]
)
def test_no_file_of_a_run_holds_a_token_or_a_path_of_this_machine(phantoms, tmp_path, monkeypatch, family, caplog):
    pytest.importorskip("tensorboard")
    caplog.set_level("INFO")
    shutil.copytree(phantoms, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    if family == "blip2":
        tiny_blip2("opt", load_vqa_dataset("data"), Path("base"))
    (tmp_path / "settings.json").write_text('{"even_batches": false}')
    flags = [*FAMILIES[family], "--dataset", "data", "--max_steps", "2", "--max_train_samples", "8"]
    flags += ["--max_eval_samples", "4", "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no"]
    flags += ["--report_to", "tensorboard", "--disable_tqdm", "True", "--feature_cache_gb", "0", "--hub_token", TOKEN]
    train.main([*flags, "--accelerator_config", str(tmp_path / "settings.json"), "--output_dir", "out"])

    files = contents(tmp_path / "out")
    assert {"checkpoint-2/training_args.bin", "training_args.bin", "recipe.yaml", "README.md"} <= set(files)
    packages = {*site.getsitepackages(), site.getusersitepackages(), sys.prefix, str(ROOT)}
    secrets = {
        TOKEN,
        str(tmp_path),
        str(phantoms),
        str(Path.home()),
        tempfile.gettempdir() + "/",  # four letters alone stand in weights by chance
        str(cache_dir()),
        *packages,
    }
    found = {(name, text) for name, content in files.items() for text in secrets if text.encode() in content}
    assert not found
    assert TOKEN not in caplog.text
