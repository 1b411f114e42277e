"""The files of a model: those of a folder, or of a Hub repo at one commit, fetched as far as they are needed."""

import glob
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from tqdm import tqdm

from modeling.parts.pickled_weights import convert, find_converted
from processing.errors import UserError, quoted
from processing.hub_errors import HUB_ERRORS, hub_error
from processing.sources import HUB_ID

SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]  # at the top of a repo: no code; templates run in a sandbox
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # which file of a sharded model holds which weight
PICKLED_WEIGHTS = "pytorch_model.bin"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FILE_NAME = re.compile(r"[\w-][\w.-]*")  # of a shard: no folder


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model.

    Attributes:
        name: as the user gave it, a folder or a Hub id.
        root: where they lie; of a Hub id the snapshot in the Hub's cache.
        commit: of a Hub id; None of a folder.
    """

    name: str
    root: Path
    commit: str | None = None

    def find(self, file: str) -> Path | None:
        """The path of a small file, None where there is none."""
        path = self.root / file
        return path if path.is_file() else None

    def read_json(self, file: str) -> dict[str, Any] | None:
        """The object in a JSON file, None where there is no such file.

        Raises:
            UserError: it is damaged.
        """
        path = self.find(file)
        if path is None:
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"it holds {quoted(content)}")
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name}: its {file} is damaged; save or download the model again.") from error
        return content

    def weights(self, read_pickled: bool = False) -> Path:
        """The folder with the model's safetensors, fetched where they are on the Hub.

        Args:
            read_pickled: make safetensors of a `pytorch_model.bin` where there are none. Without this only those that
                were made before are taken.

        Raises:
            UserError: there are none, or they can't be fetched or read.
        """
        if self.commit is not None and (converted := find_converted(self.name, self.commit)):
            return converted
        if self.fetch(self._shards(WEIGHTS)):
            return self.root
        if read_pickled:
            names = self._shards(PICKLED_WEIGHTS)
            if self.fetch(names):
                return convert(self.name, self.commit, self.root, names)
            raise UserError(f"{self.name}: it has no weights, {WEIGHTS} or {PICKLED_WEIGHTS}; name another model.")
        raise self._no_safetensors()

    def check_whole(self) -> None:
        """Refuses an adapter.

        Raises:
            UserError: one lies here, which transformers would load too, of whatever kind it is.
        """
        if self.find(ADAPTER_CONFIG) is not None:
            raise UserError(
                f"{self.name}: an adapter, where a whole model is needed; choose the model that it was trained on."
            )

    def adapter_weights(self) -> None:
        """Fetches the weights of an adapter.

        Raises:
            UserError: there are none as safetensors, or they can't be fetched.
        """
        if not self.fetch([ADAPTER_WEIGHTS]):  # PEFT would take pickled ones
            raise self._no_safetensors()

    def _no_safetensors(self) -> UserError:
        return UserError(
            f"{self.name}: it has no weights as safetensors, and pickled ones (.bin, .pt) are not loaded because they "
            "can run code; save it again with save_pretrained."
        )

    def fetch(self, names: list[str]) -> bool:
        """Downloads files that are not here yet. Whether all of them are here now.

        Raises:
            UserError: the Hub refuses them, or it can't be reached.
        """

        def are_here() -> bool:
            return all((self.root / name).is_file() for name in names)

        if self.commit is not None and not are_here():
            _snapshot(self.name, self.commit, [glob.escape(name) for name in names])
        return are_here()

    def _shards(self, file: str) -> list[str]:
        """The files of weights that an index names, or the one file where there is no index.

        Raises:
            UserError: the index is damaged, or names files that are not beside it.
        """
        index = self.find(f"{file}.index.json")
        if index is None or self.find(file) is not None:
            return [file]
        if reason := why_unsafe(index):
            raise UserError(f"{self.name}: its {index.name} {reason}; save or download the model again.")
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not self.fetch(names):
            missing = next(name for name in names if self.find(name) is None)
            raise UserError(f"{self.name}: {missing} of its weights is missing; save or download the model again.")
        return names


def why_unsafe(index: Path) -> str | None:
    """What is wrong with the index of a sharded model, None where it names nothing but files of its format beside it.

    transformers unpickles shards of other names, and follows their paths.
    """
    ending = index.name.removesuffix(".index.json").rpartition(".")[2]
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        shards = set(content["weight_map"].values())
        if not shards or not isinstance(content["metadata"], dict) or not all(isinstance(s, str) for s in shards):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "is damaged"
    wrong = sorted(shard for shard in shards if not FILE_NAME.fullmatch(shard) or not shard.endswith(f".{ending}"))
    return f"names {quoted(wrong[0])}, which is no {ending} file beside it" if wrong else None


def open_model(name: str, revision: str | None = None) -> ModelFiles:
    """The model of a folder or a Hub id, with its small files. Weights are fetched by `ModelFiles.weights`.

    Offline the commit is that of the last time with a connection.

    Args:
        name: a folder or a Hub id.
        revision: branch, tag or commit of a Hub id; by default main.

    Raises:
        UserError: there is no such model, it may not be read, or the Hub can't be reached. The Hub is not asked about
            a name that looks like a path, as its first part is a folder here and no revision is given.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{name}: a folder has no revision {revision}; leave it out, or give a Hub id.")
        return ModelFiles(name, folder)
    if not HUB_ID.fullmatch(name):
        raise UserError(f"{name}: there is no such folder, and it is no Hub id (user/name); check the path.")
    if revision is None and folder.parent.is_dir():
        raise UserError(
            f"{name}: the folder {folder.parent} is here and has no {folder.name}; check the path, or, for a model of "
            "the Hub, run the command in another folder."
        )
    root = _snapshot(name, revision, SMALL_FILES, tqdm_class=_NoBar)
    return ModelFiles(name, root, root.name)


class _NoBar(tqdm):
    """Small files come without a progress bar, as a run asks for them several times."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"disable": True}))


def _snapshot(name: str, revision: str | None, patterns: list[str], **options: Any) -> Path:
    options |= {"allow_patterns": patterns, "ignore_patterns": "*/*"}
    try:
        return Path(snapshot_download(name, revision=revision, **options))
    except HUB_ERRORS as error:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
        told = cause if isinstance(cause, HfHubHTTPError) else error  # what the Hub said of a file that is not here
        raise hub_error(told, name, "model", revision) from error
