"""Publishes a trained model on the Hub, with its card.

    python -m modeling.publish OUTPUT_DIR --repo_id user/name [--private] [--create_pr] [--revision BRANCH]

Exit status 1: something to mend before the push; 3: the push failed, and the folder is as it was.
"""

import argparse
import logging
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from modeling.arguments import AnyTrainingArguments
from modeling.card import model_card
from modeling.record import RECIPE_FILE, RECORD_FILE, base_model_of, model_folder, read_record
from processing.errors import UserError, run_command
from processing.utils import write_atomically

logger = logging.getLogger(__name__)

MODEL_FILES = (  # of model, adapter and processor
    *("config.json", "generation_config.json", "adapter_config.json", "answering.json"),
    *("model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
    *("processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "*.model"),
    "chat_template.jinja",
)
RUN_FILES = ("README.md", RECIPE_FILE, RECORD_FILE, "all_results.json", "loss.png", "metrics.png")
PREDICTION_FILES = ("predictions_*.jsonl",)
TRANSIENT = {408, 429, 500, 502, 503, 504}
WAITS = (1, 2, 4, 8, 16)  # seconds before the tries after the first
MESSAGE = "Upload a model trained with Medical-VQA"

T = TypeVar("T")


class PublishError(UserError):
    """A push that failed for good; the model is still in its folder."""

    exit_status = 3


@dataclass(frozen=True)
class Destination:
    """Where on the Hub a model goes.

    Attributes:
        repo_id: `user/name`; made where there is none.
        private: whether a new repo is private.
        create_pr: open a pull request instead of a commit.
        revision: branch to commit to, made where there is none; main by default.
        token: by default that of `HF_TOKEN` or `hf auth login`.
    """

    repo_id: str
    private: bool = False
    create_pr: bool = False
    revision: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def api(self) -> HfApi:
        return HfApi(token=self.token)

    @property
    def flags(self) -> str:
        """As the command line takes it, without the token."""
        flags = f"--repo_id {self.repo_id}" + " --private" * self.private + " --create_pr" * self.create_pr
        return flags if self.revision is None else f"{flags} --revision {shlex.quote(self.revision)}"


def take_destination(args: AnyTrainingArguments) -> Destination | None:
    """The destination that `--push_to_hub` asks for, None where it does not.

    It is taken out of the arguments: the Trainer's own push sends more than should leave this machine, and saves the
    token beside the model.

    Raises:
        UserError: the model that is to be trained can't be published.
    """
    if not args.push_to_hub or args.hub_model_id is None:
        return None
    if args.model_type == "blip2" and base_model_of(args.model_name_or_path) is None and not args.merge_adapter:
        raise UserError(
            f"--model_name_or_path {args.model_name_or_path}: an adapter over a folder can't be published, as nobody "
            "else has its base; add --merge_adapter True to publish the whole model, or start from a Hub id."
        )
    destination = Destination(
        args.hub_model_id, bool(args.hub_private_repo), revision=args.hub_revision, token=args.hub_token
    )
    args.push_to_hub, args.hub_token = False, None
    return destination


def preflight(destination: Destination, base_model: str | None) -> str | None:
    """Checks all that a push needs, without changing anything.

    Args:
        destination: where the model is to go.
        base_model: as `modeling.record.base_model_of` names it.

    Returns:
        The licence of a base model on the Hub, as the Hub names it; None where it is not stated or there is no such
        base.

    Raises:
        UserError: the token, the permission, the repo's name or the base model's id is wrong.
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
        user = _with_patience(api.whoami)
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
        raise _unreachable(repo_id, error) from error
    try:
        _with_patience(lambda: api.auth_check(repo_id, write=not destination.create_pr))
    except RepositoryNotFoundError as error:
        if destination.create_pr:
            raise UserError(f"{repo_id}: there is no such repo on the Hub to open a pull request in.") from error
        _check_namespace(repo_id, namespace, user)
    except (HTTPError, OSError) as error:
        if _status(error) in (401, 403):
            raise _no_permission(repo_id, user["name"]) from error
        raise _unreachable(repo_id, error) from error
    if base_model is None or "/" not in base_model:
        return None
    try:
        card = _with_patience(lambda: api.model_info(base_model)).card_data
    except RepositoryNotFoundError as error:
        raise UserError(
            f"--model_name_or_path {base_model}: the Hub has no such model, or it is private; check the id."
        ) from error
    except (HTTPError, OSError) as error:
        raise _unreachable(base_model, error) from error
    return card.license if card is not None else None


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


def _unreachable(name: str, error: Exception) -> UserError:
    return UserError(f"{name}: the Hub can't be asked ({_reason(error)}); check the connection and try again.")


def publish(
    folder: str | Path, destination: Destination, base_license: str | None = None, predictions: bool = False
) -> str:
    """Writes the card of a run's folder and pushes what others need of it, in one commit.

    Args:
        folder: the run's `--output_dir`.
        destination: where it goes; `preflight` has seen it.
        base_license: what `preflight` returned.
        predictions: push questions, answers and predictions too.

    Returns:
        The address of the commit or of the pull request.

    Raises:
        UserError: the folder holds no finished run.
        PublishError: the push failed; nothing of it is on the Hub, and the folder is whole.
    """
    folder = Path(folder)
    card = model_card(folder, destination.repo_id, base_license)
    write_atomically(folder / "README.md", str(card))
    files = dict(_files(folder, predictions))
    size = sum(file.stat().st_size for file in files.values())
    logger.info("Pushing %d files (%.1f MB) to %s.", len(files), size / 1e6, destination.repo_id)
    try:
        commit = _push(files, destination)
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        again = shlex.join(["python", "-m", "modeling.publish", str(folder)]) + f" {destination.flags}"
        raise PublishError(
            f"{destination.repo_id}: the push failed ({_reason(error)}); the model is whole in {folder}, so go on "
            f"with `{again}{' --predictions' * predictions}`."
        ) from error
    logger.info("Published: %s", commit)
    return commit


def _files(folder: Path, predictions: bool) -> Iterator[tuple[str, Path]]:
    """What goes up: name in the repo and file. A list of what may, so that nothing else ever does."""
    model = model_folder(folder)
    if (model / "adapter_config.json").is_file() and base_model_of(str(model)) is None:
        raise UserError(
            f"{model}: the base of this adapter is a folder, which nobody else has; train with --merge_adapter True "
            "to publish the whole model, or start from a Hub id."
        )
    for place, patterns in ((model, MODEL_FILES), (folder, RUN_FILES + PREDICTION_FILES * predictions)):
        for file in sorted(place.iterdir()):
            if file.is_file() and any(fnmatch(file.name, pattern) for pattern in patterns):
                yield file.name, file


def _push(files: dict[str, Path], destination: Destination) -> str:
    repo_id, api, revision = destination.repo_id, destination.api, destination.revision
    if not destination.create_pr:
        _with_patience(lambda: api.create_repo(repo_id, private=destination.private, exist_ok=True))
        if revision is not None:
            _with_patience(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
    before = _with_patience(lambda: _heads(destination))
    there = _with_patience(lambda: api.list_repo_files(repo_id, revision=revision))
    stale = [name for name in there if name not in files and any(fnmatch(name, p) for p in MODEL_FILES)]

    def commit() -> str:
        info: CommitInfo = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, file) for name, file in files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=MESSAGE,
            revision=revision,
            create_pr=destination.create_pr,
        )
        return str(info.pr_url or info.commit_url)

    def landed() -> str | None:
        """The address of what was carried out although its answer was lost."""
        for ref, head in _heads(destination).items():
            if before.get(ref) != head and api.list_repo_commits(repo_id, revision=ref)[0].title == MESSAGE:
                request = re.fullmatch(r"refs/pr/(\d+)", ref)
                return f"{api.endpoint}/{repo_id}/" + (f"discussions/{request[1]}" if request else f"commit/{head}")
        return None

    return _with_patience(commit, landed)


def _heads(destination: Destination) -> dict[str, str]:
    """The head commit of the branch, or of each pull request where one is to be opened."""
    refs = destination.api.list_repo_refs(destination.repo_id, include_pull_requests=True)
    if destination.create_pr:
        return {ref.ref: ref.target_commit for ref in refs.pull_requests or []}
    return {ref.name: ref.target_commit for ref in refs.branches if ref.name == (destination.revision or "main")}


def _with_patience(call: Callable[[], T], landed: Callable[[], T | None] = lambda: None) -> T:
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
            logger.warning("The Hub: %s; trying again in %d s.", _reason(error), max(wait, asked))
            time.sleep(max(wait, asked))
        if (done := _with_patience(landed)) is not None:
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


def _reason(error: Exception) -> str:
    status = _status(error)
    message = next((e.server_message for e in _causes(error) if isinstance(e, HfHubHTTPError)), None)
    text = " ".join((message or str(error)).split()).rstrip(".") or type(error).__name__
    return text if status is None else f"HTTP {status}: {text}"


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m modeling.publish", description="Publishes a trained model.")
    parser.add_argument("output_dir", help="the --output_dir of a training run that ended")
    parser.add_argument("--repo_id", required=True, help="user/name on the Hub; made where there is none")
    parser.add_argument("--private", action="store_true", help="a new repo is private")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead of a commit")
    parser.add_argument("--revision", help="branch to commit to, made where there is none")
    parser.add_argument("--predictions", action="store_true", help="also questions, answers and predictions")
    options = parser.parse_args(argv)
    destination = Destination(options.repo_id, options.private, options.create_pr, options.revision)
    base_license = preflight(destination, read_record(options.output_dir)["base_model"])
    publish(options.output_dir, destination, base_license, options.predictions)


if __name__ == "__main__":
    run_command(main)
