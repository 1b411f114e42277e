"""`medical-vqa` and what all command lines share: help, the nearest flag, exit statuses, completion."""

import configparser
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import medical_vqa
from modeling.evaluate import train_words
from modeling.training import launch
from processing.errors import UserError
from spaces_app import command_line as app
from tests.support.app_server import ROOT

COMMANDS = sorted(medical_vqa.COMMANDS)


@pytest.fixture
def signals():
    """Puts the handlers of signals back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A function that puts a script in the place of `train.py`."""

    def put(text: str) -> Path:
        file = tmp_path / "script.py"
        file.write_text(text)
        monkeypatch.setattr(launch, "TRAIN", file)
        return file

    return put


def help_of(*words: str) -> str:
    """What a command line prints before it ends with status 0."""
    done = subprocess.run([sys.executable, "-m", "medical_vqa", *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_help_and_version_come_without_torch():
    code = "import sys, medical_vqa\ntry: medical_vqa.run()\nfinally: print(sys.modules.keys() & {'torch', 'numpy'})"
    for flag in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, flag], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == "set()"
        if flag == "--version":
            assert done.stdout.splitlines()[0].split() == ["medical-vqa", version()]


def version() -> str:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup["metadata"]["version"]


def test_nothing_after_the_command_lists_the_commands():
    lines = help_of().splitlines()
    assert lines[0] == "usage: medical-vqa COMMAND ..."
    listed = [line.split()[0] for line in lines[lines.index("commands:") + 1 : lines.index("examples:") - 3]]
    assert listed == list(medical_vqa.COMMANDS)


def test_pip_installs_the_command():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    [script] = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    name, _, target = script.partition(" = ")
    module, _, function = target.partition(":")
    assert name == "medical-vqa"
    assert getattr(import_module(module), function) is medical_vqa.run
    assert {module, "train"} <= set(setup["options"]["py_modules"].split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_names_it_and_has_short_lines_and_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        medical_vqa.start([command, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: medical-vqa {command}")
    assert "python -m" not in printed.partition("\n\n")[0]
    if command != "completion":
        assert f"  medical-vqa {command} " in printed.partition("example")[2]


NEAREST = {
    "trian": "There is no command trian; did you mean train?",
    "zzz": "There is no command zzz; see --help.",
    "--versoin": "Unknown argument --versoin; did you mean --version?",
    "ask out --imge x.png": "Unknown argument --imge; did you mean --image?",
    "probe out --datset x": "Unknown argument --datset; did you mean --dataset?",
    "audit x --splt=test": "Unknown argument --splt; did you mean --split?",
    "protocols x --jsn": "Unknown argument --jsn; did you mean --json?",
    "compare a b --split_": "Unknown argument --split_; did you mean --split?",
    "publish out --repo-id user/name": "Unknown argument --repo-id; did you mean --repo_id?",
    "app --compar-with x": "Unknown argument --compar-with; did you mean --compare?",
    "spread a b -x": "Unknown argument -x; see --help.",
    "compare a b c": "Argument c belongs to no flag; quote a value that holds spaces.",
    "probe out": "The following arguments are required: --dataset; see --help.",
    "ask out --top_k many": "Argument --top_k: invalid int value: 'many'; see --help.",
    "completion fsh": "Argument shell: invalid choice: 'fsh' (choose from 'bash', 'zsh', 'fish'); see --help.",
}


@pytest.mark.parametrize(("line", "message"), NEAREST.items(), ids=NEAREST)
def test_wrong_word_names_the_nearest_one(line, message):
    with pytest.raises(UserError) as refused:
        medical_vqa.start(line.split())
    assert str(refused.value) == message


def test_value_may_begin_with_hyphens_and_flags_may_be_shortened():
    options = app.make_parser().parse(["--comp=--odd", "--gr"])
    assert (options.compare, options.gradio) == ("--odd", True)


@pytest.mark.parametrize(
    ("text", "status"),
    [("", 0), ("raise SystemExit(3)", 3), ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", 130)],
    ids=["done", "failed", "interrupted"],
)
def test_train_ends_with_the_status_of_the_run(signals, script, text, status, capfd):
    script(text)
    with pytest.raises(SystemExit) as ended:
        medical_vqa.start(["train"])
    assert ended.value.code == status
    assert "launch" not in capfd.readouterr().err


def test_train_hands_its_words_on_and_launches_as_accelerate_does(signals, script, capfd):
    script("import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['ACCELERATE_MIXED_PRECISION']]))")
    words = ["recipe.yaml", "--run_name", "two words", "--prompt=--odd {}", "--config_file", "x"]
    with pytest.raises(SystemExit):
        medical_vqa.start(["train", *words])
    assert json.loads(capfd.readouterr().out) == [words, "no"]


def launched(script: Path, **variables: str) -> subprocess.Popen:
    code = f"from modeling.training import launch; launch.TRAIN = {str(script)!r}; launch.launch([])"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sigterm_reaches_the_run_and_its_end_is_awaited(script):
    text = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(print('saved') or 7))\n"
    process = launched(script(text + "print('ready', flush=True)\ntime.sleep(600)\n"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (7, "saved\n")
    assert "Traceback" not in err


def test_several_processes_of_the_users_accelerate_config(script, tmp_path):
    config = (ROOT / "recipes" / "accelerate" / "multi_gpu.yaml").read_text()
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text(f"{config}\nnum_processes: 2\nmain_process_port: 0\n")
    file = script("import os; print('of', os.environ['WORLD_SIZE'], flush=True); raise SystemExit(5)")
    process = launched(file, HF_HOME=str(tmp_path))
    out, err = process.communicate(timeout=600)
    assert process.returncode == 5, err
    assert "of 2" in out
    assert "Traceback" not in err.replace("To enable traceback", "")


@pytest.fixture
def model(tmp_path) -> str:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text('{"model_type": "vilt_starter"}')
    return str(tmp_path / "out")


def test_evaluation_finds_the_family_and_writes_beside_the_model(model, phantoms):
    given = ["--dataset", str(phantoms), "--do_predict", "--per-device-eval-batch-size", "8"]
    words = train_words([model, *given])
    folder = str(Path("evaluation", f"out-{phantoms.name}"))
    own = f"--model_name_or_path {model} --model_type vilt --do_train False".split()
    assert words == [*given, "--output_dir", folder, *own]
    Path(model, "adapter_config.json").write_text("{}")
    words = train_words([model, "--dataset", "phantom:600", "--output-dir", "figures", "--do_train", "True"])
    assert words[:6] == ["--dataset", "phantom:600", "--output-dir", "figures", "--do_train", "True"]
    assert words[6:] == ["--model_name_or_path", model, "--model_type", "blip2", "--do_train", "False"]
    assert train_words([model, "--dataset", "phantom:600"])[3] == str(Path("evaluation", "out-phantom-600"))


WRONG_EVALUATIONS = {
    "no-model": ("--dataset phantom", "The model is missing: medical-vqa evaluate MODEL --dataset DATA."),
    "no-folder": (
        "out/nothing.x/y --dataset phantom",
        "out/nothing.x/y: there is no such folder, and it is no Hub id",
    ),
    "no-data": ("MODEL", "The data set is missing: medical-vqa evaluate MODEL --dataset DATA."),
    "misspelled": ("MODEL --datset phantom", "Unknown argument --datset; did you mean --dataset?"),
    "older-name": (
        "MODEL --eval_batch_size 8",
        "Unknown argument --eval_batch_size: use --per_device_eval_batch_size.",
    ),
    "other-family": (
        "MODEL --dataset phantom --prompt x",
        "Unknown argument --prompt: an option of --model_type blip2 or vlm alone.",
    ),
}


@pytest.mark.parametrize(("line", "message"), WRONG_EVALUATIONS.values(), ids=WRONG_EVALUATIONS)
def test_wrong_evaluation_is_refused_before_it_starts(model, line, message):
    with pytest.raises(UserError) as refused:
        train_words([model if word == "MODEL" else word for word in line.split()])
    assert str(refused.value).replace(model, "MODEL").startswith(message)


def test_app_asks_the_models_that_are_named(monkeypatch):
    pytest.importorskip("streamlit")
    started = []
    monkeypatch.setattr("streamlit.web.cli.main", lambda prog_name: started.append(sys.argv))
    monkeypatch.setattr(sys, "argv", ["medical-vqa"])
    for variable in ("MODEL_ID", "COMPARE_MODEL_ID"):
        monkeypatch.setenv(variable, "before")
    medical_vqa.start(["app", "out", "--compare", "user/name", "--port", "8080", "--host", "0.0.0.0"])
    place = ["--server.port", "8080", "--server.address", "0.0.0.0"]
    assert started == [["streamlit", "run", str(ROOT / "spaces_app" / "app.py"), *place]]
    assert (os.environ["MODEL_ID"], os.environ["COMPARE_MODEL_ID"]) == ("out", "user/name")


def test_the_apps_answer_this_machine_alone():
    config = tomllib.loads((ROOT / "spaces_app" / ".streamlit" / "config.toml").read_text())
    assert config["server"]["address"] == "127.0.0.1"


def test_gradio_app_shows_one_model():
    with pytest.raises(UserError, match="--compare is for the Streamlit app; leave --gradio out."):
        medical_vqa.start(["app", "out", "--gradio", "--compare", "other"])


@pytest.fixture(scope="module")
def completion(tmp_path_factory) -> Path:
    pytest.importorskip("shtab")
    file = tmp_path_factory.mktemp("completion") / "medical-vqa"
    file.write_text(help_of("completion", "bash"))
    return file


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_flags_values_and_files(completion, tmp_path):
    (tmp_path / "scan.png").touch()
    lines = {
        "tr": "train",
        "publish --repo": "--repo_id",
        "ask out --dtype fl": "float32 float16",
        "ask out --image sc": "scan.png",
        "train --leaks dr": "drop",
        "train --model_type ": "blip2 vilt vlm",
        "train x.yaml --lora_t": "--lora_targets",  # of models with an adapter alone
        "train x.yaml --enc": "--encoder_layers",  # of ViLT alone
    }
    ask = 'try() { COMP_WORDS=(medical-vqa "$@"); COMP_CWORD=$#; COMPREPLY=(); '
    ask += '_shtab_medical_vqa medical-vqa "${COMP_WORDS[$#]}" "${COMP_WORDS[$#-1]}"; echo "${COMPREPLY[*]}"; }'
    tries = ["try " + " ".join(f"'{word}'" for word in line.split(" ")) for line in lines]
    code = "\n".join([f"source {completion}", "complete -p medical-vqa", ask, *tries])
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    complete, *answers = done.stdout.splitlines()
    assert complete.endswith("-F _shtab_medical_vqa medical-vqa")
    assert dict(zip(lines, answers, strict=True)) == lines
