"""Routes of the Hub on loopback: contents of files, in the store of LFS files and by name."""

import hashlib
import re

from tests.support.hub.protocol import REV, SITE, Answer, Request, json_answer, route
from tests.support.hub.repo import HubError


@route("GET|PUT", r"/storage/(?P<name>[^/]+/[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})")
def _storage(request: Request, name: str, oid: str) -> Answer:
    if "Authorization" in request.headers:
        raise HubError(400, "The address is signed and the token must stay at the Hub")
    repo = request.hub.history(name)
    if not repo or request.query.get("signature") != request.hub.secret:
        raise HubError(403, "The signature does not match")
    if request.method == "GET" and oid in repo.objects:
        return _content(request, repo.objects[oid], {"ETag": f'"{oid}"'})
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError(400, "The content does not match its SHA-256")
    repo.objects[oid] = request.body
    return Answer()


@route("GET|HEAD", f"{SITE}/resolve/{REV}/(?P<path>.+)")
def _resolve(request: Request, kind: str | None, id: str, revision: str, path: str) -> Answer:
    name, repo = request.open_repo(kind, id)
    commit = repo.find(revision)
    headers = {"X-Repo-Commit": commit.oid}
    file = commit.files.get(path)
    if file is None:
        message = "Entry not found"
        headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": message}
        return json_answer({"error": message}, 404, headers)
    if not file.lfs:
        return _content(request, file.content, headers | {"ETag": f'"{file.blob_id}"'})
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    return Answer(302, headers=headers | {"Location": request.hub.storage_address(name, file.sha256)})


def _content(request: Request, content: bytes, headers: dict[str, str]) -> Answer:
    """A file, or the range of it that is asked for."""
    headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if not match or not any(match.groups()):
        return Answer(200, content, headers)
    first, last, size = *match.groups(), len(content)
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        return Answer(416, b"", {"Content-Range": f"bytes */{size}"})
    return Answer(206, content[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"})
