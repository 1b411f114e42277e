"""What is checked before a push, against a Hub on loopback."""

import pytest

import train
from modeling.hub.client import Destination
from modeling.publish import preflight
from modeling.training.parser import parse_arguments
from processing.errors import UserError
from tests.modeling.hub.pushing import run
from tests.modeling.hub.samples import MODEL, REPO

pytestmark = pytest.mark.usefixtures("token", "waits")


def allow(hub, org: str, role: str) -> None:
    hub.tokens["hf_write"]["orgs"] = {org: role}


@pytest.mark.parametrize(
    ("repo_id", "given", "base", "message"),
    [
        (MODEL, None, None, "needs a token; log in with `hf auth login`"),
        (MODEL, "hf_wrong", None, "rejects the token"),
        (MODEL, "hf_read", None, "the token of user may not write there"),
        ("other/vqa", "hf_write", None, "the token of user may not write there"),
        ("user/v q a", "hf_write", None, "not a valid name of a Hub repo"),
        (MODEL, "hf_write", "nobody/nothing", "--model_name_or_path nobody/nothing: the Hub has no such model"),
    ],
)
def test_preflight_ends_the_run_before_anything_is_read(hub, monkeypatch, tmp_path, repo_id, given, base, message):
    if given is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", given)
    monkeypatch.setattr(train, "load_data", lambda *_: pytest.fail("data were read"))
    flags = ["--output_dir", tmp_path / "out", "--push_to_hub", "--hub_model_id", repo_id]
    with pytest.raises(UserError) as error:
        run(*flags, *(["--model_name_or_path", base] if base else []))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert not hub.repos


def test_preflight_accepts_the_namespace_of_an_organization_with_write_role(hub):
    allow(hub, "clinic", "write")
    assert preflight(Destination("clinic/vqa"), None) is None
    allow(hub, "clinic", "read")
    with pytest.raises(UserError, match="may not write there"):
        preflight(Destination("clinic/vqa"), None)


def test_preflight_returns_the_licence_of_the_base(hub):
    hub.repos["models/lab/vilt"] = {"README.md": b"---\nlicense: mit\n---\n", "config.json": b"{}"}
    assert preflight(Destination(MODEL), "lab/vilt") == "mit"
    assert not hub.repos.get(REPO), "the preflight makes no repo"


def test_preflight_of_a_pull_request_needs_the_repo(hub):
    with pytest.raises(UserError, match="the Hub has no such repo, so no pull request can be opened"):
        preflight(Destination(MODEL, create_pr=True), None)


def test_preflight_says_when_the_hub_is_down(hub, waits):
    hub.fail("GET", "/whoami", times=99)
    with pytest.raises(UserError, match=r"the Hub can't be reached \(HTTP 503"):
        preflight(Destination(MODEL), None)
    assert waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("flags", [["--push_to_hub"], ["--push_to_hub", "--hub_model_id", "vqa"]])
def test_push_needs_the_name_of_a_repo(flags):
    with pytest.raises(UserError, match="--push_to_hub needs a training run and --hub_model_id user/name"):
        parse_arguments(flags)
