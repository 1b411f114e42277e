"""modeling.parts.loading: whatever a model or an adapter brings, none of its code runs, whoever answers yes."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modeling.parts.loading import load_adapter_config, load_config
from modeling.parts.model_files import open_model
from modeling.training.record import base_model_of
from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.support import warm
from tests.support.app_server import ROOT
from tests.support.tiny_blip2 import tiny_blip2

CODE = "open({file!r}, 'a').write(__file__)\nclass Evil:\n    register_for_auto_class = from_pretrained = print\n"
# Runs train.py and a Predictor on each folder and prints how each ended.
ASK_ALL = """
import sys, train
from modeling.predictor import Predictor
from processing.errors import UserError
dataset, output, *models = sys.argv[1:]
for model in models:
    flags = ["--dataset", dataset, "--output_dir", output, "--max_steps", "1", "--model_name_or_path", model]
    kind = ["--model_type", "vilt" if model.endswith("vilt") else "blip2"]
    for ask in (lambda: train.main([*flags, *kind]), lambda: Predictor.from_pretrained(model)):
        try:
            ask()
        except UserError as error:
            print("REFUSED", error)
        else:
            print("TAKEN", model)
"""


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def evil(phantoms, tmp_path) -> dict[str, Path]:
    """Models and adapters that name code of their own, each in another way; it leaves `ran` where it runs."""
    base = tiny_blip2("opt", load_vqa_dataset(str(phantoms)), tmp_path / "base")
    code = CODE.format(file=str(tmp_path / "ran"))

    def model(name: str, **config: object) -> Path:
        shutil.copytree(base, tmp_path / name)
        (tmp_path / name / "evil.py").write_text(code)
        edit(tmp_path / name / "config.json", **config)
        return tmp_path / name

    def adapter(name: str, **config: object) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2} | config))
        shutil.copy(base / "model.safetensors", folder / "adapter_model.safetensors")
        return folder

    own = model("own", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    # A kind of config that no language model has: only the code in the folder would have one.
    nested = {"model_type": "vit", "hidden_size": 32, "auto_map": dict.fromkeys(LANGUAGE_MODELS, "evil.Evil")}
    part = model("part", text_config=nested | {"_name_or_path": str(tmp_path / "part")})
    # PEFT loads a second model for such an adapter, by an Auto class of its own.
    shadow = {"peft_type": "SHADOW", "shadow_model": str(own), "target_modules": ".*q_proj"}
    inside = model("inside")
    adapter("inside", base_model_name_or_path=str(base), **shadow)
    vilt = model("vilt", model_type="vilt")
    adapter("vilt", base_model_name_or_path=str(base), **shadow)
    return {
        "own": own,
        "part": part,
        "inside": inside,
        "vilt": vilt,
        "adapter of own": adapter("adapter_of_own", base_model_name_or_path=str(own), target_modules="query"),
        "adapter of part": adapter("adapter_of_part", base_model_name_or_path=str(part), target_modules="query"),
        "adapter of adapter": adapter("chain", base_model_name_or_path=str(inside), target_modules="query"),
        "shadow": adapter("shadow", base_model_name_or_path=str(base), **shadow),
    }


LANGUAGE_MODELS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")


def test_no_code_of_a_model_runs_though_yes_is_on_standard_input(evil, phantoms, tmp_path):
    command = [sys.executable, "-c", ASK_ALL, str(phantoms), str(tmp_path / "out"), *map(str, evil.values())]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, input="y\n" * 100, capture_output=True, text=True)
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
    assert done.returncode == 0, done.stderr
    ended = [line for line in done.stdout.splitlines() if line.startswith(("REFUSED", "TAKEN"))]
    assert len(ended) == 2 * len(evil)
    assert not [line for line in ended if line.startswith("TAKEN")]
    assert "[y/N]" not in done.stdout, "nobody is asked"
    told = dict(zip(evil, zip(ended[::2], ended[1::2], strict=True), strict=True))
    for name in ("part", "adapter of own", "adapter of part"):
        assert told[name] == (told[name][0],) * 2
        assert "it needs code of its own, which is never run; choose another model." in told[name][0]
    assert (
        told["shadow"]
        == (f"REFUSED {evil['shadow']}: an adapter of the kind 'SHADOW', not LoRA; choose another.",) * 2
    )
    assert "an adapter, where a whole model is needed" in told["adapter of adapter"][0]


def test_command_line_ends_in_one_sentence_and_writes_nothing(evil, phantoms, tmp_path):
    for name in ("part", "adapter of part"):
        flags = ["--model_type", "blip2", "--dataset", str(phantoms), "--model_name_or_path", str(evil[name])]
        done = warm.run("train.py", *flags, "--output_dir", str(tmp_path / "out"), typed="y\n" * 100)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            f"error: {evil['part']}: it needs code of its own, which is never run; choose another model."
        )
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", ["{torn", "[]", "{}", '{"peft_type": "LORA"}', '{"peft_type": "LORA", "r": "x", "bias": []}']
)
def test_damaged_config_of_an_adapter_is_one_sentence(tmp_path, content):
    (tmp_path / "adapter_config.json").write_text(content)
    for ask in (lambda name: load_adapter_config(open_model(name)), base_model_of):
        with pytest.raises(UserError, match="its adapter_config.json is damaged; save or download the model again"):
            ask(str(tmp_path))


def test_adapter_that_names_itself_as_its_base_ends(tmp_path):
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert base_model_of(str(tmp_path)) is None


def test_parts_of_a_config_hold_no_path_of_the_machine_that_made_it(phantoms, tmp_path):
    base = tiny_blip2("opt", load_vqa_dataset(str(phantoms)), tmp_path / "base")
    text = json.loads((base / "config.json").read_text())["text_config"] | {"_name_or_path": "/home/someone/parts"}
    edit(base / "config.json", text_config=text)
    load_config(base).save_pretrained(tmp_path / "again")
    assert "someone" not in (tmp_path / "again" / "config.json").read_text()


FOLDERS = ("modeling", "processing", "metrics", "spaces_app", "benchmarks")
OWN_CLASSES = ("Predictor", "Answering", "QuestionWords")  # of this project


def calls_that_load(source: str) -> list[str]:
    """Calls that make something of a repo's files, and options that let its code run."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if node.func.attr in ("from_pretrained", "from_config") and owner not in OWN_CLASSES:
                found.append(ast.unparse(node.func))
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        found += [name for name in names if name in ("pipeline", "AutoPeftModel", "load_dataset")]
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found.append(f"trust_remote_code={ast.unparse(node.value)}")
    return found


def test_nothing_but_the_loader_makes_something_of_a_repos_files():
    files = [ROOT / "train.py", *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))]
    found = {str(file.relative_to(ROOT)): calls for file in files if (calls := calls_that_load(file.read_text()))}
    assert found == {
        "modeling/parts/loading.py": [
            "pretrained_class.from_pretrained",
            "PeftConfig.from_pretrained",
            "trust_remote_code=False",
        ]
    }
    assert len(files) > 100


def test_a_call_elsewhere_would_be_seen():
    assert calls_that_load("AutoModel.from_pretrained(x)") == ["AutoModel.from_pretrained"]
    assert calls_that_load("load(x, trust_remote_code=None)") == ["trust_remote_code=None"]
    assert calls_that_load("from transformers import pipeline") == ["pipeline"]
