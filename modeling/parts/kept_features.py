"""The features of a frozen vision network, computed once per image and kept on disk.

A frozen network gives an image the same features at every question and epoch, and SLAKE asks 11 questions an image.
Features are keyed by the image's content, the code that opens it, its preprocessing, the network, its weights, what
else sets them, and the kind of processor, so none is ever stale.

On disk a set of features is a folder named after all of these but the image. It holds safetensors shards, each written
atomically, with a checksum for every image. Several processes may add shards at the same time.
"""

import ast
import errno
import functools
import hashlib
import importlib
import inspect
import json
import logging
import os
import shutil
import sys
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from tqdm import tqdm

from processing.image_source import digest_of
from processing.images import errors_name_image, open_image
from processing.storage import cache_dir, write_atomically

logger = logging.getLogger(__name__)

PROGRESS_AFTER = 2  # seconds until a progress bar is shown
BATCH_SIZE = 16  # images a forward
SHARD_SIZE = 512  # images a file at most
SHARD_BYTES = 500_000_000  # from which on a file takes no further batch
PACKAGES = (
    "nibabel",
    "numpy",
    "pillow",
    "pydicom",
    "transformers",
)  # what opens and resizes images beside our own code


def one_per_question(states: torch.Tensor, image_index: torch.Tensor) -> torch.Tensor:
    """States of images ``(I, ...)`` as one row a question ``(B, ...)``.

    An index in brackets would do the same, but its backward pass adds up an image's gradients in any order.

    Args:
        image_index: which image each question is about, ``(B,)``.
    """
    return states.index_select(0, image_index)


Kept = torch.Tensor | dict[str, torch.Tensor]  # of an image: one tensor, or several by their name


class KeptFeatures:
    """Features of images by their path, ``(channels, height, width)``.

    Args:
        network: frozen; maps `pixel_values` ``(B, 3, H, W)`` to features ``(B, channels, height, width)``.
        image_processor: makes its `pixel_values`.
        max_gb: limit for all features on disk, in 10^9 bytes. The sets of other networks make room first, beginning
            with the least recently used one. What still does not fit is computed at every use.
        dtype: precision in which they are kept.
        facts: what sets the features beside these.
    """

    def __init__(
        self,
        network: nn.Module,
        image_processor: Any,
        max_gb: float,
        dtype: torch.dtype = torch.float16,
        facts: Any = None,
    ) -> None:
        self.network = network.eval()
        self.image_processor = image_processor
        self.max_bytes = int(max_gb * 1e9)
        self.dtype = dtype
        self.facts = [image_processor.to_dict(), str(dtype), facts]
        self._storing = True
        self._digests: dict[str, str] = {}
        self._shards: dict[str, Any] = {}  # the open shard that holds an image, by the image's digest

    @functools.cached_property
    def folder(self) -> Path:
        """Where they are kept."""
        return cache_dir() / "features" / _fingerprint(self.network, self.facts)

    def fill(self, images: Iterable[str]) -> None:
        """Computes the features that are not on disk yet, with a progress bar, and logs how many were computed."""
        unique = tqdm(list(dict.fromkeys(images)), "Reading images", unit="image", delay=PROGRESS_AFTER)
        wanted = {self._digest(image): image for image in unique}
        self._open_shards(wanted.keys())
        missing = [(digest, image) for digest, image in wanted.items() if digest not in self._shards]
        bar = tqdm(total=len(missing), desc="Image features", unit="image", disable=not missing)
        shard: dict[str, Kept] = {}
        for start in range(0, len(missing), BATCH_SIZE):
            batch = missing[start : start + BATCH_SIZE]
            features = self._compute([image for _, image in batch])
            shard |= dict(zip((digest for digest, _ in batch), features, strict=True))
            bar.update(len(batch))
            is_last = start + BATCH_SIZE >= len(missing)
            size = sum(part.nbytes for entry in shard.values() for part in _parts(entry).values())
            if is_last or len(shard) >= SHARD_SIZE or size >= SHARD_BYTES:
                self._store(shard)
                shard = {}
            if not self._storing:
                break
        bar.close()
        self._open_shards(wanted.keys())
        kept = len(wanted) - len(missing)
        logger.info("Image features: %d computed, %d read from %s", len(missing), kept, self.folder)

    def __getitem__(self, image: str) -> Any:
        """The features of the image at a path."""
        digest = self._digest(image)
        if digest in self._shards:
            return _read_entry(self._shards[digest], digest)
        return self._compute([image])[0]

    def _digest(self, image: str) -> str:
        if image not in self._digests:
            with errors_name_image(image):
                self._digests[image] = digest_of(image)
        return self._digests[image]

    @torch.inference_mode()
    def _compute(self, images: Sequence[str]) -> Sequence[Kept]:
        pixels = []
        for image in images:
            with errors_name_image(image):
                pixels.append(self.image_processor([open_image(image)], return_tensors="pt")["pixel_values"])
        device = next(self.network.parameters()).device
        return self.network(torch.cat(pixels).to(device)).to(self.dtype).cpu().contiguous()

    def _open_shards(self, digests: Iterable[str]) -> None:
        """Opens shards that hold wanted images; a damaged one is deleted, so that its images are computed again."""
        wanted = set(digests) - self._shards.keys()
        if self.folder.is_dir():
            os.utime(self.folder)  # for the order in which sets make room
        for file in sorted(self.folder.glob("*.safetensors")) if wanted else ():
            try:
                shard = safe_open(file, "pt")
                checksums = json.loads(shard.metadata()["crc32"])
                found = wanted & checksums.keys()
                if any(_checksum(_read_entry(shard, digest)) != checksums[digest] for digest in found):
                    raise ValueError("wrong checksum")
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("%s is damaged (%s): its features are computed again.", file, error)
                file.unlink(missing_ok=True)
                continue
            self._shards |= dict.fromkeys(found, shard)
            wanted -= found

    def _store(self, shard: dict[str, Kept]) -> None:
        checksums = {digest: _checksum(entry) for digest, entry in shard.items()}
        names = {name for entry in shard.values() for name in _parts(entry)}
        tensors = {f"{digest}{name}": part for digest, entry in shard.items() for name, part in _parts(entry).items()}
        content = save(tensors, metadata={"crc32": json.dumps(checksums), "parts": json.dumps(sorted(names))})
        if not self._make_room(len(content)):
            self._storing = False
            logger.warning(
                "Image features need more than --feature_cache_gb %g: the rest is computed at every use, slowly.",
                self.max_bytes / 1e9,
            )
            return
        try:
            write_atomically(self.folder / f"{uuid.uuid4().hex}.safetensors", content)
        except OSError as error:
            self._storing = False
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            logger.warning(
                "Image features can't be kept in %s (%s): they are computed at every use, slowly.",
                self.folder,
                reason,
            )

    def _make_room(self, size: int) -> bool:
        sets = {folder: _size(folder) for folder in self.folder.parent.glob("*/") if folder != self.folder}
        own = _size(self.folder)
        for folder in sorted(sets, key=lambda folder: folder.stat().st_mtime):
            if own + sum(sets.values()) + size <= self.max_bytes:
                break
            shutil.rmtree(folder, ignore_errors=True)
            del sets[folder]
        return own + sum(sets.values()) + size <= self.max_bytes


def _fingerprint(network: nn.Module, facts: list[Any]) -> str:
    # Another kind of processor rounds differently, and a run is to have the features that it would compute itself.
    processor = next(network.parameters()).device.type, torch.backends.cpu.get_cpu_capability()
    digest = hashlib.sha256(json.dumps([*facts, processor], sort_keys=True, default=str).encode())
    digest.update(_code_that_opens_images())
    modules = {type(part).__module__ for part in network.modules()}
    ours = {name for name in modules if name.startswith("modeling.")} | {type(network).__module__}
    for module in sorted(ours):
        digest.update(inspect.getsource(sys.modules[module]).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())  # numpy has no bf16
    return digest.hexdigest()[:16]


@functools.cache
def _code_that_opens_images() -> bytes:
    """The source of `open_image` and of all modules of its package that it imports, and the versions of `PACKAGES`."""
    sources: dict[str, str] = {}
    names = [open_image.__module__]
    while names:
        name = names.pop()
        if name not in sources:
            sources[name] = inspect.getsource(importlib.import_module(name))
            names += _imported(sources[name], name.partition(".")[0])
    versions = {package: version(package) for package in PACKAGES}
    return json.dumps([versions, sources], sort_keys=True).encode()


def _imported(source: str, package: str) -> Iterator[str]:
    """The modules of a package from which a module imports, inside its functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{package}."):
            yield str(node.module)


def _parts(entry: Kept) -> dict[str, torch.Tensor]:
    """The tensors of an entry, by what follows the image's digest in their names."""
    if isinstance(entry, torch.Tensor):
        return {"": entry}
    return {f".{name}": part for name, part in sorted(entry.items())}


def _read_entry(shard: Any, digest: str) -> Kept:
    names = json.loads(shard.metadata().get("parts", '[""]'))  # earlier versions kept one tensor an image
    if names == [""]:
        return shard.get_tensor(digest)
    return {name.removeprefix("."): shard.get_tensor(f"{digest}{name}") for name in names}


def _checksum(entry: Kept) -> int:
    value = 0
    for part in _parts(entry).values():
        value = zlib.crc32(part.contiguous().flatten().view(torch.uint8).numpy().tobytes(), value)
    return value


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
