"""Routes of the Hub on loopback: users, repos, their files, commits and branches."""

import hashlib
import json
import math
from collections import Counter
from contextlib import suppress
from typing import Any

from tests.support.hub.cards import read_card
from tests.support.hub.protocol import REPO, REV, Answer, Request, json_answer, route
from tests.support.hub.repo import GIT_ATTRIBUTES, File, HubError


@route("GET", "/api/whoami-v2")
def _whoami(request: Request) -> Answer:
    if not request.user:
        raise HubError(401, "Invalid username or password.")
    orgs = [{"type": "org", "name": org, "roleInOrg": role} for org, role in request.user.get("orgs", {}).items()]
    token = {"displayName": "test", "role": request.user["role"]}
    auth = {"type": "access_token", "accessToken": token}
    return json_answer({"type": "user", "name": request.user["name"], "orgs": orgs, "auth": auth})


def _named(request: Request) -> tuple[str, str, dict[str, Any]]:
    """Owner and name of the repo that a body names."""
    data = json.loads(request.body)
    if not request.user:
        raise HubError(401, "Invalid username or password.")
    owner = data.get("organization") or request.user["name"]
    return owner, f"{data.get('type') or 'model'}s/{owner}/{data['name']}", data


@route("POST", "/api/repos/create")
def _create(request: Request) -> Answer:
    owner, name, data = _named(request)
    kind = data.get("type") or "model"
    request.check_write(owner, False, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
    url = request.hub.site(name)
    if name in request.hub.repos:
        raise HubError(409, f"You already created this {kind} repo", url=url)
    request.hub.repos[name] = {".gitattributes": GIT_ATTRIBUTES}
    if kind == "space":
        card = f"---\ntitle: {data['name']}\nsdk: {data['sdk']}\n---\n"
        request.hub.repos[name]["README.md"] = card.encode()
    if data.get("visibility") == "private":
        request.hub.private.add(name)
    request.hub.history(name)
    return json_answer({"url": url, "name": name.partition("/")[2]})


@route("DELETE", "/api/repos/delete")
def _delete(request: Request) -> Answer:
    name = _named(request)[1]
    kind, id = name.split("/", 1)
    request.open_repo(kind, id, write=True)
    del request.hub.repos[name]
    request.hub.private.discard(name)
    request.hub.history(name)
    return json_answer({})


@route("GET", f"{REPO}/auth-check(?P<write>/write)?")
def _auth_check(request: Request, kind: str, id: str, write: str | None) -> Answer:
    request.open_repo(kind, id, write=bool(write))
    return json_answer({})


@route("GET", f"{REPO}(?:/revision/{REV})?")
def _info(request: Request, kind: str, id: str, revision: str | None) -> Answer:
    name, repo = request.open_repo(kind, id)
    commit = repo.find(revision or "main")
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
    if "blobs" in request.query:
        for sibling, file in zip(siblings, commit.files.values(), strict=True):
            sibling |= {"blobId": file.blob_id, **file.about("sha256")}
    card: dict[str, Any] = {}
    if readme := commit.files.get("README.md"):
        with suppress(ValueError):  # a test put it there: a commit would have been refused
            card = read_card(readme.content.decode()) or {}
    data: dict[str, Any] = {
        key: card[key] for key in ("pipeline_tag", "library_name", "model-index", "sdk") if key in card
    }
    data |= {"id": id, "author": id.partition("/")[0], "sha": commit.oid, "lastModified": commit.date}
    data |= {"private": name in request.hub.private, "gated": False, "siblings": siblings}
    if counts := _parameters(commit.files):
        data["safetensors"] = {"parameters": counts, "total": counts.total()}
    return json_answer(data | {"cardData": card or None, "tags": card.get("tags", [])})


def _parameters(files: dict[str, File]) -> Counter[str]:
    """Numbers of parameters by their type, as the headers of safetensors files have them."""
    counts: Counter[str] = Counter()
    for path, file in files.items():
        if path.endswith(".safetensors"):
            with suppress(ValueError):  # a test puts anything there
                header = json.loads(file.content[8 : 8 + int.from_bytes(file.content[:8], "little")])
                header.pop("__metadata__", None)
                for tensor in header.values():
                    counts[tensor["dtype"]] += math.prod(tensor["shape"])
    return counts


@route("GET", f"{REPO}/tree/{REV}(?:/(?P<path>.+))?")
def _tree(request: Request, kind: str, id: str, revision: str, path: str | None) -> Answer:
    commit = request.open_repo(kind, id)[1].find(revision)
    prefix = f"{path.strip('/')}/" if path else ""
    below = [name for name in commit.files if name.startswith(prefix)]
    if path and not below:
        raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
    depth = prefix.count("/")
    names = {"/".join(name.split("/")[:end]) for name in below for end in range(depth + 1, name.count("/") + 2)}
    if request.query.get("recursive", "").lower() not in ("true", "1"):
        names = {name for name in names if name.count("/") == depth}
    entries = []
    for name in sorted(names):
        file = commit.files.get(name)
        oid = file.blob_id if file else hashlib.sha1(f"{commit.oid} {name}".encode()).hexdigest()
        entry = {"type": "file" if file else "directory", "path": name, "oid": oid}
        entries.append(entry | (file.about("oid") if file else {"size": 0}))
    return json_answer(entries)


@route("GET", f"{REPO}/commits/{REV}")
def _commits(request: Request, kind: str, id: str, revision: str) -> Answer:
    commits = request.hub.commits(request.open_repo(kind, id)[0], revision)
    return json_answer(
        [
            {
                "id": commit.oid,
                "title": commit.title,
                "message": commit.message,
                "date": commit.date,
                "authors": [{"user": commit.author}],
            }
            for commit in commits
        ]
    )


@route("GET", f"{REPO}/refs")
def _refs(request: Request, kind: str, id: str) -> Answer:
    refs: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "pullRequests": [], "converts": []}
    for ref, commit in request.open_repo(kind, id)[1].refs.items():
        group, start = ("pullRequests", "refs/pr/") if ref.startswith("refs/pr/") else ("branches", "refs/heads/")
        refs[group].append({"name": ref.removeprefix(start), "ref": ref, "targetCommit": commit.oid})
    return json_answer(refs)


@route("POST", f"{REPO}/branch/(?P<branch>[^/]+)")
def _create_branch(request: Request, kind: str, id: str, branch: str) -> Answer:
    _, repo = request.open_repo(kind, id, write=True)
    if f"refs/heads/{branch}" in repo.refs:
        raise HubError(409, f"Reference {branch} already exists")
    repo.refs[f"refs/heads/{branch}"] = repo.find(json.loads(request.body).get("startingPoint", "main"))
    return json_answer({})
