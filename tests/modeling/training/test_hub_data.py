"""A run on a data set of the Hub keeps which commit and configuration of it were read."""

import json

import yaml

import train
from tests.support.hub_data_sets import slake_english

NAME = "mdwiratathya/SLAKE-vqa-english"


def test_run_record_names_the_commit_and_the_configuration(hub, tmp_path):
    hub.repos[f"datasets/{NAME}"] = slake_english().files
    commit = hub.commit_of(f"datasets/{NAME}")
    command = "--model_name_or_path scratch:tiny --max_steps 1 --eval_strategy no --save_strategy no"
    flags = ["--dataset", NAME, "--dataset_revision", commit, "--output_dir", str(tmp_path), *command.split()]
    train.main([*flags, "--per_device_train_batch_size", "4", "--disable_tqdm", "True"])
    data = json.loads((tmp_path / "run.json").read_text())["dataset"]
    assert data["id"] == NAME
    assert (data["revision"], data["config"]) == (commit, "default")
    assert data["splits"] == {
        "train": {"questions": 18, "images": 6},
        "validation": {"questions": 6, "images": 2, "shared_with_training": 0, "near_training": 1},
        "test": {"questions": 6, "images": 2, "shared_with_training": 0, "near_training": 0},
    }
    card = (tmp_path / "README.md").read_text()
    assert f"SLAKE (English) (`{NAME}`, configuration default, at commit `{commit[:12]}`)" in card
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["dataset_revision"] == commit


def test_run_record_of_other_data_names_no_commit(phantoms, tmp_path):
    command = "--model_name_or_path scratch:tiny --max_steps 1 --eval_strategy no --save_strategy no --do_eval False"
    flags = ["--dataset", str(phantoms), "--output_dir", str(tmp_path), *command.split(), "--disable_tqdm", "True"]
    train.main([*flags, "--per_device_train_batch_size", "4"])
    data = json.loads((tmp_path / "run.json").read_text())["dataset"]
    assert (data["id"], data["revision"], data["config"]) == (None, None, None)
