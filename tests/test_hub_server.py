"""The Hub on loopback, seen by the real client: what it takes, what it refuses and how it fails on demand."""

from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

MODEL, REPO = "user/model", "models/user/model"
WEIGHTS = bytes(range(256)) * 400  # over the buffers of a connection, so that an upload can die half way
CARD = """---
license: mit
base_model: dandelin/vilt-b32-mlm
pipeline_tag: visual-question-answering
model-index:
- name: model
  results:
  - task: {type: visual-question-answering}
    dataset: {name: SLAKE, type: BoKelvin/SLAKE}
    metrics: [{type: accuracy, value: 0.8}]
---
# A model
"""


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(token="hf_write")


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long the client waits before it tries again; it doesn't, in this test."""
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "model"
    (folder / "metrics").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text("{}")
    (folder / "metrics" / "test.json").write_text('{"accuracy": 0.8}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sent(hub, method: str, part: str) -> int:
    return sum(request.startswith(f"{method} ") and part in request for request in hub.requests)


@pytest.fixture
def pushed(api, folder):
    """The commit of a folder that is on the Hub."""
    api.create_repo(MODEL)
    return api.upload_folder(repo_id=MODEL, folder_path=folder)


def test_whoami_names_user_organizations_and_role(hub):
    hub.tokens["hf_org"] = {"name": "anna", "role": "read", "orgs": {"clinic": "write"}}
    answer = HfApi(token="hf_org").whoami()
    assert (answer["name"], answer["auth"]["accessToken"]["role"]) == ("anna", "read")
    assert [org["name"] for org in answer["orgs"]] == ["clinic"]


@pytest.mark.parametrize(
    ("kind", "name", "sdk"),
    [("model", REPO, None), ("dataset", "datasets/user/model", None), ("space", "spaces/user/model", "gradio")],
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


def test_uploaded_folder_is_on_the_hub_byte_for_byte(hub, api, folder, pushed):
    assert {path: hub.repos[REPO][path] for path in contents(folder)} == contents(folder)
    assert pushed.oid == hub.commit_of(REPO)
    assert sent(hub, "PUT", "/storage/") == 1
    info = api.repo_info(MODEL, files_metadata=True)
    (weights,) = [file for file in info.siblings if file.rfilename == "model.safetensors"]
    assert (info.sha, info.private, weights.size, weights.lfs.size) == (pushed.oid, False, len(WEIGHTS), len(WEIGHTS))
    assert info.pipeline_tag == "visual-question-answering"
    assert info.card_data.base_model == "dandelin/vilt-b32-mlm"


def test_second_upload_of_the_same_folder_sends_nothing(hub, api, folder, pushed):
    hub.requests.clear()
    assert api.upload_folder(repo_id=MODEL, folder_path=folder).oid == pushed.oid
    assert not sent(hub, "PUT", "/storage/")
    assert not sent(hub, "POST", "/commit/")


def test_changed_file_alone_is_sent(hub, api, folder, pushed):
    (folder / "config.json").write_text('{"changed": true}')
    commit = api.upload_folder(repo_id=MODEL, folder_path=folder, commit_message="Change", commit_description="Why")
    assert sent(hub, "PUT", "/storage/") == 1
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


def test_download_into_an_empty_cache_gives_the_same_bytes(hub, folder, pushed, tmp_path):
    assert contents(Path(snapshot_download(MODEL, cache_dir=tmp_path / "cache"))) == contents(folder) | {
        ".gitattributes": hub.repos[REPO][".gitattributes"]
    }
    assert sent(hub, "GET", "/storage/") == 1


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


def test_pull_request_leaves_main_alone(hub, api, folder, pushed):
    (folder / "config.json").write_text('{"changed": true}')
    change = api.upload_folder(repo_id=MODEL, folder_path=folder, create_pr=True)
    assert (change.pr_num, change.pr_revision) == (1, "refs/pr/1")
    assert hub.commit_of(REPO) == pushed.oid
    assert hub.files(REPO, "refs/pr/1")["config.json"] == b'{"changed": true}'
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="more.json", repo_id=MODEL, revision="refs/pr/1")
    assert hub.commits(REPO, "refs/pr/1")[0].parent.oid == change.oid
    refs = api.list_repo_refs(MODEL, include_pull_requests=True)
    assert [ref.ref for ref in refs.branches + refs.pull_requests] == ["refs/heads/main", "refs/pr/1"]


def test_stranger_may_only_open_a_pull_request(hub, folder, pushed):
    hub.tokens["hf_other"] = {"name": "other", "role": "write"}
    other = HfApi(token="hf_other")
    (folder / "model.safetensors").write_bytes(WEIGHTS[::-1])
    with pytest.raises(HfHubHTTPError, match="create_pr"):
        other.upload_folder(repo_id=MODEL, folder_path=folder)
    assert other.upload_folder(repo_id=MODEL, folder_path=folder, create_pr=True).pr_num == 1
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


def test_read_token_reads_but_does_not_write(hub, folder, pushed):
    reader, before = HfApi(token="hf_read"), hub.commit_of(REPO)
    assert reader.repo_info(MODEL).sha == before
    for call in (
        lambda: reader.create_repo("user/other"),
        lambda: reader.upload_folder(repo_id=MODEL, folder_path=folder),
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


def test_upload_without_a_token_finds_no_repo(hub, folder, pushed):
    with pytest.raises(RepositoryNotFoundError, match="401"):
        HfApi(token=False).upload_folder(repo_id=MODEL, folder_path=folder)


def test_missing_repo_has_its_own_error(api, folder):
    for call in (
        lambda: api.repo_info("user/nothing"),
        lambda: api.upload_folder(repo_id="user/nothing", folder_path=folder),
        lambda: api.hf_hub_download("user/nothing", "config.json"),
        lambda: api.list_repo_commits("user/nothing"),
    ):
        with pytest.raises(RepositoryNotFoundError):
            call()


BAD_CARDS = {
    "yaml": ("license: mit", "license: [", "can't be read"),
    "no-license": ("license: mit\n", "", '"license" is required'),
    "license": ("license: mit", "license: 7", '"license" with value 7 is not valid'),
    "base": ("dandelin/vilt-b32-mlm", "/tmp/vilt", '"base_model" with value "/tmp/vilt" is not valid'),
    "tag": ("visual-question-answering\nmodel", "3\nmodel", '"pipeline_tag" with value 3 is not valid'),
    "name": ("- name: model\n ", "-", '"model-index\\[0\\].name" is required'),
    "task": ("{type: visual-question-answering}", "{}", '"model-index\\[0\\].results\\[0\\].task.type" is required'),
    "dataset": (", type: BoKelvin/SLAKE", "", "dataset.type.* is required"),
    "value": (", value: 0.8", "", "metrics\\[0\\].value.* is required"),
}


@pytest.mark.parametrize("kind", BAD_CARDS)
def test_bad_card_is_refused_before_any_upload(hub, api, folder, kind):
    old, new, message = BAD_CARDS[kind]
    assert old in CARD
    (folder / "README.md").write_text(CARD.replace(old, new, 1))
    api.create_repo(MODEL)
    with pytest.raises(ValueError, match=f"Invalid metadata in README.md.\n- .*{message}"):
        api.upload_folder(repo_id=MODEL, folder_path=folder)
    assert not sent(hub, "POST", "/preupload/")
    assert len(hub.commits(REPO)) == 1


def test_bad_card_is_refused_by_the_commit_too(hub, api, monkeypatch):
    api.create_repo(MODEL)
    monkeypatch.setattr(HfApi, "_validate_yaml", lambda *_, **__: None)
    with pytest.raises(BadRequestError, match='"license" is required'):
        api.upload_file(path_or_fileobj=b"---\ntags: [vqa]\n---\n", path_in_repo="README.md", repo_id=MODEL)


def test_card_without_metadata_only_warns(hub, api):
    api.create_repo(MODEL)
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(path_or_fileobj=b"# A model", path_in_repo="README.md", repo_id=MODEL)
    assert hub.repos[REPO]["README.md"] == b"# A model"


def test_card_of_a_space_needs_an_sdk(hub, api):
    card = {"path_or_fileobj": b"---\ntitle: A\nsdk: qt\n---\n", "path_in_repo": "README.md", "repo_id": MODEL}
    with pytest.raises(ValueError, match='"sdk" with value "qt" is not valid'):
        api.upload_file(**card, repo_type="space")


def test_client_tries_again_after_503(hub, api, folder, waits):
    api.create_repo(MODEL)
    hub.fail("POST", "/preupload/", times=2)
    hub.fail("PUT", "/storage/", times=2)
    hub.fail("POST", "/objects/(batch|verify)", times=2)
    api.upload_folder(repo_id=MODEL, folder_path=folder)
    assert hub.repos[REPO]["model.safetensors"] == WEIGHTS
    assert len(waits) == 6


def test_client_waits_as_long_as_it_is_told(hub, api, waits):
    api.create_repo(MODEL)
    hub.fail("POST", "/preupload/", status=429, headers={"Retry-After": "30"})
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=MODEL)
    assert waits == [31]


def test_commit_is_not_tried_again(hub, api, waits):
    api.create_repo(MODEL)
    hub.fail("POST", "/commit/")
    with pytest.raises(HfHubHTTPError, match="503"):
        api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=MODEL)
    assert (sent(hub, "POST", "/commit/"), len(hub.commits(REPO)), waits) == (1, 1, [])


@pytest.mark.parametrize(
    ("fault", "error"),
    [({}, httpx2.RemoteProtocolError), ({"status": 504}, HfHubHTTPError)],
    ids=["lost", "replaced"],
)
def test_commit_whose_answer_is_lost_is_there(hub, api, folder, fault, error):
    api.create_repo(MODEL)
    hub.fail("POST", "/commit/", after=True, **fault)
    with pytest.raises(error):
        api.upload_folder(repo_id=MODEL, folder_path=folder)
    assert hub.repos[REPO]["model.safetensors"] == WEIGHTS
    assert api.upload_folder(repo_id=MODEL, folder_path=folder).oid == hub.commit_of(REPO)
    assert len(hub.commits(REPO)) == 2


def test_dropped_request_is_not_carried_out(hub, api):
    hub.fail("POST", "/repos/create", drop=True)
    with pytest.raises(httpx2.RemoteProtocolError):
        api.create_repo(MODEL)
    assert not hub.repos


def test_upload_that_dies_once_is_sent_again(hub, api, folder, waits):
    api.create_repo(MODEL)
    hub.fail("PUT", "/storage/", partial=1000)
    api.upload_folder(repo_id=MODEL, folder_path=folder)
    assert hub.repos[REPO]["model.safetensors"] == WEIGHTS
    assert (sent(hub, "PUT", "/storage/"), len(waits)) == (2, 1)


def test_upload_that_always_dies_leaves_no_commit(hub, api, folder, waits):
    api.create_repo(MODEL)
    hub.fail("PUT", "/storage/", partial=1000, times=99)
    with pytest.raises(RuntimeError, match="Error while uploading 'model.safetensors'") as error:
        api.upload_folder(repo_id=MODEL, folder_path=folder)
    assert isinstance(error.value.__cause__, httpx2.TransportError)
    assert (sent(hub, "PUT", "/storage/"), len(hub.commits(REPO))) == (6, 1)


def test_refused_upload_is_an_error_of_the_client(hub, api, folder, waits):
    api.create_repo(MODEL)
    hub.fail("PUT", "/storage/", status=403)
    with pytest.raises(RuntimeError) as error:
        api.upload_folder(repo_id=MODEL, folder_path=folder)
    assert isinstance(error.value.__cause__, HfHubHTTPError)


def test_store_takes_only_the_right_bytes_and_no_token(hub, api):
    api.create_repo(MODEL)
    addition = CommitOperationAdd("model.bin", b"right")
    api.preupload_lfs_files(MODEL, [addition])
    (upload,) = [request.removeprefix("PUT ") for request in hub.requests if request.startswith("PUT")]
    url = f"{hub.storage_url}{upload}"
    assert httpx2.put(url, content=b"wrong").status_code == 400
    assert httpx2.put(url, content=b"right", headers={"Authorization": "Bearer hf_write"}).status_code == 400
    assert httpx2.put(url.partition("?")[0], content=b"right").status_code == 403
    assert httpx2.put(url, content=b"right").status_code == 200


def test_commit_of_a_file_that_was_not_uploaded_is_refused(hub, api, pushed):
    lines = '{"key": "header", "value": {"summary": "x"}}\n' + (
        '{"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": "%s", "size": 1}}\n' % ("0" * 64)
    )
    headers = {"Authorization": "Bearer hf_write"}
    answer = httpx2.post(f"{hub.url}/api/{REPO}/commit/main", content=lines, headers=headers)
    assert (answer.status_code, hub.commit_of(REPO)) == (400, pushed.oid)


def test_nothing_is_left_for_the_next_test(hub):
    hub.repos[REPO], hub.tokens["hf_more"] = {"config.json": b"{}"}, {"name": "more", "role": "read"}
    hub.private.add(REPO)
    hub.fail("GET", "/api/", times=99)
    hub.reset()
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token="hf_write").repo_info(MODEL)
    assert (hub.repos, hub.private, set(hub.tokens)) == ({}, set(), {"hf_write", "hf_read"})
