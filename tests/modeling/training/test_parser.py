"""modeling.training.parser: recipes, flags over them, and wrong ones refused in one sentence."""

import dataclasses
import re

import pytest

from modeling.training.arguments import TRAINING_ARGUMENTS, Blip2TrainingArguments
from modeling.training.data_arguments import DataArguments
from modeling.training.parser import REPLACED, parse_arguments
from processing.errors import UserError
from tests.support.app_server import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a recipe and returns its path."""

    def write(text: str) -> str:
        (tmp_path / "recipe.yaml").write_text(text)
        return str(tmp_path / "recipe.yaml")

    return write


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.name)
def test_every_recipe_is_accepted_and_opens_with_the_command_that_runs_it(file, tmp_path):
    _, args = parse_arguments([str(file), "--output_dir", str(tmp_path)])
    assert isinstance(args, TRAINING_ARGUMENTS[args.model_type])
    comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith(f"# accelerate launch train.py recipes/{file.name}") for line in comments)


def test_flags_win_over_the_recipe_and_the_recipe_over_the_defaults(recipe, tmp_path):
    file = recipe("learning_rate: 1e-3\nnum_train_epochs: 7\nlanguage: zh\ncolumn_names: [image=file, question=q]\n")
    data_args, args = parse_arguments([file, "--num_train_epochs", "9", "--output_dir", str(tmp_path)])
    assert args.learning_rate == 1e-3  # YAML reads 1e-3 as text
    assert args.num_train_epochs == 9
    assert args.per_device_train_batch_size == 64
    assert data_args.language == "zh"
    assert data_args.column_names == ["image=file", "question=q"]


def test_model_type_of_the_recipe_picks_the_family(recipe, tmp_path):
    _, args = parse_arguments([recipe("model_type: blip2\n"), "--output_dir", str(tmp_path)])
    assert isinstance(args, Blip2TrainingArguments)


def test_values_that_look_like_flags_or_are_null_survive(recipe, tmp_path):
    _, args = parse_arguments([recipe(f"output_dir: {tmp_path}\nrun_name: -odd\nsave_total_limit: null\n")])
    assert args.run_name == "-odd"
    assert args.save_total_limit == 2


WRONG_RECIPES = {
    "unknown-key": ("learning_rat: 1", "unknown key 'learning_rat'; did you mean learning_rate?"),
    "unknown-and-far": ("zzzzzz: 1", "unknown key 'zzzzzz'; see --help"),
    "no-yaml": ("a: [1,", "not valid YAML"),
    "no-mapping": ("- a", "expected `key: value` lines, got list"),
    "wrong-type": ("num_train_epochs: many", "--num_train_epochs: invalid float value: 'many'"),
    "wrong-choice": ("language: fr", "--language: invalid choice: 'fr'"),
    "wrong-family": ("model_type: bert", "--model_type: invalid choice: 'bert'"),
    "raw-columns": ("remove_unused_columns: true", "--remove_unused_columns must stay False"),
    "risk": ("target_risk: 5", "--target_risk must be between 0 and 1, such as 0.05"),
    "patience": ("early_stopping_patience: 2", "--early_stopping_patience needs --load_best_model_at_end True"),
}


@pytest.mark.parametrize(("text", "message"), WRONG_RECIPES.values(), ids=WRONG_RECIPES)
def test_wrong_recipe_is_one_clear_sentence(recipe, text, message):
    with pytest.raises(UserError) as raised:
        parse_arguments([recipe(text)])
    assert message in str(raised.value)


def test_unknown_flag_names_the_nearest_one():
    with pytest.raises(UserError, match=r"Unknown argument --num_epochs; did you mean --num_train_epochs\?"):
        parse_arguments(["--num_epochs", "3"])


def test_word_that_belongs_to_no_flag():
    with pytest.raises(UserError, match="Argument lung belongs to no flag; quote a value that holds spaces."):
        parse_arguments(["--run_name", "left", "lung"])


def test_recipe_that_is_not_there():
    with pytest.raises(UserError, match="Recipe nowhere.yaml: can't be read"):
        parse_arguments(["nowhere.yaml"])


def test_evaluation_only_needs_no_matching_strategies(tmp_path):
    _, args = parse_arguments(
        ["--do_train", "False", "--do_eval", "False", "--do_predict", "True", "--output_dir", str(tmp_path)]
    )
    assert (args.do_train, args.do_eval, args.do_predict) == (False, False, True)


@pytest.mark.parametrize("prompt", ["Question: Answer:", "{} or {}"])
def test_prompt_needs_one_place_for_the_question(prompt):
    with pytest.raises(UserError, match="needs one {}, where the question goes"):
        parse_arguments(["--model_type", "blip2", "--prompt", prompt])


@pytest.mark.parametrize("family", TRAINING_ARGUMENTS)
def test_help_prints_every_flag(family, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--model_type", family, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for arguments in (DataArguments, TRAINING_ARGUMENTS[family]):
        for field in dataclasses.fields(arguments):
            assert f"--{field.name}" in printed
    assert "with 95 % certainty" in " ".join(printed.split())


GONE = {
    "--overwrite_output_dir": "a run resumes from the checkpoints in --output_dir; remove them to start anew.",
    "--warmup_ratio": "use --warmup_steps, which below 1 is a share of all steps.",
    "--logging_dir": "logs go to runs in --output_dir;",
    "--evaluation_strategy": "use --eval_strategy.",
    "--per-gpu-train-batch-size": "use --per_device_train_batch_size.",
    "--tokenizer": "the tokenizer is that of --model_name_or_path.",
    "--no_cuda": "use --use_cpu True.",
    "--push_to_hub_token": "use --hub_token, or set HF_TOKEN.",
    "--lr": "use --learning_rate.",
}


@pytest.mark.parametrize(("flag", "instead"), GONE.items(), ids=GONE)
def test_flag_of_an_earlier_version_names_what_takes_its_place(flag, instead, recipe):
    with pytest.raises(UserError) as refused:
        parse_arguments([f"{flag}=1"])
    assert str(refused.value).startswith(f"Unknown argument {flag}: {instead}")
    with pytest.raises(UserError, match="unknown key"):
        parse_arguments([recipe(f"{flag.removeprefix('--')}: 1")])


def test_what_takes_a_place_exists():
    fields = {f.name for arguments in TRAINING_ARGUMENTS.values() for f in dataclasses.fields(arguments)}
    assert not REPLACED.keys() & fields, "these are flags"
    for name, instead in REPLACED.items():
        for flag in re.findall(r"--(\w+)", instead.replace("accelerate launch --multi_gpu", "")):
            assert flag in fields, name


def test_flag_of_the_other_family_names_it():
    with pytest.raises(UserError, match="Unknown argument --lora_r: an option of --model_type blip2 or vlm alone."):
        parse_arguments(["--lora_r", "4"])
    with pytest.raises(UserError, match="Unknown argument --encoder_layers: an option of --model_type vilt alone."):
        parse_arguments(["--model_type", "blip2", "--encoder_layers", "2"])


def test_several_trackers_are_given_by_flags_and_by_a_recipe(recipe, tmp_path):
    pytest.importorskip("tensorboard")
    for flags in (["--report_to", "tensorboard"], [recipe("report_to: [tensorboard]")]):
        assert parse_arguments([*flags, "--output_dir", str(tmp_path)])[1].report_to == ["tensorboard"]
    assert parse_arguments(["--output_dir", str(tmp_path)])[1].report_to == []


COUNTED = {"": "all", "True": "all", "False": "no", "non_padding": "non_padding"}


@pytest.mark.parametrize(("given", "counted"), COUNTED.items())
def test_tokens_to_count(given, counted, tmp_path):
    _, args = parse_arguments(["--include_num_input_tokens_seen", *given.split(), "--output_dir", str(tmp_path)])
    assert args.include_num_input_tokens_seen == counted


def test_names_with_hyphens_choose_the_family_too(tmp_path):
    flags = ["--model-type", "blip2", "--eval-dataset", "phantom", "--output-dir", str(tmp_path)]
    _, args = parse_arguments(flags)
    assert isinstance(args, Blip2TrainingArguments)
    assert args.do_predict
