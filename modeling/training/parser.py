"""The command line and recipes: flags win over the recipe, the recipe over the defaults."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from modeling.training.arguments import TRAINING_ARGUMENTS, AnyTrainingArguments
from modeling.training.data_arguments import DataArguments
from modeling.training.ranges import FIXED, option_text
from processing.command_line import CommandParser, did_you_mean, show_one_name
from processing.errors import UserError

# Flags of earlier versions of transformers, and names from elsewhere, with what takes their place.
REPLACED = {
    "overwrite_output_dir": "a run resumes from the checkpoints in --output_dir; remove them to start anew",
    "evaluation_strategy": "use --eval_strategy",
    "warmup_ratio": "use --warmup_steps, which below 1 is a share of all steps",
    "logging_dir": "logs go to runs in --output_dir; the variable TENSORBOARD_LOGGING_DIR chooses another folder",
    "tokenizer": "the tokenizer is that of --model_name_or_path",
    "tokenizer_name": "the tokenizer is that of --model_name_or_path",
    "save_safetensors": "weights are always saved as safetensors",
    "no_cuda": "use --use_cpu True",
    "use_mps_device": "an available accelerator is used; --use_cpu True leaves it",
    "per_gpu_train_batch_size": "use --per_device_train_batch_size",
    "per_gpu_eval_batch_size": "use --per_device_eval_batch_size",
    "half_precision_backend": "use --fp16 True or --bf16 True",
    "fp16_backend": "use --fp16 True",
    "fp16_opt_level": "use --fp16 True",
    "adafactor": "use --optim adafactor",
    "group_by_length": "rows have no lengths to go by; leave it out",
    "include_inputs_for_metrics": "the figures are of answers alone; leave it out",
    "include_tokens_per_second": "use --include_num_input_tokens_seen all",
    "past_index": "the models keep no states from batch to batch; leave it out",
    "jit_mode_eval": "use --torch_compile True",
    "torchdynamo": "use --torch_compile_backend",
    "use_ipex": "use --bf16 True on a CPU that is fast at it",
    "tpu_num_cores": "TPUs are not supported",
    "tpu_metrics_debug": "TPUs are not supported",
    "mp_parameters": "use accelerate launch --multi_gpu",
    "sharded_ddp": "use recipes/accelerate/fsdp.yaml",
    "ray_scope": "there is no hyperparameter search; leave it out",
    "dispatch_batches": "use --accelerator_config '{\"dispatch_batches\": true}'",
    "split_batches": "use --accelerator_config '{\"split_batches\": true}'",
    "fsdp_min_num_params": "use --fsdp_config '{\"min_num_params\": ...}'",
    "fsdp_transformer_layer_cls_to_wrap": "use --fsdp_config '{\"transformer_layer_cls_to_wrap\": ...}'",
    "push_to_hub_model_id": "use --hub_model_id user/name",
    "push_to_hub_organization": "use --hub_model_id organization/name",
    "push_to_hub_token": "use --hub_token, or set HF_TOKEN",
    "load_in_4bit": "use --quantization 4bit with --model_type blip2 or vlm",
    "load_in_8bit": "use --quantization 8bit with --model_type blip2 or vlm",
    "model": "use --model_name_or_path",
    "lr": "use --learning_rate",
    "epochs": "use --num_train_epochs",
    "batch_size": "use --per_device_train_batch_size",
    "train_batch_size": "use --per_device_train_batch_size",
    "eval_batch_size": "use --per_device_eval_batch_size",
}


PROG = "python train.py"
METAVARS = {"int": "N", "float": "X", "string_to_bool": "True|False"}  # by the type of a flag; TEXT for all others
DESCRIPTION = "Trains a model for questions about medical images, scores it, and saves it with its report in a folder."
EXAMPLES = """A recipe is a YAML file of flags. What you give on the command line wins over it.

examples:
  {prog} --model_name_or_path starter --output_dir out
      train the starter on generated images: no download, no GPU
  {prog} recipes/vilt_starter_slake.yaml --dataset path/to/SLAKE --output_dir out
      train it on SLAKE; the same command again resumes a run that was stopped
  {prog} --model_type vlm --help
      list the flags of image-text-to-text models; blip2 lists those of BLIP-2
"""


class RunParser(CommandParser, HfArgumentParser):
    """The flags of a run. Help and messages name each with underscores; hyphens work as well."""

    def __init__(self, *args: Any, model_type: str = "vilt", **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)
        self.model_type = model_type
        for action in self._actions:
            show_one_name(action)
            if action.nargs == 0 and action.dest != "help":
                action.help = argparse.SUPPRESS  # --no_do_train, which says the same as --do_train False
            elif action.dest == "model_type":
                action.metavar = f"{{{','.join(sorted(TRAINING_ARGUMENTS))}}}"
            elif not action.choices:
                action.metavar = METAVARS.get(getattr(action.type, "__name__", ""), "TEXT")

    def instead_of(self, name: str) -> str:
        return _instead(name, self.model_type, "--")


def make_parser(model_type: str = "vilt", prog: str = PROG) -> RunParser:
    """The parser of a run's flags, without the recipe before them.

    Args:
        model_type: the family whose flags it has.
        prog: what the help calls the program.
    """
    parser = RunParser(
        (DataArguments, TRAINING_ARGUMENTS[model_type]),
        model_type=model_type,
        prog=prog,
        usage=f"{prog} [RECIPE.yaml] [--flag value ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES.format(prog=prog),
    )
    _group_flags(parser, TRAINING_ARGUMENTS[model_type])
    return parser


def _group_flags(parser: argparse.ArgumentParser, arguments: type) -> None:
    """In the help, puts the flags of the data and those that this project defines before those of transformers."""
    own = {name for cls in arguments.__mro__ if cls.__module__ == arguments.__module__ for name in cls.__annotations__}
    titles = ("data", "training and evaluation", "more flags, those of transformers' TrainingArguments")
    groups = [parser.add_argument_group(title) for title in titles]
    data = {f.name for f in fields(DataArguments)}
    for action in [action for action in parser._optionals._group_actions if action.dest != "help"]:
        parser._optionals._group_actions.remove(action)
        is_own = action.dest in own and action.dest not in FIXED
        place = 0 if action.dest in data else 1 if is_own else 2
        groups[place]._group_actions.append(action)


def parse_arguments(argv: Sequence[str], prog: str = PROG) -> tuple[DataArguments, AnyTrainingArguments]:
    """Parses `[RECIPE.yaml] [--flag value ...]`; flags win over the recipe, the recipe over the defaults.

    Raises:
        UserError: an unknown or wrong key, flag or value.
    """
    flags = list(argv)
    recipe: list[str] = []
    if flags and flags[0].endswith((".yaml", ".yml")):
        recipe = _recipe_flags(Path(flags.pop(0)))
    flags = recipe + flags

    chooser = CommandParser(add_help=False, allow_abbrev=False)
    families = sorted(TRAINING_ARGUMENTS)
    show_one_name(chooser.add_argument("--model_type", "--model-type", choices=families, default="vilt"))
    chooser.add_argument("--eval_dataset", "--eval-dataset")
    chosen = chooser.parse_known_args(flags)[0]
    if chosen.eval_dataset is not None:
        flags.append("--do_predict=True")
    parser = make_parser(chosen.model_type, prog)
    parser.parse(flags)
    try:
        return parser.parse_args_into_dataclasses(args=flags, look_for_args_file=False)
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, OSError) as error:  # what transformers or __post_init__ refuses
        raise UserError(" ".join(str(error).split()).rstrip(".") + ".") from error


def _recipe_flags(file: Path) -> list[str]:
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Recipe {file}: can't be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"Recipe {file}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(recipe, dict):
        raise UserError(f"Recipe {file}: expected `key: value` lines, got {type(recipe).__name__}.")
    model_type = str(recipe.get("model_type", "vilt"))
    known = _field_names(model_type if model_type in TRAINING_ARGUMENTS else "vilt")
    flags: list[str] = []
    for key, value in recipe.items():
        if key not in known:
            raise UserError(f"Recipe {file}: unknown key {option_text(key)!r}{_instead(str(key), model_type)}")
        flags += _as_flag(key, value)
    return flags


def _as_flag(key: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}"]


def _field_names(model_type: str) -> set[str]:
    return {f.name for cls in (DataArguments, TRAINING_ARGUMENTS[model_type]) for f in fields(cls)}


def _instead(name: str, model_type: str, prefix: str = "") -> str:
    """What to use for a name that is not known, as the end of a sentence."""
    model_type = model_type if model_type in TRAINING_ARGUMENTS else "vilt"
    name = name.replace("-", "_")
    if name in REPLACED:
        return f": {REPLACED[name]}."
    if others := [other for other in TRAINING_ARGUMENTS if name in _field_names(other)]:
        return f": an option of --model_type {' or '.join(others)} alone."
    return did_you_mean(name, _field_names(model_type), prefix)
