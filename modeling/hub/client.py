"""The way to the Hub: who may write where, and a push in one commit that waits out what passes."""

import logging
import re
import shlex
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from processing.errors import UserError

logger = logging.getLogger(__name__)

TRANSIENT = {408, 429, 500, 502, 503, 504}
WAITS = (1, 2, 4, 8, 16)  # seconds before the tries after the first
FAILURES = (HTTPError, OSError, RuntimeError, ValueError)  # of a push
T = TypeVar("T")


class PublishError(UserError):
    """A push that failed for good; what was to be pushed is as it was."""

    exit_status = 3


@dataclass(frozen=True)
class Destination:
    """Where on the Hub a model or a Space goes.

    Attributes:
        repo_id: `user/name`; made where there is none.
        private: whether a new repo is private.
        create_pr: open a pull request instead of a commit.
        revision: branch to commit to, made where there is none; main by default.
        token: by default that of `HF_TOKEN` or `hf auth login`.
        space_sdk: makes it a Space.
    """

    repo_id: str
    private: bool = False
    create_pr: bool = False
    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    space_sdk: str | None = None

    @property
    def api(self) -> HfApi:
        return HfApi(token=self.token)

    @property
    def repo_type(self) -> str:
        return "space" if self.space_sdk else "model"

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{'spaces/' * bool(self.space_sdk)}{self.repo_id}"

    @property
    def flags(self) -> str:
        """As the command line of `modeling.publish` takes it, without the token."""
        flags = f"--repo_id {self.repo_id}" + " --private" * self.private + " --create_pr" * self.create_pr
        return flags if self.revision is None else f"{flags} --revision {shlex.quote(self.revision)}"


def check_access(destination: Destination) -> None:
    """Checks the name of a repo, the token and its right to write there, without changing anything.

    Raises:
        UserError: one of them is wrong.
    """
    repo_id, api = destination.repo_id, destination.api
    namespace, _, name = repo_id.partition("/")
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        name = ""
    if not name:
        raise UserError(f"{repo_id}: no name of a Hub repo; give user/name in letters, digits, -, _ and dots.")
    try:
        user = with_patience(api.whoami)
    except LocalTokenNotFoundError as error:
        raise UserError(
            f"{repo_id}: the Hub asks for a token; log in with `hf auth login`, or set HF_TOKEN."
        ) from error
    except (HTTPError, OSError) as error:
        if _status(error) in (401, 403):
            raise UserError(
                f"{repo_id}: the Hub refuses the token; make one with write permission at "
                "https://huggingface.co/settings/tokens and log in with `hf auth login`."
            ) from error
        raise unreachable(repo_id, error) from error
    try:
        with_patience(
            lambda: api.auth_check(repo_id, repo_type=destination.repo_type, write=not destination.create_pr)
        )
    except RepositoryNotFoundError as error:
        if destination.create_pr:
            raise UserError(f"{repo_id}: there is no such repo on the Hub to open a pull request in.") from error
        _check_namespace(repo_id, namespace, user)
    except (HTTPError, OSError) as error:
        if _status(error) in (401, 403):
            raise _no_permission(repo_id, user["name"]) from error
        raise unreachable(repo_id, error) from error


def find_model(destination: Destination, flag: str, model: str) -> ModelInfo:
    """What the Hub says of a model that whoever publishes at `destination` may read.

    Raises:
        UserError: there is no such model, which `flag` of the command line named.
    """
    try:
        return with_patience(lambda: destination.api.model_info(model))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"{flag} {model}: the Hub has no such model, or it is private; check the id.") from error
    except (HTTPError, OSError) as error:
        raise unreachable(model, error) from error


def _check_namespace(repo_id: str, namespace: str, user: dict[str, Any]) -> None:
    """Whether the user may make a repo there."""
    may = namespace == user["name"] or any(
        org["name"] == namespace and org.get("roleInOrg") in ("admin", "write", "contributor") for org in user["orgs"]
    )
    if not may or user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise _no_permission(repo_id, user["name"])


def _no_permission(repo_id: str, user: str) -> UserError:
    return UserError(
        f"{repo_id}: {user}'s token may not write there; take a token with write permission, or a name under {user}/."
    )


def unreachable(name: str, error: Exception) -> UserError:
    return UserError(f"{name}: the Hub can't be asked ({reason(error)}); check the connection and try again.")


def push_files(
    files: Mapping[str, Path | bytes], destination: Destination, message: str, replaced: Collection[str]
) -> str:
    """Pushes files in one commit, which the Hub skips where nothing changed; whole, or nothing of it.

    Args:
        files: by their names in the repo.
        destination: made where there is none.
        message: the commit's title, which tells a commit whose answer was lost.
        replaced: patterns of names; what is there under one of them and not among `files` goes.

    Returns:
        The address of the commit or of the pull request.

    Raises:
        FAILURES: the push failed.
    """
    repo_id, repo_type, revision = destination.repo_id, destination.repo_type, destination.revision
    api = destination.api
    if not destination.create_pr:
        with_patience(
            lambda: api.create_repo(
                repo_id,
                repo_type=repo_type,
                space_sdk=destination.space_sdk,
                private=destination.private,
                exist_ok=True,
            )
        )
        if revision is not None:
            with_patience(lambda: api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True))
    before = with_patience(lambda: _heads(destination))
    there = with_patience(lambda: api.list_repo_files(repo_id, revision=revision, repo_type=repo_type))
    stale = [name for name in there if name not in files and any(fnmatch(name, p) for p in replaced)]

    def commit() -> str:
        info: CommitInfo = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, file) for name, file in files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=message,
            repo_type=repo_type,
            revision=revision,
            create_pr=destination.create_pr,
        )
        return str(info.pr_url or info.commit_url)

    def landed() -> str | None:
        """The address of what was carried out although its answer was lost."""
        for ref, head in _heads(destination).items():
            if before.get(ref) == head:
                continue
            if api.list_repo_commits(repo_id, revision=ref, repo_type=repo_type)[0].title == message:
                request = re.fullmatch(r"refs/pr/(\d+)", ref)
                return f"{destination.url}/" + (f"discussions/{request[1]}" if request else f"commit/{head}")
        return None

    return with_patience(commit, landed)


def _heads(destination: Destination) -> dict[str, str]:
    """The head commit of the branch, or of each pull request where one is to be opened."""
    refs = destination.api.list_repo_refs(
        destination.repo_id, repo_type=destination.repo_type, include_pull_requests=True
    )
    if destination.create_pr:
        return {ref.ref: ref.target_commit for ref in refs.pull_requests or []}
    return {ref.name: ref.target_commit for ref in refs.branches if ref.name == (destination.revision or "main")}


def with_patience(call: Callable[[], T], landed: Callable[[], T | None] = lambda: None) -> T:
    """What a call to the Hub returns, tried again with growing waits while its failures may pass.

    Args:
        call: may be carried out although it fails; then
        landed: finds what it has done, and is asked before each further try.
    """
    for wait in WAITS:
        try:
            return call()
        except (HTTPError, OSError, RuntimeError) as error:
            if not _may_pass(error):
                raise
            asked = _retry_after(error)
            logger.warning("The Hub: %s; trying again in %d s.", reason(error), max(wait, asked))
            time.sleep(max(wait, asked))
        if (done := with_patience(landed)) is not None:
            return done
    return call()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    return next((e.response.status_code for e in _causes(error) if isinstance(e, HfHubHTTPError)), None)


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: the Hub is busy or down, or the connection broke."""
    if any(isinstance(e, OfflineModeIsEnabled) for e in _causes(error)):
        return False
    status = _status(error)
    return status in TRANSIENT if status is not None else any(isinstance(e, HTTPError) for e in _causes(error))


def _retry_after(error: Exception) -> int:
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError) and (value := cause.response.headers.get("Retry-After", "")).isdecimal():
            return min(int(value), 300)
    return 0


def reason(error: Exception) -> str:
    """Why a call to the Hub failed, in the Hub's words where it has any."""
    status = _status(error)
    message = next((e.server_message for e in _causes(error) if isinstance(e, HfHubHTTPError)), None)
    text = " ".join((message or str(error)).split()).rstrip(".") or type(error).__name__
    return text if status is None else f"HTTP {status}: {text}"
