"""What the Hub refuses: one sentence for each reason, and the cache where the Hub can't be reached."""

import json

import huggingface_hub.constants
import pytest

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.storage import cache_dir
from tests.support.hub_data_sets import path_vqa, slake_english

ID = "user/rows"


@pytest.fixture
def repo(hub) -> dict[str, bytes]:
    """A data set repo that no other test has loaded."""
    for file in (cache_dir() / "hub_repos").glob("user--*"):
        file.unlink()
    files = path_vqa().files
    hub.repos[f"datasets/{ID}"] = files
    return files


def refusal(name: str = ID, **options) -> str:
    with pytest.raises(UserError) as error:
        load_vqa_dataset(name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def offline(monkeypatch):
    def switch():
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    return switch


def test_invalid_token_is_named_and_not_a_missing_data_set(repo, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert refusal() == (
        f"--dataset {ID}: the Hub rejects the token; log in again with `hf auth login`, or correct or unset HF_TOKEN."
    )


def test_gated_data_set_says_where_its_terms_are(repo, hub):
    hub.fail("HEAD", "/resolve/", status=403, times=99, headers={"X-Error-Code": "GatedRepo"})
    assert refusal() == (
        f"--dataset {ID}: the data set is gated; accept its terms on its page of the Hub, and log in with "
        "`hf auth login`."
    )


def test_revision_that_does_not_exist_is_named(repo):
    assert refusal(dataset_revision="v9") == (
        f"--dataset {ID}: the data set has no revision v9; name a branch, tag or commit of it."
    )


@pytest.mark.parametrize("private", [False, True])
def test_unknown_and_private_data_sets_are_told_alike_as_the_hub_does(hub, private):
    if private:
        hub.repos["datasets/other/secret"] = path_vqa().files
        hub.private.add("datasets/other/secret")
    assert refusal("other/secret") == (
        "--dataset other/secret: the Hub has no such data set, or it is private; check the name, or log in with "
        "`hf auth login`."
    )


def test_status_of_a_broken_hub_is_told(repo, hub):
    hub.fail("GET", "/api/datasets/", status=500, times=9)
    assert refusal() == f"--dataset {ID}: the Hub answers with status 500; try again later, or give a folder."


def test_switched_off_hub_without_a_good_run_says_so(repo, offline):
    offline()
    assert refusal() == (
        f"--dataset {ID}: not in the cache, and HF_HUB_OFFLINE is set; load it once with a connection, or give a "
        "folder."
    )


def test_a_hub_that_fails_later_is_replaced_by_the_cache(repo, hub, caplog):
    first = load_vqa_dataset(ID)
    hub.fail("GET", "/api/datasets/", status=503, times=9)
    again = load_vqa_dataset(ID)
    assert again["test"].to_list() == first["test"].to_list()
    commit = hub.commit_of(f"datasets/{ID}")
    assert f"--dataset {ID}: the Hub was not asked (HfHubHTTPError); using commit {commit[:12]}." in caplog.text


def test_a_refusal_is_not_replaced_by_the_cache(repo, monkeypatch):
    load_vqa_dataset(ID)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "rejects the token" in refusal()


def test_a_part_of_the_files_is_no_data_set_offline(repo, hub, offline):
    hub.fail("HEAD", "/resolve/.*test-", status=404, times=99, headers={"X-Error-Code": "EntryNotFound"})
    with pytest.raises(UserError):
        load_vqa_dataset(ID)
    offline()
    assert "not in the cache, and HF_HUB_OFFLINE is set" in refusal()


def test_a_revision_gives_its_own_rows_and_is_kept_as_a_commit(repo, hub, offline):
    old = hub.commit_of(f"datasets/{ID}")
    hub.history(f"datasets/{ID}").refs["refs/heads/v1"] = hub.commits(f"datasets/{ID}")[0]
    hub.repos[f"datasets/{ID}"] = slake_english().files
    new = hub.commit_of(f"datasets/{ID}")
    found = {revision: load_vqa_dataset(ID, dataset_revision=revision) for revision in (None, "v1", old)}
    assert {revision: dataset["train"].info.revision for revision, dataset in found.items()} == {
        None: new,
        "v1": old,
        old: old,
    }
    assert [len(dataset["train"]) for dataset in found.values()] == [18, 20, 20]
    offline()
    assert load_vqa_dataset(ID, dataset_revision="v1")["train"].to_list() == found["v1"]["train"].to_list()
    assert "not in the cache" in refusal(dataset_revision="v2")


def test_a_revision_of_what_is_no_hub_data_set_is_refused(phantoms):
    for name in (str(phantoms), "phantom:12"):
        assert refusal(name, dataset_revision="main") == (
            f"--dataset_revision is for data sets of the Hub, and {name} is none; leave it out."
        )


def test_names_of_a_repo_that_lead_elsewhere_are_left_out(repo, hub):
    load_vqa_dataset(ID)
    [remembered] = (cache_dir() / "hub_repos").glob("user--rows@main.json")
    repo |= {"../../evil.csv": b"x", "a\\b.csv": b"x", "/etc/x.csv": b"x", "C:x.csv": b"x"}
    load_vqa_dataset(ID)
    names = json.loads(remembered.read_text())["files"]
    assert names == sorted(path_vqa().files)
    assert not list(cache_dir().parent.rglob("evil.csv"))
