"""The command line and recipes: flags win over the recipe, the recipe over the defaults."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from modeling.training.arguments import TRAINING_ARGUMENTS, AnyTrainingArguments, DataArguments
from processing.errors import UserError


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}; see --help.")


def parse_arguments(argv: Sequence[str]) -> tuple[DataArguments, AnyTrainingArguments]:
    """Parses `[RECIPE.yaml] [--flag value ...]`; flags win over the recipe, the recipe over the defaults.

    Raises:
        UserError: an unknown or wrong key, flag or value.
    """
    flags = list(argv)
    recipe: list[str] = []
    if flags and flags[0].endswith((".yaml", ".yml")):
        recipe = _recipe_flags(Path(flags.pop(0)))
    flags = recipe + flags

    chooser = _Parser((), add_help=False, allow_abbrev=False)
    chooser.add_argument("--model_type", choices=sorted(TRAINING_ARGUMENTS), default="vilt")
    model_type = chooser.parse_known_args(flags)[0].model_type
    parser = _Parser((DataArguments, TRAINING_ARGUMENTS[model_type]), allow_abbrev=False)
    for unknown in parser.parse_known_args(flags)[1]:
        name = unknown.split("=")[0]
        raise UserError(f"Unknown argument {name}{_nearest(name.lstrip('-'), model_type, '--')}.")
    try:
        return parser.parse_args_into_dataclasses(args=flags, look_for_args_file=False)
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, OSError) as error:  # what transformers or __post_init__ refuses
        raise UserError(" ".join(str(error).split())) from error


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
            raise UserError(f"Recipe {file}: unknown key {key!r}{_nearest(str(key), model_type)}.")
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


def _nearest(name: str, model_type: str, prefix: str = "") -> str:
    names = _field_names(model_type if model_type in TRAINING_ARGUMENTS else "vilt")
    match = difflib.get_close_matches(name, sorted(names), n=1)
    return f"; did you mean {prefix}{match[0]}?" if match else "; see python train.py --help"
