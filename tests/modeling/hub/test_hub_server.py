"""The Hub on loopback, seen by the real client: repos, files, revisions, and who may do what."""

from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from tests.modeling.hub.samples import MODEL, REPO, WEIGHTS
from tests.support.files import contents


def test_whoami_names_user_organizations_and_role(hub):
    hub.tokens["hf_org"] = {"name": "anna", "role": "read", "orgs": {"clinic": "write"}}
    answer = HfApi(token="hf_org").whoami()
    assert (answer["name"], answer["auth"]["accessToken"]["role"]) == ("anna", "read")
    assert [org["name"] for org in answer["orgs"]] == ["clinic"]


@pytest.mark.parametrize(
    ("kind", "name", "sdk"),
    [("model", REPO, None), ("dataset", "datasets/user/vqa", None), ("space", "spaces/user/vqa", "gradio")],
)
def test_created_repo_has_only_what_the_hub_adds(hub, api, kind, name, sdk):
    url = api.create_repo(MODEL, repo_type=kind, space_sdk=sdk)
    assert (url.repo_id, url.repo_type) == (MODEL, kind)
    assert set(hub.repos[name]) == {".gitattributes"} | ({"README.md"} if sdk else set())
    assert api.create_repo(MODEL, repo_type=kind, space_sdk=sdk, exist_ok=True) == url
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(MODEL, repo_type=kind, space_sdk=sdk)


def test_deleted_repo_is_gone(hub, api, pushed):
    api.delete_repo(MODEL)
    assert not hub.repos
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info(MODEL)
    api.create_repo(MODEL)
    assert len(hub.commits(REPO)) == 1


def test_uploaded_folder_is_on_the_hub_byte_for_byte(hub, api, model_folder, pushed):
    assert {path: hub.repos[REPO][path] for path in contents(model_folder)} == contents(model_folder)
    assert pushed.oid == hub.commit_of(REPO)
    assert hub.count("PUT", "/storage/") == 1
    info = api.repo_info(MODEL, files_metadata=True)
    (weights,) = [file for file in info.siblings if file.rfilename == "model.safetensors"]
    assert (info.sha, info.private, weights.size, weights.lfs.size) == (pushed.oid, False, len(WEIGHTS), len(WEIGHTS))
    assert info.pipeline_tag == "visual-question-answering"
    assert info.card_data.base_model == "dandelin/vilt-b32-mlm"


def test_second_upload_of_the_same_folder_sends_nothing(hub, api, model_folder, pushed):
    hub.requests.clear()
    assert api.upload_folder(repo_id=MODEL, folder_path=model_folder).oid == pushed.oid
    assert not hub.count("PUT", "/storage/")
    assert not hub.count("POST", "/commit/")


def test_changed_file_alone_is_sent(hub, api, model_folder, pushed):
    (model_folder / "config.json").write_text('{"changed": true}')
    commit = api.upload_folder(
        repo_id=MODEL, folder_path=model_folder, commit_message="Change", commit_description="Why"
    )
    assert hub.count("PUT", "/storage/") == 1
    assert hub.repos[REPO]["config.json"] == b'{"changed": true}'
    newest, older, _ = api.list_repo_commits(MODEL)
    assert (newest.commit_id, newest.title, newest.message, newest.authors) == (commit.oid, "Change", "Why", ["user"])
    assert older.commit_id == pushed.oid
    assert hub.files(REPO, pushed.oid)["config.json"] == b"{}"


def test_deleted_file_and_folder_leave_the_tree(hub, api, pushed):
    deletions = [CommitOperationDelete("config.json"), CommitOperationDelete("metrics/")]
    api.create_commit(MODEL, deletions, commit_message="Delete")
    assert api.list_repo_files(MODEL) == [".gitattributes", "README.md", "model.safetensors"]
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.delete_file("config.json", MODEL)


def test_tree_lists_folders_one_level_at_a_time(api, pushed):
    assert {entry.path for entry in api.list_repo_tree(MODEL)} > {"metrics", "config.json"}
    assert [entry.path for entry in api.list_repo_tree(MODEL, "metrics")] == ["metrics/test.json"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(MODEL, "nothing"))


def test_download_into_an_empty_cache_gives_the_same_bytes(hub, model_folder, pushed, tmp_path):
    assert contents(Path(snapshot_download(MODEL, cache_dir=tmp_path / "cache"))) == contents(model_folder) | {
        ".gitattributes": hub.repos[REPO][".gitattributes"]
    }
    assert hub.count("GET", "/storage/") == 1


def test_older_revision_can_be_downloaded(hub, pushed, tmp_path):
    hub.repos[REPO]["config.json"] = b"new"
    options = {"repo_id": MODEL, "filename": "config.json", "cache_dir": tmp_path}
    assert Path(hf_hub_download(**options)).read_bytes() == b"new"
    assert Path(hf_hub_download(**options, revision=pushed.oid)).read_bytes() == b"{}"
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(MODEL, "nothing.json", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(**options, revision="nowhere")


@pytest.mark.parametrize(("asked", "start", "end"), [("bytes=10-19", 10, 20), ("bytes=10-", 10, None)])
def test_range_of_a_file_is_served(hub, pushed, asked, start, end):
    url = f"{hub.url}/{MODEL}/resolve/main/model.safetensors"
    answer = httpx2.get(url, headers={"Range": asked}, follow_redirects=True)
    assert (answer.status_code, answer.content) == (206, WEIGHTS[start:end])
    assert httpx2.get(url, headers={"Range": "bytes=999999-"}, follow_redirects=True).status_code == 416


def test_private_repo_is_hidden_from_others(hub, api):
    hub.tokens |= {
        "hf_other": {"name": "other", "role": "write"},
        "hf_colleague": {"name": "colleague", "role": "write", "orgs": {"clinic": "read"}},
        "hf_owner": {"name": "owner", "role": "write", "orgs": {"clinic": "write"}},
    }
    HfApi(token="hf_owner").create_repo("clinic/model", private=True)
    assert HfApi(token="hf_colleague").repo_info("clinic/model").private
    for token in ("hf_other", False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).repo_info("clinic/model")
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).hf_hub_download("clinic/model", ".gitattributes")
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(token="hf_colleague").auth_check("clinic/model", write=True)
    HfApi(token="hf_owner").auth_check("clinic/model", write=True)


def test_pull_request_leaves_main_alone(hub, api, model_folder, pushed):
    (model_folder / "config.json").write_text('{"changed": true}')
    change = api.upload_folder(repo_id=MODEL, folder_path=model_folder, create_pr=True)
    assert (change.pr_num, change.pr_revision) == (1, "refs/pr/1")
    assert hub.commit_of(REPO) == pushed.oid
    assert hub.files(REPO, "refs/pr/1")["config.json"] == b'{"changed": true}'
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="more.json", repo_id=MODEL, revision="refs/pr/1")
    assert hub.commits(REPO, "refs/pr/1")[0].parent.oid == change.oid
    refs = api.list_repo_refs(MODEL, include_pull_requests=True)
    assert [ref.ref for ref in refs.branches + refs.pull_requests] == ["refs/heads/main", "refs/pr/1"]


def test_stranger_may_only_open_a_pull_request(hub, model_folder, pushed):
    hub.tokens["hf_other"] = {"name": "other", "role": "write"}
    other = HfApi(token="hf_other")
    (model_folder / "model.safetensors").write_bytes(WEIGHTS[::-1])
    with pytest.raises(HfHubHTTPError, match="create_pr"):
        other.upload_folder(repo_id=MODEL, folder_path=model_folder)
    assert other.upload_folder(repo_id=MODEL, folder_path=model_folder, create_pr=True).pr_num == 1
    assert hub.files(REPO, "refs/pr/1")["model.safetensors"] == WEIGHTS[::-1]


def test_branch_takes_commits_of_its_own(hub, api, pushed):
    api.create_branch(MODEL, branch="trial")
    api.create_branch(MODEL, branch="trial", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch(MODEL, branch="trial")
    api.upload_file(path_or_fileobj=b"trial", path_in_repo="note.txt", repo_id=MODEL, revision="trial")
    assert "note.txt" in hub.files(REPO, "trial")
    assert "note.txt" not in hub.repos[REPO]
    assert api.repo_info(MODEL, revision="trial").sha == hub.commit_of(REPO, "trial")
    with pytest.raises(RevisionNotFoundError):
        api.upload_file(path_or_fileobj=b"", path_in_repo="note.txt", repo_id=MODEL, revision="nowhere")


def test_commit_on_an_older_parent_is_refused(hub, api, pushed):
    file = {"path_in_repo": "note.txt", "repo_id": MODEL, "parent_commit": pushed.oid}
    api.upload_file(path_or_fileobj=b"first", **file)
    with pytest.raises(HfHubHTTPError, match="412.*[\\s\\S]*A commit has happened since"):
        api.upload_file(path_or_fileobj=b"second", **file)
    assert hub.repos[REPO]["note.txt"] == b"first"


def test_wrong_token_is_refused_everywhere(hub, api, pushed):
    wrong = HfApi(token="hf_wrong")
    for call in (wrong.whoami, lambda: wrong.create_repo("user/other"), lambda: wrong.repo_info(MODEL)):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert error.value.response.status_code == 401
        assert not isinstance(error.value, RepositoryNotFoundError)


def test_read_token_reads_but_does_not_write(hub, model_folder, pushed):
    reader, before = HfApi(token="hf_read"), hub.commit_of(REPO)
    assert reader.repo_info(MODEL).sha == before
    for call in (
        lambda: reader.create_repo("user/other"),
        lambda: reader.upload_folder(repo_id=MODEL, folder_path=model_folder),
        lambda: reader.delete_repo(MODEL),
    ):
        with pytest.raises(HfHubHTTPError, match="You must use a write token") as error:
            call()
        assert error.value.response.status_code == 403
    assert (set(hub.repos), hub.commit_of(REPO)) == ({REPO}, before)


def test_repo_in_the_namespace_of_another_is_refused(hub, api):
    with pytest.raises(HfHubHTTPError, match="403.*[\\s\\S]*rights to create a model under the namespace"):
        api.create_repo("clinic/model")
    hub.tokens["hf_write"]["orgs"] = {"clinic": "write"}
    assert api.create_repo("clinic/model").repo_id == "clinic/model"


def test_upload_without_a_token_finds_no_repo(hub, model_folder, pushed):
    with pytest.raises(RepositoryNotFoundError, match="401"):
        HfApi(token=False).upload_folder(repo_id=MODEL, folder_path=model_folder)


def test_missing_repo_has_its_own_error(api, model_folder):
    for call in (
        lambda: api.repo_info("user/nothing"),
        lambda: api.upload_folder(repo_id="user/nothing", folder_path=model_folder),
        lambda: api.hf_hub_download("user/nothing", "config.json"),
        lambda: api.list_repo_commits("user/nothing"),
    ):
        with pytest.raises(RepositoryNotFoundError):
            call()
