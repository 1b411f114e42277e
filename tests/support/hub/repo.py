"""What the Hub on loopback keeps of a repo: files, commits and refs."""

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

MAX_REGULAR_BYTES = 10 * 2**20
LFS_SUFFIXES = (
    ".7z",
    ".arrow",
    ".bin",
    ".ckpt",
    ".gz",
    ".h5",
    ".joblib",
    ".model",
    ".msgpack",
    ".npy",
    ".npz",
    ".onnx",
    ".parquet",
    ".pickle",
    ".pkl",
    ".pt",
    ".pth",
    ".safetensors",
    ".tar",
    ".tflite",
    ".tgz",
    ".zip",
    ".zst",
)
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
MAIN = "refs/heads/main"


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > MAX_REGULAR_BYTES


class HubError(Exception):
    """An answer with an error: `code` tells the client which exception to raise, `extra` is added to the body."""

    def __init__(self, status: int, message: str, code: str = "", **extra: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message, **extra}


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @cached_property
    def blob_id(self) -> str:
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    def about(self, sha256_key: str) -> dict[str, Any]:
        """Size and LFS data; the tree calls the sha256 `oid`, the repo info `sha256`."""
        size = len(self.content)
        lfs = {sha256_key: self.sha256, "size": size, "pointerSize": len(self.pointer)}
        return {"size": size, "lfs": lfs} if self.lfs else {"size": size}


@dataclass(frozen=True)
class Commit:
    title: str
    message: str
    author: str
    files: dict[str, File]
    parent: "Commit | None" = None
    oid: str = field(default_factory=lambda: secrets.token_hex(20))  # no two are the same, as with Git's dates
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


class Repo:
    """The history of a repo: commits by ref and by id, and the LFS objects that it has."""

    def __init__(self) -> None:
        self.refs: dict[str, Commit] = {}
        self.commits: dict[str, Commit] = {}
        self.objects: dict[str, bytes] = {}

    def find(self, revision: str) -> Commit:
        return self.commits.get(revision) or self.refs[self.branch(revision)]

    def branch(self, revision: str) -> str:
        """The ref that a commit to a branch or to a pull request moves."""
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in self.refs:
                return name
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, ref: str, commit: Commit) -> None:
        self.objects |= {file.sha256: file.content for file in commit.files.values() if file.lfs}
        self.refs[ref] = self.commits[commit.oid] = commit

    def apply(self, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
        """Does one operation of a commit to `files`."""
        path = value["path"].rstrip("/")
        if path.startswith("/") or {"", ".", "..", ".git"} & set(path.split("/")):
            raise HubError(400, f"{path!r} is no path of a repo")
        if key == "file":
            files[path] = File(base64.b64decode(value["content"], validate=True), lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.objects:
                raise HubError(400, f"{path}: the LFS object {value['oid']} was not uploaded")
            files[path] = File(self.objects[value["oid"]], lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(f"{path}/"))]
            if not gone:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"{key!r} is no operation of a commit")
