"""modeling.training.record: the recipe as it was run, and what a run started from."""

import json

import yaml

from modeling.training.parser import parse_arguments
from modeling.training.record import base_model_of, recipe_of


def test_recipe_as_run_starts_the_same_run(tmp_path, phantoms):
    given = ["recipes/blip2_starter_slake.yaml", "--dataset", "BoKelvin/SLAKE", "--seed", "7", "--hub_token", "hf_x"]
    data_args, args = parse_arguments([*given, "--column_names", "image=img", "--output_dir", f"{tmp_path}/secret"])
    recipe = recipe_of(data_args, args)
    assert "hf_x" not in str(recipe)
    assert "secret" not in str(recipe)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    again_data, again = parse_arguments([str(file)])
    assert again_data == data_args
    assert again.seed == 7
    assert {k: v for k, v in recipe_of(again_data, again).items() if k != "output_dir"} == recipe
    same = ("learning_rate", "lora_targets", "modules_to_save", "qformer_learning_rate", "lr_scheduler_type", "prompt")
    assert all(getattr(again, name) == getattr(args, name) for name in same)


def test_folders_are_left_out_of_the_recipe(tmp_path, phantoms):
    flags = ["--dataset", str(phantoms), "--model_name_or_path", str(phantoms), "--image_folder", str(phantoms)]
    recipe = recipe_of(*parse_arguments(flags))
    assert "dataset" not in recipe
    assert "model_name_or_path" not in recipe
    assert str(phantoms) not in str(recipe)


def test_base_of_an_adapter_is_that_of_its_config(tmp_path):
    def adapter(base: str) -> str:
        config = {"peft_type": "LORA", "base_model_name_or_path": base}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        return str(tmp_path)

    assert base_model_of(adapter("lab/blip2")) == "lab/blip2"
    assert base_model_of(adapter("starter")) == "starter"
    (tmp_path / "base").mkdir()
    assert base_model_of(adapter(str(tmp_path / "base"))) is None
