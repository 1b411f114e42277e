"""A phantom data set as files, in SLAKE's layout."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from PIL import Image
from tqdm import tqdm

from processing.errors import UserError
from processing.phantom.anatomy import KINDS, draw_patient, draw_scene
from processing.phantom.questions import slake_rows
from processing.phantom.scene import Scene
from processing.storage import cache_dir

DRAWING = 1  # version of what is drawn: another one is another folder in the cache
SPLITS = ("train", "validate", "test")

# Of every seven images of a kind, this is where each goes: the first three already fill every split.
SPLIT_CYCLE = ("train", "validate", "test", "train", "train", "train", "train")
MIN_IMAGES = 12  # four kinds of image times three splits
SLICES = (2, 8)  # of a patient; further from the middle, organs would end
IMAGE_SIZES = (96, 1024)  # smaller images lose the lesions; SLAKE's own largest is 1024


class PhantomSet(NamedTuple):
    """What a phantom data set is made of, as `write_phantoms` takes it."""

    num_images: int
    seed: int
    image_size: int
    slices: int | None

    def __str__(self) -> str:
        given = {name: value for name, value in self._asdict().items() if value is not None}
        return ", ".join(f"{name}={value}" for name, value in given.items())


def write_phantoms(
    folder: str | Path, num_images: int = 60, seed: int = 0, image_size: int = 224, slices: int | None = None
) -> Path:
    """Writes a phantom data set in SLAKE's layout, or leaves it alone where it is already there.

    Image number i depends on `seed` and `image_size` only, and about five of seven images go to training. With
    `slices`, patient number i is the body of image number i, and all slices of a patient go where that image goes. The
    set is written beside `folder` and renamed when complete, so two processes may race: the loser discards its copy.

    Args:
        folder: where `train.json`, `validate.json`, `test.json` and `imgs/xmlabN/` go.
        num_images: images in all splits, at least 12.
        seed: zero or a positive number.
        image_size: width and height of every image in pixels, 96 to 1024.
        slices: images of each patient, 2 to 8; rows then name their patient in a field `group`. None for bodies of one
            image each. `num_images` is a multiple of it, of at least 12 patients.

    Returns:
        `folder` as an absolute path.

    Raises:
        UserError: an argument is out of range, or the folder holds anything but this very data set.
    """
    folder = Path(folder).absolute()
    if slices is not None and not SLICES[0] <= slices <= SLICES[1]:
        raise UserError(f"slices is {slices}: give each patient {SLICES[0]} to {SLICES[1]}.")
    if num_images < (least := MIN_IMAGES * (slices or 1)):
        raise UserError(
            f"num_images is {num_images}, too few for every kind of image in every split: give {least} or more."
        )
    if slices and (rest := num_images % slices):
        raise UserError(
            f"num_images is {num_images}, which patients of {slices} slices can't share evenly: give "
            f"{num_images - rest} or {num_images - rest + slices}."
        )
    if seed < 0:
        raise UserError(f"seed is {seed}: give zero or a positive number.")
    if not IMAGE_SIZES[0] <= image_size <= IMAGE_SIZES[1]:
        raise UserError(f"image_size is {image_size}: give {IMAGE_SIZES[0]} to {IMAGE_SIZES[1]} pixels.")
    phantoms = PhantomSet(num_images, seed, image_size, slices)
    if _is_occupied(folder):
        _check_same(folder, phantoms)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        _write_files(part, phantoms)
        try:
            os.rename(part, folder)
        except OSError:
            if not _is_occupied(folder):
                raise
            _check_same(folder, phantoms)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def cached_phantoms(num_images: int = 60, slices: int | None = None) -> Path:
    """The folder of a phantom set in the cache, written where it is not there yet.

    Raises:
        UserError: as `write_phantoms`.
    """
    name = f"{num_images}x{slices}" if slices else str(num_images)
    return write_phantoms(cache_dir() / f"phantom-{DRAWING}" / name, num_images, slices=slices)


def _is_occupied(folder: Path) -> bool:
    """Whether anything but an empty folder is there."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


class _Drawn(NamedTuple):
    """One image of a set: the number of its body, its patient's name where it has one, what is known, the picture."""

    number: int
    group: str | None
    scene: Scene
    picture: Image.Image


def _draw(phantoms: PhantomSet) -> Iterator[_Drawn]:
    """Draws the images of a set one by one."""
    if phantoms.slices is None:
        for number in range(phantoms.num_images):
            yield _Drawn(number, None, *draw_scene(number, phantoms.seed, phantoms.image_size))
        return
    for number in range(phantoms.num_images // phantoms.slices):
        for drawn in draw_patient(number, phantoms.seed, phantoms.image_size, phantoms.slices):
            yield _Drawn(number, f"patient{number}", *drawn)


def _write_files(folder: Path, phantoms: PhantomSet) -> None:
    """Draws the images one by one and appends their rows, so that memory does not grow with their number."""
    folder.mkdir()
    with ExitStack() as stack:
        files = {split: stack.enter_context(open(folder / f"{split}.json", "w", encoding="utf-8")) for split in SPLITS}
        total = phantoms.num_images
        drawings = tqdm(_draw(phantoms), total=total, desc="phantoms", unit="image", disable=total < 500)
        for index, (number, group, scene, picture) in enumerate(drawings):
            target = folder / "imgs" / f"xmlab{index}"
            target.mkdir(parents=True)
            picture.save(target / "source.jpg", quality=92)
            (target / "detection.json").write_text(json.dumps(scene.boxes()), encoding="utf-8")
            file = files[SPLIT_CYCLE[number // len(KINDS) % len(SPLIT_CYCLE)]]
            file.write(", " if file.tell() else "[")
            file.write(", ".join(map(json.dumps, slake_rows(scene, index, group))))
        for file in files.values():
            file.write("]")


def _check_same(folder: Path, phantoms: PhantomSet) -> None:
    """Raises `UserError` unless a folder holds this set, by its first image and its count."""
    first, side = next(_draw(phantoms)), phantoms.image_size
    start = "[" + ", ".join(map(json.dumps, slake_rows(first.scene, 0, first.group)))
    try:
        with open(folder / "train.json", encoding="utf-8") as file:
            same = file.read(len(start)) == start
        with Image.open(folder / "imgs" / "xmlab0" / "source.jpg") as picture:
            same = same and picture.size == (side, side)
        same = same and sum(1 for _ in (folder / "imgs").iterdir()) == phantoms.num_images
    except (OSError, UnicodeDecodeError):
        same = False
    if not same:
        raise UserError(
            f"{folder} exists and is not the phantom set of {phantoms}: choose another folder or remove it."
        )
