"""Pushes of a trained model to a Hub on loopback that fails.

What each fault leads to; in each case the run's folder is left as it was, and the repo holds either all of a push or
nothing of it. "Tries" counts the requests that fail and those that follow.

| fault | outcome | tries |
|---|---|---|
| who am I: 503 twice | published | 3 |
| the repo is made: 503 twice | published | 3 |
| the repo is made, but the answer is lost | published | 2 |
| commit: 503 three times | published | 4 |
| commit: 429 that asks for 7 seconds | published after 7 seconds | 2 |
| commit: connection closed before it is carried out | published | 2 |
| commit: carried out, answer lost | published, one commit | 1 |
| commit: carried out, answered by 504 | published, one commit | 1 |
| pull request: opened, answer lost | published, one pull request | 1 |
| upload of the weights dies half way, once | published | 2 |
| upload of the weights dies half way, always | refused, status 3 | 6 x the client's own 6 |
| commit: 503 for ever | refused, status 3 | 6 |
| commit: 403 | refused, status 3 | 1 |
| card: refused by the Hub | refused, status 3 | 1 |
"""

import shlex

import pytest
from huggingface_hub import HfApi

from modeling import publish as publishing
from modeling.hub.client import PublishError
from tests.modeling.hub.pushing import QUICK, push
from tests.modeling.hub.samples import MODEL, REPO
from tests.support import warm
from tests.support.files import contents

pytestmark = pytest.mark.usefixtures("token", "waits")


def fault(name: str, tries: int, waits: list[int], request: tuple[str, str], **options):
    return pytest.param(options, tries, waits, request, id=name)


@pytest.mark.parametrize(
    ("options", "tries", "expected_waits", "request_"),
    [
        fault("whoami 503", 3, [1, 2], ("GET", "/whoami"), times=2),
        fault("create 503", 3, [1, 2], ("POST", "/repos/create"), times=2),
        fault("create lost", 2, [1], ("POST", "/repos/create"), after=True),
        fault("commit 503", 4, [1, 2, 4], ("POST", "/commit/"), times=3),
        fault("commit 429", 2, [7], ("POST", "/commit/"), status=429, headers={"Retry-After": "7"}),
        fault("commit dropped", 2, [1], ("POST", "/commit/"), drop=True),
        fault("commit lost", 1, [1], ("POST", "/commit/"), after=True),
        fault("commit replaced", 1, [1], ("POST", "/commit/"), after=True, status=504),
        fault("upload dies once", 2, [], ("PUT", "/storage/"), partial=1000),
    ],
)
def test_fault_that_passes_is_survived(hub, run_folder, waits, options, tries, expected_waits, request_):
    before = contents(run_folder)
    hub.fail(*request_, **options)
    push(run_folder)
    assert hub.repos[REPO]["model.safetensors"] == before["model.safetensors"]
    assert [commit.title for commit in hub.commits(REPO)] == [publishing.MESSAGE, hub.commits(REPO)[-1].title]
    assert (hub.count(*request_), waits) == (tries, expected_waits)
    assert {**contents(run_folder), "README.md": b""} == {**before, "README.md": b""}


def test_pull_request_whose_answer_is_lost_is_not_opened_again(hub, run_folder, waits):
    push(run_folder)
    (run_folder / "all_results.json").write_text("{}")
    hub.fail("POST", "/commit/", after=True)
    push(run_folder, create_pr=True)
    assert hub.files(REPO, "refs/pr/1")["all_results.json"] == b"{}"
    refs = HfApi().list_repo_refs(MODEL, include_pull_requests=True)
    assert [ref.ref for ref in refs.pull_requests] == ["refs/pr/1"]


@pytest.mark.parametrize(
    ("options", "tries", "request_", "reason"),
    [
        pytest.param({"partial": 1000, "times": 99}, 36, ("PUT", "/storage/"), "uploading", id="upload always dies"),
        pytest.param({"times": 99}, 6, ("POST", "/commit/"), "HTTP 503", id="commit 503 for ever"),
        pytest.param({"status": 403}, 1, ("POST", "/commit/"), "HTTP 403", id="commit 403"),
        pytest.param({"status": 400}, 1, ("POST", "/validate-yaml"), "", id="card refused"),
    ],
)
def test_fault_that_stays_costs_nothing_but_the_push(hub, run_folder, options, tries, request_, reason):
    before = contents(run_folder)
    hub.fail(*request_, **options)
    with pytest.raises(PublishError) as error:
        push(run_folder, private=True)
    assert reason in str(error.value)
    assert f"`python -m modeling.publish {run_folder} --repo_id {MODEL} --private`" in str(error.value)
    assert error.value.exit_status == 3
    assert hub.count(*request_) == tries
    assert len(hub.commits(REPO)) == 1, "only what made the repo"
    assert {**contents(run_folder), "README.md": b""} == {**before, "README.md": b""}


def test_the_printed_command_continues_after_a_failed_push(hub, phantoms, tmp_path):
    hub.fail("POST", "/commit/", status=403)
    out = tmp_path / "with space"
    flags = ["--dataset", phantoms, "--output_dir", out, "--push_to_hub", "--hub_model_id", MODEL]
    done = warm.run("train.py", *map(str, [*QUICK, *flags]), HF_TOKEN="hf_write")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    python, *words = shlex.split(done.stderr.rsplit("`", 2)[1])
    assert python == "python"
    done = warm.run(*words, HF_TOKEN="hf_write")
    assert done.returncode == 0, done.stderr
    assert hub.repos[REPO]["model.safetensors"] == (out / "model.safetensors").read_bytes()
