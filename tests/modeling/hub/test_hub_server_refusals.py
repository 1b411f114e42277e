"""The Hub on loopback, seen by the real client: what it refuses, and how it fails on demand."""

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RepositoryNotFoundError

from tests.modeling.hub.samples import CARD, MODEL, REPO, WEIGHTS

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
def test_bad_card_is_refused_before_any_upload(hub, api, model_folder, kind):
    old, new, message = BAD_CARDS[kind]
    assert old in CARD
    (model_folder / "README.md").write_text(CARD.replace(old, new, 1))
    api.create_repo(MODEL)
    with pytest.raises(ValueError, match=f"Invalid metadata in README.md.\n- .*{message}"):
        api.upload_folder(repo_id=MODEL, folder_path=model_folder)
    assert not hub.count("POST", "/preupload/")
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


def test_client_tries_again_after_503(hub, api, model_folder, client_waits):
    api.create_repo(MODEL)
    hub.fail("POST", "/preupload/", times=2)
    hub.fail("PUT", "/storage/", times=2)
    hub.fail("POST", "/objects/(batch|verify)", times=2)
    api.upload_folder(repo_id=MODEL, folder_path=model_folder)
    assert hub.repos[REPO]["model.safetensors"] == WEIGHTS
    assert len(client_waits) == 6


def test_client_waits_as_long_as_it_is_told(hub, api, client_waits):
    api.create_repo(MODEL)
    hub.fail("POST", "/preupload/", status=429, headers={"Retry-After": "30"})
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=MODEL)
    assert client_waits == [31]


def test_commit_is_not_tried_again(hub, api, client_waits):
    api.create_repo(MODEL)
    hub.fail("POST", "/commit/")
    with pytest.raises(HfHubHTTPError, match="503"):
        api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=MODEL)
    assert (hub.count("POST", "/commit/"), len(hub.commits(REPO)), client_waits) == (1, 1, [])


@pytest.mark.parametrize(
    ("fault", "error"),
    [({}, httpx2.RemoteProtocolError), ({"status": 504}, HfHubHTTPError)],
    ids=["lost", "replaced"],
)
def test_commit_whose_answer_is_lost_is_there(hub, api, model_folder, fault, error):
    api.create_repo(MODEL)
    hub.fail("POST", "/commit/", after=True, **fault)
    with pytest.raises(error):
        api.upload_folder(repo_id=MODEL, folder_path=model_folder)
    assert hub.repos[REPO]["model.safetensors"] == WEIGHTS
    assert api.upload_folder(repo_id=MODEL, folder_path=model_folder).oid == hub.commit_of(REPO)
    assert len(hub.commits(REPO)) == 2


def test_dropped_request_is_not_carried_out(hub, api):
    hub.fail("POST", "/repos/create", drop=True)
    with pytest.raises(httpx2.RemoteProtocolError):
        api.create_repo(MODEL)
    assert not hub.repos


def test_upload_that_dies_once_is_sent_again(hub, api, model_folder, client_waits):
    api.create_repo(MODEL)
    hub.fail("PUT", "/storage/", partial=1000)
    api.upload_folder(repo_id=MODEL, folder_path=model_folder)
    assert hub.repos[REPO]["model.safetensors"] == WEIGHTS
    assert (hub.count("PUT", "/storage/"), len(client_waits)) == (2, 1)


def test_upload_that_always_dies_leaves_no_commit(hub, api, model_folder, client_waits):
    api.create_repo(MODEL)
    hub.fail("PUT", "/storage/", partial=1000, times=99)
    with pytest.raises(RuntimeError, match="Error while uploading 'model.safetensors'") as error:
        api.upload_folder(repo_id=MODEL, folder_path=model_folder)
    assert isinstance(error.value.__cause__, httpx2.TransportError)
    assert (hub.count("PUT", "/storage/"), len(hub.commits(REPO))) == (6, 1)


def test_refused_upload_is_an_error_of_the_client(hub, api, model_folder, client_waits):
    api.create_repo(MODEL)
    hub.fail("PUT", "/storage/", status=403)
    with pytest.raises(RuntimeError) as error:
        api.upload_folder(repo_id=MODEL, folder_path=model_folder)
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
