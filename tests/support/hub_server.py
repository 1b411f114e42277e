"""A compact Hub on loopback for the real client: repos with a history that take uploads, and faults on demand.

Routes (ID is user/name, T is models, datasets or spaces; outside /api the T of a model is left out):

    GET        /api/whoami-v2               POST    /api/validate-yaml
    POST       /api/repos/create            DELETE  /api/repos/delete
    GET        /api/T/ID[/revision/REV]     GET     /api/T/ID/auth-check[/write]
    GET        /api/T/ID/tree/REV[/PATH]    GET     /api/T/ID/commits/REV
    GET        /api/T/ID/refs               POST    /api/T/ID/branch/NAME
    POST       /api/T/ID/preupload/REV      POST    /api/T/ID/commit/REV[?create_pr=1]
    POST       /T/ID.git/info/lfs/objects/batch and /T/ID.git/info/lfs/objects/verify
    GET, HEAD  /T/ID/resolve/REV/PATH
    GET, PUT   /storage/T/ID/SHA256         the store of LFS files: another host, signed addresses, never a token
"""

import hashlib
import json
import os
import re
import secrets
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import RLock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.support.hub_cards import check_card, read_card
from tests.support.hub_repo import GIT_ATTRIBUTES, MAIN, Commit, File, HubError, Repo, is_lfs

# Without a token: public repos can be read. `orgs` holds the rights in organizations: {"clinic": "write"} or "read".
TOKENS: dict[str, dict[str, Any]] = {
    "hf_write": {"name": "user", "role": "write"},
    "hf_read": {"name": "user", "role": "read"},
}


@dataclass
class _Fault:
    method: str
    path: str
    times: int
    status: int | None
    after: bool
    partial: int | None
    headers: dict[str, str]


class HubServer:
    """A Hub with `repos`: the files of main for each `T/user/name`, as in `repos["datasets/user/name"]["train.json"]`.

    A test may read and write `repos`: files that differ from the last commit become a commit of their own at the next
    request. `private` holds the names of private repos, `tokens` who may do what, and `requests` what was asked.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.tokens: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.lock = RLock()
        self.secret = secrets.token_hex(8)  # signs the addresses of the store
        self._histories: dict[str, Repo] = {}
        self._faults: list[_Fault] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        # the store is another host, which must not get the token
        self.url, self.storage_url = (_start(handler, host) for host in ("127.0.0.1", "localhost"))
        self.reset()

    def reset(self) -> None:
        """Forgets all but the address."""
        with self.lock:
            for state in (self.repos, self.private, self.requests, self._histories, self._faults):
                state.clear()
            self.tokens = {token: dict(user) for token, user in TOKENS.items()}

    def fail(
        self,
        method: str,
        path: str,
        *,
        times: int = 1,
        status: int | None = None,
        drop: bool = False,
        after: bool = False,
        partial: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Makes the next `times` requests fail whose method is `method` and whose path holds the regex `path`.

        Args:
            status: the answer's status, 503 where nothing else is asked for.
            drop: close the connection without an answer.
            after: carry the request out first; its answer is lost, or replaced by that of `status`.
            partial: reset the connection when this many bytes of the body are read.
            headers: sent with `status`, such as Retry-After.
        """
        if status is None and not (drop or after or partial is not None):
            status = 503
        with self.lock:
            self._faults.append(_Fault(method, path, times, status, after, partial, headers or {}))

    def commits(self, repo: str, revision: str = "main") -> list[Commit]:
        """The commits of a revision, the newest first."""
        with self.lock:
            history = self.history(repo)
            if history is None:
                raise KeyError(repo)
            commit: Commit | None = history.find(revision)
            commits = []
            while commit:
                commits.append(commit)
                commit = commit.parent
            return commits

    def commit_of(self, repo: str, revision: str = "main") -> str:
        """The commit id of a revision."""
        return self.commits(repo, revision)[0].oid

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The files of any revision, such as a branch or `refs/pr/1`."""
        return {path: file.content for path, file in self.commits(repo, revision)[0].files.items()}

    def history(self, name: str) -> Repo | None:
        """The history of a repo, where `repos` has one, with what a test wrote there as a commit."""
        if name not in self.repos:
            self._histories.pop(name, None)
            return None
        repo, contents = self._histories.setdefault(name, Repo()), self.repos[name]
        head = repo.refs.get(MAIN)
        old = head.files if head else {}
        if not head or contents != {path: file.content for path, file in old.items()}:
            files = {
                path: known
                if (known := old.get(path)) and known.content == content
                else File(content, is_lfs(path, len(content)))
                for path, content in contents.items()
            }
            repo.commit(MAIN, Commit("initial commit", "", "system", files, head))
        return repo

    def fault(self, method: str, path: str) -> _Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # the client opens many connections at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # else the client went away
            super().handle_error(request, client_address)


def _start(handler: type[BaseHTTPRequestHandler], host: str) -> str:
    server = _Server(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://{host}:{server.server_port}"


@dataclass
class _Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def _json(data: Any, status: int = 200, **headers: str) -> _Answer:
    body = json.dumps(data, default=str).encode()
    return _Answer(status, body, {"Content-Type": "application/json", **headers})


REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
SITE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"
REV = r"(?P<revision>[^/]+)"
_ROUTES: list[tuple[re.Pattern[str], Callable[..., _Answer]]] = []


def _route(method: str, path: str) -> Callable[[Callable[..., _Answer]], Callable[..., _Answer]]:
    def register(function: Callable[..., _Answer]) -> Callable[..., _Answer]:
        _ROUTES.append((re.compile(f"(?:{method}) {path}"), function))
        return function

    return register


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would hold each body back for 40 ms

    def _handle(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        fault = self.hub.fault(self.command, self.path)
        length = int(self.headers.get("Content-Length", 0))
        if fault and fault.partial is not None:
            self.rfile.read(min(fault.partial, length))
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by reset
            os.close(self.connection.detach())
            self.close_connection = True
            return
        self.body = self.rfile.read(length)
        if len(self.body) < length:  # the client died
            self.close_connection = True
            return
        answer = None if fault and not fault.after else self._answer()
        if fault:
            message = f"{fault.status}: asked for by the test"
            answer = _json({"error": message}, fault.status, **fault.headers) if fault.status else None
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def log_message(self, *_: object) -> None:
        """Keeps the test output clean."""

    def _answer(self) -> _Answer:
        path, _, query = self.path.partition("?")
        self.query = {name: values[-1] for name, values in parse_qs(query).items()}
        try:
            with self.hub.lock:
                self.user = None if path.startswith("/storage/") else self._authenticate()
                for pattern, function in _ROUTES:
                    if match := pattern.fullmatch(f"{self.command} {path}"):
                        groups = match.groupdict().items()
                        return function(self, **{name: value and unquote(value) for name, value in groups})
            raise HubError(404, f"This server has no route {self.command} {path}")
        except HubError as error:
            headers = {"X-Error-Message": str(error).replace("\n", " ").encode("latin-1", "replace").decode("latin-1")}
            return _json(error.body, error.status, **headers, **({"X-Error-Code": error.code} if error.code else {}))

    # who may do what

    def _authenticate(self) -> dict[str, Any] | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def _rights(self, owner: str) -> str | None:
        """The rights in a namespace: "read", "write", "admin" or none."""
        user = self.user or {"name": None}
        return "admin" if user["name"] == owner else user.get("orgs", {}).get(owner)

    def _open(self, kind: str | None, id: str, write: bool = False, pull: bool = False) -> tuple[str, Repo]:
        """A repo that the user may read, or write to; `pull`: or open a pull request at."""
        name, owner = f"{kind or 'models'}/{id}", id.partition("/")[0]
        repo = self.hub.history(name)
        if repo is None or (name in self.hub.private and not self._rights(owner)):
            raise HubError(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write and not self.user:
            # on https the client takes each 401 of a repo for a missing repo, on http it needs the code
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if write and self.user:
            self._check_write(owner, pull, "You don't have the rights to write to this repo; pass create_pr=1")
        return name, repo

    def _check_write(self, owner: str, pull: bool, message: str) -> None:
        if self.user and self.user["role"] != "write":
            raise HubError(403, "You must use a write token to upload to a repository.")
        if not pull and self._rights(owner) not in ("write", "admin"):
            raise HubError(403, message)

    def _site(self, name: str) -> str:
        return f"{self.hub.url}/{name.removeprefix('models/')}"

    def _storage_url(self, name: str, oid: str) -> str:
        return f"{self.hub.storage_url}/storage/{name}/{oid}?signature={self.hub.secret}"

    # repos

    @_route("GET", "/api/whoami-v2")
    def _whoami(self) -> _Answer:
        if not self.user:
            raise HubError(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": org, "roleInOrg": role} for org, role in self.user.get("orgs", {}).items()]
        token = {"displayName": "test", "role": self.user["role"]}
        auth = {"type": "access_token", "accessToken": token}
        return _json({"type": "user", "name": self.user["name"], "orgs": orgs, "auth": auth})

    def _named(self) -> tuple[str, str, dict[str, Any]]:
        """Owner and name of the repo that a body names."""
        data = json.loads(self.body)
        if not self.user:
            raise HubError(401, "Invalid username or password.")
        owner = data.get("organization") or self.user["name"]
        return owner, f"{data.get('type') or 'model'}s/{owner}/{data['name']}", data

    @_route("POST", "/api/repos/create")
    def _create(self) -> _Answer:
        owner, name, data = self._named()
        kind = data.get("type") or "model"
        self._check_write(owner, False, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        url = self._site(name)
        if name in self.hub.repos:
            raise HubError(409, f"You already created this {kind} repo", url=url)
        self.hub.repos[name] = {".gitattributes": GIT_ATTRIBUTES}
        if kind == "space":
            card = f"---\ntitle: {data['name']}\nsdk: {data['sdk']}\n---\n"
            self.hub.repos[name]["README.md"] = card.encode()
        if data.get("visibility") == "private":
            self.hub.private.add(name)
        self.hub.history(name)
        return _json({"url": url, "name": name.partition("/")[2]})

    @_route("DELETE", "/api/repos/delete")
    def _delete(self) -> _Answer:
        name = self._named()[1]
        kind, id = name.split("/", 1)
        self._open(kind, id, write=True)
        del self.hub.repos[name]
        self.hub.private.discard(name)
        self.hub.history(name)
        return _json({})

    @_route("GET", f"{REPO}/auth-check(?P<write>/write)?")
    def _auth_check(self, kind: str, id: str, write: str | None) -> _Answer:
        self._open(kind, id, write=bool(write))
        return _json({})

    @_route("GET", f"{REPO}(?:/revision/{REV})?")
    def _info(self, kind: str, id: str, revision: str | None) -> _Answer:
        name, repo = self._open(kind, id)
        commit = repo.find(revision or "main")
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
        if "blobs" in self.query:
            for sibling, file in zip(siblings, commit.files.values(), strict=True):
                sibling |= {"blobId": file.blob_id, **file.about("sha256")}
        readme = commit.files.get("README.md")
        try:
            card = (readme and read_card(readme.content.decode())) or {}
        except ValueError:  # a test put it there: a commit would have been refused
            card = {}
        data: dict[str, Any] = {
            key: card[key] for key in ("pipeline_tag", "library_name", "model-index", "sdk") if key in card
        }
        data |= {"id": id, "author": id.partition("/")[0], "sha": commit.oid, "lastModified": commit.date}
        data |= {"private": name in self.hub.private, "gated": False, "siblings": siblings}
        return _json(data | {"cardData": card or None, "tags": card.get("tags", [])})

    @_route("GET", f"{REPO}/tree/{REV}(?:/(?P<path>.+))?")
    def _tree(self, kind: str, id: str, revision: str, path: str | None) -> _Answer:
        commit = self._open(kind, id)[1].find(revision)
        prefix = f"{path.strip('/')}/" if path else ""
        below = [name for name in commit.files if name.startswith(prefix)]
        if path and not below:
            raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        depth = prefix.count("/")
        names = {"/".join(name.split("/")[:end]) for name in below for end in range(depth + 1, name.count("/") + 2)}
        if self.query.get("recursive", "").lower() not in ("true", "1"):
            names = {name for name in names if name.count("/") == depth}
        entries = []
        for name in sorted(names):
            file = commit.files.get(name)
            oid = file.blob_id if file else hashlib.sha1(f"{commit.oid} {name}".encode()).hexdigest()
            entry = {"type": "file" if file else "directory", "path": name, "oid": oid}
            entries.append(entry | (file.about("oid") if file else {"size": 0}))
        return _json(entries)

    @_route("GET", f"{REPO}/commits/{REV}")
    def _commits(self, kind: str, id: str, revision: str) -> _Answer:
        commits = self.hub.commits(self._open(kind, id)[0], revision)
        same = ("title", "message", "date")
        about = [{"id": one.oid} | {key: getattr(one, key) for key in same} for one in commits]
        return _json([data | {"authors": [{"user": one.author}]} for data, one in zip(about, commits, strict=True)])

    @_route("GET", f"{REPO}/refs")
    def _refs(self, kind: str, id: str) -> _Answer:
        refs: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "pullRequests": [], "converts": []}
        for ref, commit in self._open(kind, id)[1].refs.items():
            group, start = ("pullRequests", "refs/pr/") if ref.startswith("refs/pr/") else ("branches", "refs/heads/")
            refs[group].append({"name": ref.removeprefix(start), "ref": ref, "targetCommit": commit.oid})
        return _json(refs)

    @_route("POST", f"{REPO}/branch/(?P<branch>[^/]+)")
    def _create_branch(self, kind: str, id: str, branch: str) -> _Answer:
        _, repo = self._open(kind, id, write=True)
        if f"refs/heads/{branch}" in repo.refs:
            raise HubError(409, f"Reference {branch} already exists")
        repo.refs[f"refs/heads/{branch}"] = repo.find(json.loads(self.body).get("startingPoint", "main"))
        return _json({})

    # uploads

    @_route("POST", "/api/validate-yaml")
    def _validate_yaml(self) -> _Answer:
        data = json.loads(self.body)
        errors, warnings = check_card(data["content"], data["repoType"])
        body = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
        return _json(body, 400 if errors else 200)

    @_route("POST", f"{REPO}/preupload/{REV}")
    def _preupload(self, kind: str, id: str, revision: str) -> _Answer:
        files = self._open(kind, id, write=True, pull="create_pr" in self.query)[1].find(revision).files
        answers = []
        for asked in json.loads(self.body)["files"]:
            path, file = asked["path"], files.get(asked["path"])
            mode = "lfs" if is_lfs(path, asked["size"]) else "regular"
            oid = {"oid": file.sha256 if file.lfs else file.blob_id} if file else {}
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
        return _json({"files": answers})

    @_route("POST", rf"{SITE}\.git/info/lfs/objects/batch")
    def _lfs_batch(self, kind: str | None, id: str) -> _Answer:
        data = json.loads(self.body)
        name, repo = self._open(kind, id, write=True, pull="ref" not in data)
        verify = {"href": f"{self._site(name)}.git/info/lfs/objects/verify"}
        answers = [{"oid": asked["oid"], "size": asked["size"]} for asked in data["objects"]]
        for answer in answers:
            if answer["oid"] not in repo.objects:
                answer["actions"] = {"upload": {"href": self._storage_url(name, answer["oid"])}, "verify": verify}
        return _json({"transfer": "basic", "objects": answers})

    @_route("POST", rf"{SITE}\.git/info/lfs/objects/verify")
    def _lfs_verify(self, kind: str | None, id: str) -> _Answer:
        data = json.loads(self.body)
        if len(self._open(kind, id, write=True, pull=True)[1].objects.get(data["oid"], b"")) != data["size"]:
            raise HubError(404, f"The object {data['oid']} is not here whole")
        return _json({})

    @_route("GET|PUT", r"/storage/(?P<name>[^/]+/[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})")
    def _storage(self, name: str, oid: str) -> _Answer:
        if "Authorization" in self.headers:
            raise HubError(400, "The address is signed and the token must stay at the Hub")
        repo = self.hub.history(name)
        if not repo or self.query.get("signature") != self.hub.secret:
            raise HubError(403, "The signature does not match")
        if self.command == "GET" and oid in repo.objects:
            return self._content(repo.objects[oid], {"ETag": f'"{oid}"'})
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "The content does not match its SHA-256")
        repo.objects[oid] = self.body
        return _Answer()

    @_route("POST", f"{REPO}/commit/{REV}")
    def _commit(self, kind: str, id: str, revision: str) -> _Answer:
        pull = "create_pr" in self.query
        name, repo = self._open(kind, id, write=True, pull=pull)
        header, *operations = (json.loads(line) for line in self.body.splitlines())
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
        author = self.user["name"] if self.user else ""
        commit = Commit(header["value"]["summary"], header["value"].get("description", ""), author, files, base)
        repo.commit(ref, commit)
        if ref == MAIN:
            contents = self.hub.repos[name]
            contents.clear()
            contents |= {path: file.content for path, file in files.items()}
        site = self._site(name)
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{site}/commit/{commit.oid}"}
        return _json(answer | ({"pullRequestUrl": f"{site}/discussions/{number}"} if pull else {}))

    # downloads

    @_route("GET|HEAD", f"{SITE}/resolve/{REV}/(?P<path>.+)")
    def _resolve(self, kind: str | None, id: str, revision: str, path: str) -> _Answer:
        name, repo = self._open(kind, id)
        commit = repo.find(revision)
        headers = {"X-Repo-Commit": commit.oid}
        file = commit.files.get(path)
        if file is None:
            message = "Entry not found"
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": message}
            return _json({"error": message}, 404, **headers)
        if not file.lfs:
            return self._content(file.content, headers | {"ETag": f'"{file.blob_id}"'})
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        return _Answer(302, headers=headers | {"Location": self._storage_url(name, file.sha256)})

    def _content(self, content: bytes, headers: dict[str, str]) -> _Answer:
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not match or not any(match.groups()):
            return _Answer(200, content, headers)
        first, last, size = *match.groups(), len(content)
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if start >= end:
            return _Answer(416, b"", {"Content-Range": f"bytes */{size}"})
        return _Answer(206, content[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"})
