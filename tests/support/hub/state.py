"""What the Hub on loopback knows: its repos, who may do what, and which requests are to fail."""

import re
import secrets
from dataclasses import dataclass
from threading import RLock
from typing import Any

from tests.support.hub.repo import MAIN, Commit, File, Repo, is_lfs

# Without a token: public repos can be read. `orgs` holds the rights in organizations: {"clinic": "write"} or "read".
TOKENS: dict[str, dict[str, Any]] = {
    "hf_write": {"name": "user", "role": "write"},
    "hf_read": {"name": "user", "role": "read"},
}


@dataclass
class Fault:
    """What is to go wrong with the next `times` requests of a kind; `HubState.fail` explains the fields."""

    method: str
    path: str
    times: int
    status: int | None
    after: bool
    partial: int | None
    headers: dict[str, str]


class HubState:
    """A Hub with `repos`: the files of main for each `T/user/name`, as in `repos["datasets/user/name"]["train.json"]`.

    A test may read and write `repos`. Files that differ from the last commit become a commit of their own at the next
    request. `private` holds the names of private repos, `tokens` who may do what, and `requests` what was asked.
    """

    url = ""  # of the Hub, and
    storage_url = ""  # of the store of LFS files; both are known once a server runs

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.tokens: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.lock = RLock()
        self.secret = secrets.token_hex(8)  # signs the addresses of the store
        self._histories: dict[str, Repo] = {}
        self._faults: list[Fault] = []
        self.reset()

    def reset(self) -> None:
        """Forgets all but the addresses."""
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
            self._faults.append(Fault(method, path, times, status, after, partial, headers or {}))

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault that a request meets, which is used up by that."""
        with self.lock:
            for fault in self._faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def count(self, method: str, part: str) -> int:
        """How many requests of a method there were whose path holds a text."""
        return sum(request.startswith(f"{method} ") and part in request for request in self.requests)

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
        """The history of a repo, with what a test wrote to `repos` as a commit; None where there is no such repo."""
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

    def site(self, name: str) -> str:
        """The address of a repo's page."""
        return f"{self.url}/{name.removeprefix('models/')}"

    def storage_address(self, name: str, oid: str) -> str:
        """The signed address of an LFS file."""
        return f"{self.storage_url}/storage/{name}/{oid}?signature={self.secret}"
