"""A compact Hub on loopback for the real client: data set repos that can be listed and downloaded."""

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

INFO = re.compile(r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)(?:/revision/[^/]+)?")
TREE = re.compile(r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)/tree/[^/]+")
FILE = re.compile(r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)/resolve/[^/]+/(?P<path>.+)")


class HubServer:
    """Serves `repos`: files by path for each `kind/user/name`, as in `repos["datasets/user/name"]["train.json"]`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def commit_of(self, repo: str) -> str:
        """The commit id of a repo: a hash of its files."""
        digest = hashlib.sha1()
        for path, content in sorted(self.repos[repo].items()):
            digest.update(path.encode() + b"\0" + content)
        return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if match := INFO.fullmatch(path):
            self._info(f"{match['kind']}/{match['id']}")
        elif match := TREE.fullmatch(path):
            self._tree(f"{match['kind']}/{match['id']}")
        elif match := FILE.fullmatch(path):
            self._file(f"{match['kind'] or 'models'}/{match['id']}", match["path"])
        else:
            self._send(404, b"{}")

    do_HEAD = do_GET

    def _info(self, repo: str) -> None:
        if repo not in self.hub.repos:
            return self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        files = [{"rfilename": path, "size": len(content)} for path, content in self.hub.repos[repo].items()]
        name = repo.partition("/")[2]
        body = {"id": name, "sha": self.hub.commit_of(repo), "siblings": files, "private": False, "tags": []}
        return self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _tree(self, repo: str) -> None:
        if repo not in self.hub.repos:
            return self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        files = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in self.hub.repos[repo].items()
        ]
        return self._send(200, json.dumps(files).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, path: str) -> None:
        if repo not in self.hub.repos:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        content = self.hub.repos[repo].get(path)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self._send(200, content, {"ETag": etag, "X-Repo-Commit": self.hub.commit_of(repo)})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keeps the test output clean."""
