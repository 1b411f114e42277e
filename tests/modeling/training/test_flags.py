"""Every flag of each family works in a run of two steps, or is refused in a sentence before anything is written."""

import dataclasses
import os
import shlex
from pathlib import Path

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState

import train
from modeling.training.arguments import TRAINING_ARGUMENTS
from modeling.training.data_arguments import DataArguments
from modeling.training.parser import parse_arguments
from modeling.training.ranges import default_of
from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.modeling.training.flags import REFUSED, RUNS
from tests.support.tiny_blip2 import tiny_blip2
from tests.support.tiny_vlms import save_tiny_vlm

pytestmark = pytest.mark.xdist_group("flags")  # one worker makes the tiny BLIP-2
FIELDS = {
    family: {f.name: f for f in (*dataclasses.fields(DataArguments), *dataclasses.fields(arguments))}
    for family, arguments in TRAINING_ARGUMENTS.items()
}
FEW = "--max_steps 2 --max_train_samples 12 --max_eval_samples 7 --per_device_train_batch_size 4 --disable_tqdm True"


@pytest.fixture(scope="module")
def models(phantoms, tmp_path_factory) -> dict[str, list[str]]:
    """What chooses a tiny model of each family."""
    base = tiny_blip2("opt", load_vqa_dataset(str(phantoms)), tmp_path_factory.mktemp("base"))
    vlm = save_tiny_vlm("llava", tmp_path_factory.mktemp("vlm"))
    return {
        "vilt": ["--model_name_or_path", "scratch:tiny"],
        "blip2": ["--model_type", "blip2", "--model_name_or_path", str(base)],
        "vlm": ["--model_type", "vlm", "--model_name_or_path", str(vlm)],
    }


@pytest.fixture(autouse=True)
def _restored_state(monkeypatch):
    """Flags set variables, the determinism of torch and the state of accelerate for the whole process."""
    environment = dict(os.environ)
    verbosity, deterministic = transformers.logging.get_verbosity(), torch.are_deterministic_algorithms_enabled()
    yield
    os.environ.clear()
    os.environ.update(environment)
    transformers.logging.set_verbosity(verbosity)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = False
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("family", FIELDS)
def test_every_flag_has_a_value_other_than_its_default_in_the_tables(family):
    values = {name: [value] for run in RUNS[family] for name, value in run.items()}
    for name, refusal in REFUSED.items():
        if name in FIELDS[family]:
            values.setdefault(name, []).append(refusal.value)
    assert not FIELDS[family].keys() - values.keys(), "add these to tests/modeling/training/flags.py"
    assert not values.keys() - FIELDS[family].keys(), "there are no such flags"
    unchanged = {name for name, given in values.items() if str(default_of(FIELDS[family][name])) in given}
    assert not unchanged


@pytest.mark.parametrize(("family", "number"), [(family, i) for family in FIELDS for i in range(len(RUNS[family]))])
def test_run_of_two_steps_takes_the_flags(family, number, models, phantoms, tmp_path):
    flags = RUNS[family][number]
    common = [*models[family], "--dataset", str(phantoms), *FEW.split()]

    def run(names: list[str], folder: Path) -> None:
        given = [word for name in names for word in (f"--{name}", flags[name])]
        train.main([*common, "--output_dir", str(folder), *given])

    try:
        run(list(flags), tmp_path / "out")
    except Exception as error:
        alone = {}
        for name in flags:
            try:
                run([name], tmp_path / name)
            except Exception as reason:
                alone[name] = reason
        error.add_note(f"Alone fail: {alone}")
        raise
    assert {"README.md", "recipe.yaml", "run.json", "all_results.json"} <= {
        f.name for f in (tmp_path / "out").iterdir()
    }


@pytest.mark.parametrize("family", FIELDS)
def test_parsed_flags_have_the_values_given(family, models, phantoms, tmp_path):
    for flags in RUNS[family]:
        given = [word for name, value in flags.items() for word in (f"--{name}", value)]
        data_args, args = parse_arguments([*models[family], "--output_dir", str(tmp_path), *given])
        for name in flags:
            value = getattr(data_args if hasattr(data_args, name) else args, name)
            assert value != default_of(FIELDS[family][name]), name


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in FIELDS for name in REFUSED if name in FIELDS[family]]
)
def test_flag_that_cannot_work_is_refused_in_a_sentence(family, name, models, phantoms, tmp_path):
    common = [*models[family], "--dataset", str(phantoms), *FEW.split(), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError) as refused:
        train.main([*common, f"--{name}", *shlex.split(REFUSED[name].value)])
    assert REFUSED[name].sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
