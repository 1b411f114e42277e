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

pytestmark = [pytest.mark.usefixtures("token", "waits"), pytest.mark.xdist_group("apps")]
SPACE, MODEL = "user/medical-vqa", "user/vqa"
QUESTION = "Is this a CT scan?"


@pytest.fixture
def published(hub, trained, tmp_path, request):
    """The folder of a published Space, alone; the cache holds its model, as preloading leaves it."""
    files = {file.name: file.read_bytes() for file in trained.iterdir() if file.is_file()}
    hub.repos[f"models/{MODEL}"] = {**files, "README.md": b"---\nlicense: mit\n---\n"}
    main(["--space", SPACE, "--model", MODEL, "--sdk", request.param])
    snapshot_download(MODEL)
    return Path(snapshot_download(SPACE, repo_type="space", local_dir=tmp_path / "space"))


@pytest.mark.parametrize("published", ["gradio"], indirect=True)
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
module["load"]().answer({image!r}, "Is this a CT scan?")
names = {packages}
print([m.__file__ for name, m in sys.modules.items() if name.partition(".")[0] in names and m.__file__])
"""


@pytest.mark.parametrize("published", ["gradio"], indirect=True)
def test_app_file_of_a_space_needs_nothing_but_the_space_and_its_requirements(published, phantoms, tmp_path):
    code = CHECK.format(
        blocked=sorted(ONLY_TRAINING),
        app=str(published / "spaces_app" / "gradio_app.py"),
        image=str(phantoms / "imgs" / "xmlab1" / "source.jpg"),
        packages=("metrics", "modeling", "processing", "spaces_app", "tests", "train"),
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MODEL_ID": MODEL}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = ast.literal_eval(done.stdout.splitlines()[-1])
    assert len(files) > 15
    assert not [file for file in files if not file.startswith(f"{published}/")]


@pytest.mark.parametrize("published", ["docker"], indirect=True)
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
