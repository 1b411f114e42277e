"""A data set repo of the Hub: its commit, its files, and those that were fetched; offline too after a good run."""

import glob
import json
import logging
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from processing.errors import UserError
from processing.hub_errors import HUB_ERRORS, hub_error, is_refusal
from processing.sources.folder import DataFolder
from processing.storage import cache_dir, write_atomically

logger = logging.getLogger(__name__)

DATA_SET = "data set"
MAX_PATTERNS = 100  # files that are asked for by their names; of more, whatever lies in their folders


@dataclass
class HubRepo(DataFolder):
    """A data set repo at one commit, whose files lie in the Hub's cache as far as they were fetched.

    Attributes:
        repo_id: `user/name`.
        commit: of all its files.
    """

    repo_id: str
    commit: str

    def fetch(self, names: Iterable[str]) -> None:
        """Downloads those of these files that are not in the cache.

        Raises:
            UserError: the Hub refuses them, or they are not in the cache and it can't be reached.
        """
        missing = [name for name in names if not (self.root / name).is_file()]
        if not missing:
            return
        patterns = [glob.escape(name) for name in missing]
        if len(missing) > MAX_PATTERNS:
            folders = {posixpath.dirname(name) for name in missing}
            endings = {posixpath.splitext(name)[1] for name in missing}
            patterns = [f"{glob.escape(posixpath.join(folder, ''))}*{end}" for folder in folders for end in endings]
        try:
            snapshot_download(self.repo_id, repo_type="dataset", revision=self.commit, allow_patterns=patterns)
            if gone := [name for name in missing if not (self.root / name).is_file()]:  # offline, from a part
                raise LocalEntryNotFoundError(gone[0])
        except HUB_ERRORS as error:
            raise hub_error(error, self.label, DATA_SET, self.commit) from error

    def has(self, name: str) -> bool:
        return name in self.known

    def title(self, name: str) -> str:
        return f"{self.label}: {name}"

    @property
    def id(self) -> str:
        return self.repo_id.replace("/", "--")

    @property
    def image_root(self) -> Path:
        return self.root.parent.parent  # files of a snapshot are links to `blobs` beside it

    def image_name(self, name: str) -> str:
        return f"snapshots/{self.commit}/{name}"


def open_repo(repo_id: str, revision: str | None) -> HubRepo:
    """The repo at a revision. What the Hub said of it is remembered, so that it opens offline too.

    Args:
        revision: branch, tag or commit; by default `main`.

    Raises:
        UserError: there is no such repo or revision, it may not be read, or the Hub can't be reached and was never
            asked.
    """
    label = f"--dataset {repo_id}"
    name = f"{repo_id.replace('/', '--')}@{quote(revision or constants.DEFAULT_REVISION, safe='')}.json"
    remembered = cache_dir() / "hub_repos" / name
    try:
        info = HfApi().dataset_info(repo_id, revision=revision)
        files = [sibling.rfilename for sibling in info.siblings or [] if _is_inside(sibling.rfilename)]
        commit = str(info.sha)
        write_atomically(remembered, json.dumps({"commit": commit, "files": sorted(files)}))
    except HUB_ERRORS as error:
        if is_refusal(error) or not remembered.is_file():
            raise hub_error(error, label, DATA_SET, revision) from error
        commit, files = _read(remembered, label)
        logger.warning("%s: the Hub was not asked (%s); using commit %s.", label, type(error).__name__, commit[:12])
    storage = Path(constants.HF_HUB_CACHE) / f"datasets--{repo_id.replace('/', '--')}"  # as the client names it
    return HubRepo(label, storage / "snapshots" / commit, sorted(files), repo_id, commit)


def _read(remembered: Path, label: str) -> tuple[str, list[str]]:
    try:
        known = json.loads(remembered.read_text(encoding="utf-8"))
        return known["commit"], known["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{label}: {remembered} is damaged; remove it and load once with a connection.") from error


def _is_inside(name: str) -> bool:
    """Whether a name stays in the folder on every system."""
    return not ({"", ".", ".."} & set(name.split("/"))) and "\\" not in name and "\0" not in name and ":" not in name
