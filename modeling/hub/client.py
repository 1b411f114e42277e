"""The way to the Hub: who may write where, and a push in one commit."""

import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from modeling.hub.retries import reason, status_of, with_retries
from processing.errors import UserError
from processing.hub_errors import HUB_ERRORS, hub_error, is_refusal

PUSH_ERRORS = (HTTPError, OSError, RuntimeError, ValueError)


class PublishError(UserError):
    """A push that failed for good; what was to be pushed is as it was."""

    exit_status = 3


@dataclass(frozen=True)
class Destination:
    """Where on the Hub a model or a Space goes.

    Attributes:
        repo_id: `user/name`; the repo is made where there is none.
        private: a new repo is private.
        create_pr: open a pull request instead of a commit.
        revision: branch to commit to, made where there is none; main by default.
        token: that of `HF_TOKEN` or `hf auth login` by default.
        space_sdk: makes the repo a Space.
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
        """The address of the repo's page."""
        path = f"spaces/{self.repo_id}" if self.space_sdk else self.repo_id
        return f"{self.api.endpoint}/{path}"

    @property
    def flags(self) -> str:
        """The flags of `modeling.publish` that say the same, without the token."""
        flags = ["--repo_id", self.repo_id]
        if self.private:
            flags.append("--private")
        if self.create_pr:
            flags.append("--create_pr")
        if self.revision is not None:
            flags += ["--revision", self.revision]
        return shlex.join(flags)


def check_access(destination: Destination) -> None:
    """Checks the name of a repo, the token and its right to write there. Nothing is changed.

    Raises:
        UserError: one of them is wrong.
    """
    repo_id, api = destination.repo_id, destination.api
    _check_name(repo_id)
    try:
        user = with_retries(api.whoami)
    except LocalTokenNotFoundError as error:
        raise UserError(f"{repo_id}: the Hub needs a token; log in with `hf auth login` or set HF_TOKEN.") from error
    except (HTTPError, OSError) as error:
        if status_of(error) in (401, 403):
            raise UserError(
                f"{repo_id}: the Hub rejects the token; create one with write permission at "
                "https://huggingface.co/settings/tokens and log in with `hf auth login`."
            ) from error
        raise unreachable(repo_id, error) from error
    try:
        with_retries(lambda: api.auth_check(repo_id, repo_type=destination.repo_type, write=not destination.create_pr))
    except RepositoryNotFoundError as error:
        if destination.create_pr:
            raise UserError(f"{repo_id}: the Hub has no such repo, so no pull request can be opened.") from error
        _check_namespace(repo_id, user)
    except (HTTPError, OSError) as error:
        if status_of(error) in (401, 403):
            raise _no_permission(repo_id, user["name"]) from error
        raise unreachable(repo_id, error) from error


def find_model(destination: Destination, flag: str, model: str) -> ModelInfo:
    """What the Hub says about a model, asked with the destination's token.

    Args:
        flag: of the command line, which named the model; for the error.

    Raises:
        UserError: the Hub has no such model, refuses it or the token, or can't be reached.
    """
    try:
        return with_retries(lambda: destination.api.model_info(model))
    except HUB_ERRORS as error:
        if is_refusal(error):
            raise hub_error(error, f"{flag} {model}", "model") from error
        raise unreachable(model, error) from error


def unreachable(name: str, error: Exception) -> UserError:
    """The error of a Hub that could not be asked about `name`."""
    return UserError(f"{name}: the Hub can't be reached ({reason(error)}); check the connection and try again.")


def push_files(
    files: Mapping[str, Path | bytes], destination: Destination, message: str, replaced: Collection[str]
) -> str:
    """Pushes files in one commit, all or none of them. The Hub skips a commit that changes nothing.

    Args:
        files: by their names in the repo.
        destination: the repo and the branch are made where there are none.
        message: the commit's title. A commit whose answer was lost is recognized by it.
        replaced: patterns of names. Files of the repo that match one and are not among `files` are deleted.

    Returns:
        The address of the commit or of the pull request.

    Raises:
        PUSH_ERRORS: the push failed.
    """
    api, repo_id, repo_type = destination.api, destination.repo_id, destination.repo_type
    _make_repo(destination)
    before = with_retries(lambda: _heads(destination))
    names = with_retries(lambda: api.list_repo_files(repo_id, revision=destination.revision, repo_type=repo_type))
    stale = [name for name in names if name not in files and any(fnmatch(name, pattern) for pattern in replaced)]

    def commit() -> str:
        additions = [CommitOperationAdd(name, file) for name, file in files.items()]
        deletions = [CommitOperationDelete(name) for name in stale]
        info: CommitInfo = api.create_commit(
            repo_id,
            [*additions, *deletions],
            commit_message=message,
            repo_type=repo_type,
            revision=destination.revision,
            create_pr=destination.create_pr,
        )
        return str(info.pr_url or info.commit_url)

    return with_retries(commit, lambda: _find_commit(destination, message, before))


def _check_name(repo_id: str) -> None:
    """Refuses what is not `user/name` in the Hub's characters."""
    try:
        validate_repo_id(repo_id)
        valid = bool(repo_id.partition("/")[2])
    except HFValidationError:
        valid = False
    if not valid:
        raise UserError(
            f"{repo_id}: this is not a valid name of a Hub repo; give user/name in letters, digits, -, _ and dots."
        )


def _check_namespace(repo_id: str, user: dict[str, Any]) -> None:
    """Refuses a user who may not make a repo of that name."""
    namespace = repo_id.partition("/")[0]
    writers = ("admin", "write", "contributor")
    organizations = [org["name"] for org in user["orgs"] if org.get("roleInOrg") in writers]
    token_role = user.get("auth", {}).get("accessToken", {}).get("role")
    if namespace not in (user["name"], *organizations) or token_role == "read":
        raise _no_permission(repo_id, user["name"])


def _no_permission(repo_id: str, user: str) -> UserError:
    return UserError(
        f"{repo_id}: the token of {user} may not write there; use a token with write permission, or a name under "
        f"{user}/."
    )


def _make_repo(destination: Destination) -> None:
    """Makes the repo and its branch where there are none; a pull request needs neither."""
    if destination.create_pr:
        return
    api, repo_id, repo_type, branch = destination.api, destination.repo_id, destination.repo_type, destination.revision
    with_retries(
        lambda: api.create_repo(
            repo_id,
            repo_type=repo_type,
            space_sdk=destination.space_sdk,
            private=destination.private,
            exist_ok=True,
        )
    )
    if branch is not None:
        with_retries(lambda: api.create_branch(repo_id, branch=branch, repo_type=repo_type, exist_ok=True))


def _heads(destination: Destination) -> dict[str, str]:
    """The refs that the push may move, with their head commits.

    These are all pull requests where one is to be opened, and else the branch.
    """
    refs = destination.api.list_repo_refs(
        destination.repo_id, repo_type=destination.repo_type, include_pull_requests=True
    )
    if destination.create_pr:
        return {ref.ref: ref.target_commit for ref in refs.pull_requests or []}
    branch = destination.revision or "main"
    return {ref.name: ref.target_commit for ref in refs.branches if ref.name == branch}


def _find_commit(destination: Destination, message: str, before: dict[str, str]) -> str | None:
    """The address of a commit or pull request of that title, opened since the refs had the heads `before`."""
    for ref, head in _heads(destination).items():
        if before.get(ref) == head:
            continue
        commits = destination.api.list_repo_commits(destination.repo_id, revision=ref, repo_type=destination.repo_type)
        if commits[0].title == message:
            request = re.fullmatch(r"refs/pr/(\d+)", ref)
            page = f"discussions/{request[1]}" if request else f"commit/{head}"
            return f"{destination.url}/{page}"
    return None
