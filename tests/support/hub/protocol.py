"""A request to the Hub on loopback, its answer, and the table of routes."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.support.hub.repo import HubError, Repo
from tests.support.hub.state import HubState

REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
SITE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"
REV = r"(?P<revision>[^/]+)"


@dataclass
class Answer:
    """What the Hub answers."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """An answer whose body is JSON."""
    body = json.dumps(data, default=str).encode()
    return Answer(status, body, {"Content-Type": "application/json", **(headers or {})})


@dataclass
class Request:
    """What a client asks, and the rights that it has."""

    hub: HubState
    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes
    user: dict[str, Any] | None = None

    def rights(self, owner: str) -> str | None:
        """The rights in a namespace: "read", "write", "admin" or none."""
        user = self.user or {"name": None}
        return "admin" if user["name"] == owner else user.get("orgs", {}).get(owner)

    def open_repo(self, kind: str | None, id: str, write: bool = False, pull: bool = False) -> tuple[str, Repo]:
        """A repo that the user may read, or write to; `pull`: or open a pull request at."""
        name, owner = f"{kind or 'models'}/{id}", id.partition("/")[0]
        repo = self.hub.history(name)
        if repo is None or (name in self.hub.private and not self.rights(owner)):
            raise HubError(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write and not self.user:
            # on https the client takes each 401 of a repo for a missing repo, on http it needs the code
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if write and self.user:
            self.check_write(owner, pull, "You don't have the rights to write to this repo; pass create_pr=1")
        return name, repo

    def check_write(self, owner: str, pull: bool, message: str) -> None:
        """Refuses a user who may not write in a namespace; `pull`: who only opens a pull request there."""
        if self.user and self.user["role"] != "write":
            raise HubError(403, "You must use a write token to upload to a repository.")
        if not pull and self.rights(owner) not in ("write", "admin"):
            raise HubError(403, message)


Route = Callable[..., Answer]
ROUTES: list[tuple[re.Pattern[str], Route]] = []


def route(method: str, path: str) -> Callable[[Route], Route]:
    """Registers a function of a request and the groups of the regex `path`."""

    def register(function: Route) -> Route:
        ROUTES.append((re.compile(f"(?:{method}) {path}"), function))
        return function

    return register


def answer(hub: HubState, method: str, address: str, headers: Message, body: bytes) -> Answer:
    """What the Hub says to a request."""
    path, _, query = address.partition("?")
    values = {name: values[-1] for name, values in parse_qs(query).items()}
    request = Request(hub, method, path, values, headers, body)
    try:
        with hub.lock:
            if not path.startswith("/storage/"):
                request.user = _authenticate(hub, headers)
            for pattern, function in ROUTES:
                if match := pattern.fullmatch(f"{method} {path}"):
                    groups = match.groupdict().items()
                    return function(request, **{name: value and unquote(value) for name, value in groups})
        raise HubError(404, f"This server has no route {method} {path}")
    except HubError as error:
        message = str(error).replace("\n", " ").encode("latin-1", "replace").decode("latin-1")
        about = {"X-Error-Message": message}
        if error.code:
            about["X-Error-Code"] = error.code
        return json_answer(error.body, error.status, about)


def _authenticate(hub: HubState, headers: Message) -> dict[str, Any] | None:
    token = headers.get("Authorization", "").removeprefix("Bearer ")
    if token and token not in hub.tokens:
        raise HubError(401, "Invalid credentials in Authorization header")
    return hub.tokens.get(token)
