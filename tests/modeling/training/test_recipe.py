"""modeling.training.recipe: what matters to the result stays, and nothing of this machine does."""

import dataclasses
import json

import pytest
import yaml

from modeling.training.arguments import TRAINING_ARGUMENTS
from modeling.training.data_arguments import DataArguments
from modeling.training.parser import parse_arguments
from modeling.training.ranges import FIXED
from modeling.training.recipe import RECIPE_FIELDS, recipe_values
from modeling.training.record import recipe_of

# Fields that no recipe holds, beside those of FIXED, which have but one value.
PLACES = """output_dir image_folder resume_from_checkpoint run_name project hub_model_id hub_token hub_private_repo
hub_revision hub_strategy hub_always_push push_to_hub trackio_space_id trackio_bucket_id trackio_static_space_id"""
LOGS = """logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level
log_level_replica disable_tqdm report_to include_num_input_tokens_seen debug skip_memory_metrics"""
SPEED = """use_cpu torch_compile torch_compile_backend torch_compile_mode activation_checkpointing
activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs use_cache torch_empty_cache_steps
eval_accumulation_steps feature_cache_gb dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
dataloader_prefetch_factor dataloader_multiprocessing_context local_rank ddp_find_unused_parameters ddp_bucket_cap_mb
ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout"""
THIS_RUN = """do_train do_eval do_predict save_only_model save_on_each_node save_total_limit ignore_data_skip
restore_callback_states_from_checkpoint"""


def test_each_field_is_of_the_recipe_or_of_this_machine():
    """A field of a new version of transformers is in neither, so it must be sorted here."""
    elsewhere = {*PLACES.split(), *LOGS.split(), *SPEED.split(), *THIS_RUN.split(), *FIXED}
    known = {field.name for cls in (DataArguments, *TRAINING_ARGUMENTS.values()) for field in dataclasses.fields(cls)}
    assert not RECIPE_FIELDS & elsewhere
    assert known == RECIPE_FIELDS | elsewhere


def test_settings_of_a_file_stand_in_the_recipe_and_its_path_nowhere(tmp_path):
    content = {
        "split_batches": False,
        "even_batches": False,
        "gradient_accumulation_kwargs": {"sync_each_batch": True},
    }
    (tmp_path / "settings.json").write_text(json.dumps(content))
    flags = ["--accelerator_config", str(tmp_path / "settings.json"), "--output_dir", str(tmp_path / "out")]
    flags += ["--lr_scheduler_type", "cosine_with_restarts", "--lr_scheduler_kwargs", '{"num_cycles": 2}']
    flags += ["--logging_steps", "3", "--dataloader_num_workers", "1", "--save_total_limit", "9", "--run_name", "mine"]
    data_args, args = parse_arguments([*flags, "--hub_token", "hf_x", "--weight_decay", "0.1", "--eval_steps", "5"])
    recipe = recipe_of(data_args, args)
    assert recipe["accelerator_config"] == content
    assert recipe["lr_scheduler_kwargs"] == {"num_cycles": 2}
    given = {"lr_scheduler_type": "cosine_with_restarts", "weight_decay": 0.1, "eval_steps": 5.0}
    assert {name: recipe[name] for name in given} == given
    core = {"model_type", "dataset", "model_name_or_path", "learning_rate", "num_train_epochs", "seed"}
    core |= {"per_device_train_batch_size", "gradient_accumulation_steps"}
    assert recipe.keys() == core | {"accelerator_config", "lr_scheduler_kwargs"} | given.keys()
    assert str(tmp_path) not in str(vars(args) | {"output_dir": ""})

    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    again = parse_arguments([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "out")])
    assert recipe_of(*again) == recipe
    assert again[1].accelerator_config == args.accelerator_config


@dataclasses.dataclass
class Spread:
    """The options of a run over processes; those of transformers need them to be there."""

    _VALID_DICT_FIELDS = ("deepspeed", "fsdp_config")
    deepspeed: dict | str | None = None
    fsdp_config: dict | str | None = None
    ddp_backend: str | None = None


@pytest.mark.parametrize("as_text", [False, True])
def test_a_path_within_settings_is_left_out_and_the_rest_stays(as_text):
    deepspeed = {
        "zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/local/nvme"}},
        "tensorboard": {"output_path": "~/logs/", "enabled": True},
        "files": ["C:\\data", "name", 1, None],
    }
    fsdp = {"transformer_layer_cls_to_wrap": ["ViltLayer"], "min_num_params": 0}
    if as_text:
        deepspeed, fsdp = json.dumps(deepspeed), json.dumps(fsdp)
    assert recipe_values(Spread(deepspeed, fsdp, "gloo")) == {
        "deepspeed": {
            "zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}},
            "tensorboard": {"enabled": True},
            "files": ["name", 1, None],
        },
        "fsdp_config": {"transformer_layer_cls_to_wrap": ["ViltLayer"], "min_num_params": 0},
    }
