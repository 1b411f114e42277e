"""Routes of the Hub on loopback: checks of cards, announcements of files, commits."""

import json

from tests.support.hub.cards import check_card
from tests.support.hub.protocol import REPO, REV, SITE, Answer, Request, json_answer, route
from tests.support.hub.repo import MAIN, Commit, HubError, is_lfs


@route("POST", "/api/validate-yaml")
def _validate_yaml(request: Request) -> Answer:
    data = json.loads(request.body)
    errors, warnings = check_card(data["content"], data["repoType"])
    body = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
    return json_answer(body, 400 if errors else 200)


@route("POST", f"{REPO}/preupload/{REV}")
def _preupload(request: Request, kind: str, id: str, revision: str) -> Answer:
    files = request.open_repo(kind, id, write=True, pull="create_pr" in request.query)[1].find(revision).files
    answers = []
    for asked in json.loads(request.body)["files"]:
        path, file = asked["path"], files.get(asked["path"])
        mode = "lfs" if is_lfs(path, asked["size"]) else "regular"
        answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        if file:
            answer["oid"] = file.sha256 if file.lfs else file.blob_id
        answers.append(answer)
    return json_answer({"files": answers})


@route("POST", rf"{SITE}\.git/info/lfs/objects/batch")
def _lfs_batch(request: Request, kind: str | None, id: str) -> Answer:
    data = json.loads(request.body)
    name, repo = request.open_repo(kind, id, write=True, pull="ref" not in data)
    verify = {"href": f"{request.hub.site(name)}.git/info/lfs/objects/verify"}
    answers = [{"oid": asked["oid"], "size": asked["size"]} for asked in data["objects"]]
    for answer in answers:
        if answer["oid"] not in repo.objects:
            answer["actions"] = {
                "upload": {"href": request.hub.storage_address(name, answer["oid"])},
                "verify": verify,
            }
    return json_answer({"transfer": "basic", "objects": answers})


@route("POST", rf"{SITE}\.git/info/lfs/objects/verify")
def _lfs_verify(request: Request, kind: str | None, id: str) -> Answer:
    data = json.loads(request.body)
    if len(request.open_repo(kind, id, write=True, pull=True)[1].objects.get(data["oid"], b"")) != data["size"]:
        raise HubError(404, f"The object {data['oid']} is not here whole")
    return json_answer({})


@route("POST", f"{REPO}/commit/{REV}")
def _commit(request: Request, kind: str, id: str, revision: str) -> Answer:
    pull = "create_pr" in request.query
    name, repo = request.open_repo(kind, id, write=True, pull=pull)
    header, *operations = (json.loads(line) for line in request.body.splitlines())
    ref, parent = repo.branch(revision), header["value"].get("parentCommit")
    base = repo.find(parent) if pull and parent else repo.refs[ref]
    if parent and not base.oid.startswith(parent):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(base.files)
    for operation in operations:
        repo.apply(files, operation["key"], operation["value"])
    if "README.md" in files and files["README.md"] is not base.files.get("README.md"):
        errors, _ = check_card(files["README.md"].content.decode(), kind[:-1])
        if errors:
            raise HubError(400, "; ".join(errors))
    number = sum(other.startswith("refs/pr/") for other in repo.refs) + 1
    ref = f"refs/pr/{number}" if pull else ref
    author = request.user["name"] if request.user else ""
    commit = Commit(header["value"]["summary"], header["value"].get("description", ""), author, files, base)
    repo.commit(ref, commit)
    if ref == MAIN:
        contents = request.hub.repos[name]
        contents.clear()
        contents |= {path: file.content for path, file in files.items()}
    site = request.hub.site(name)
    answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{site}/commit/{commit.oid}"}
    if pull:
        answer["pullRequestUrl"] = f"{site}/discussions/{number}"
    return json_answer(answer)
