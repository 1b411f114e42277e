"""Running a Space that was published: its files alone, offline, with no package that it does not install."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from huggingface_hub import snapshot_download

from modeling.predictor import Predictor
from spaces_app.publish import main
from spaces_app.requirements import ONLY_TRAINING
from tests.support.app_server import serve
from tests.support.files import contents

pytestmark = [pytest.mark.usefixtures("token", "waits"), pytest.mark.xdist_group("apps")]
SPACE, MODEL, BASE = "user/medical-vqa", "user/vqa", "lab/base"
QUESTION = "Is this a CT scan?"


@pytest.fixture
def published(hub, runs, tmp_path, request):
    """The folder of a published Space, alone; the cache holds its model and the base, as preloading leaves them.

    Its parameters are the kind of Space and the name of the run.
    """
    sdk, name = request.param
    files = {file.name: file.read_bytes() for file in runs(name).iterdir() if file.is_file()}
    if "adapter_config.json" in files:  # its base goes to the Hub, too
        config = json.loads(files["adapter_config.json"])
        hub.repos[f"models/{BASE}"] = contents(Path(config["base_model_name_or_path"]))
        files["adapter_config.json"] = json.dumps(config | {"base_model_name_or_path": BASE}).encode()
        snapshot_download(BASE)
    hub.repos[f"models/{MODEL}"] = {**files, "README.md": b"---\nlicense: mit\n---\n"}
    main(["--space", SPACE, "--model", MODEL, "--sdk", sdk])
    snapshot_download(MODEL)
    return Path(snapshot_download(SPACE, repo_type="space", local_dir=tmp_path / "space"))


@pytest.mark.parametrize("published", [("gradio", "vilt")], indirect=True)
def test_published_gradio_app_answers_alone_and_offline(published, trained, phantoms, tmp_path):
    image = phantoms / "imgs" / "xmlab1" / "source.jpg"
    environment = {"PYTHONPATH": str(published), "HF_HUB_OFFLINE": "1", "GRADIO_SERVER_PORT": "PORT"}
    with serve(tmp_path / "log", "app.py", folder=published, fresh=True, **environment) as url:
        _, details = Client(url, verbose=False).predict(handle_file(image), QUESTION, api_name="/answer")
    expected = Predictor.from_pretrained(trained).answer(image, QUESTION)
    assert (details["answer"], details["confidence"]) == (
        expected.answer,
        pytest.approx(expected.confidence, rel=0.01),
    )


CHECK = """
import runpy, sys
for name in {blocked}:
    sys.modules[name] = None
module = runpy.run_path({app!r})
print(module["load"]().answer({image!r}, {question!r}).answer)
names = {packages}
print([m.__file__ for name, m in sys.modules.items() if name.partition(".")[0] in names and m.__file__])
"""


@pytest.mark.parametrize(
    ("published", "name"), [(("gradio", name), name) for name in ("vilt", "smolvlm")], indirect=["published"]
)
def test_app_file_of_a_space_needs_nothing_but_the_space_and_its_requirements(
    published, name, runs, phantoms, tmp_path
):
    image = str(phantoms / "imgs" / "xmlab1" / "source.jpg")
    code = CHECK.format(
        blocked=sorted(ONLY_TRAINING),
        app=str(published / "spaces_app" / "gradio_app.py"),
        image=image,
        question=QUESTION,
        packages=("metrics", "modeling", "processing", "spaces_app", "tests", "train"),
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MODEL_ID": MODEL}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, answer, listed = done.stdout.splitlines()
    assert answer == Predictor.from_pretrained(runs(name)).answer(image, QUESTION).answer
    files = ast.literal_eval(listed)
    assert len(files) > 15
    assert not [file for file in files if not file.startswith(f"{published}/")]


@pytest.mark.parametrize("published", [("docker", "vilt")], indirect=True)
def test_command_of_the_dockerfile_starts_an_app_that_answers_alone_and_offline(published, browser, tmp_path):
    text = (published / "Dockerfile").read_text().replace("\\\n", " ")
    command = json.loads(re.search(r"^CMD (.*)$", text, re.MULTILINE)[1].replace("8501", "PORT"))
    environment = {"PYTHONPATH": str(published), "HF_HUB_OFFLINE": "1", "MODEL_ID": MODEL}
    health = {"folder": published, "health": "/_stcore/health", "fresh": True}
    with serve(tmp_path / "log", "-m", *command, **health, **environment) as url:
        page = browser.new_page()
        page.goto(url)
        page.get_by_text(f"Ready: {MODEL}").wait_for()
        page.get_by_role("radio", name="Examples").click()
        page.get_by_placeholder("Ask about the image").fill(QUESTION)
        page.get_by_placeholder("Ask about the image").press("Enter")
        page.locator(".answer").wait_for()
        page.close()
