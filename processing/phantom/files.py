"""A phantom data set as files, in SLAKE's layout."""

import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from PIL import Image
from tqdm import tqdm

from processing.errors import UserError
from processing.phantom.anatomy import KINDS, draw_scene
from processing.phantom.questions import slake_rows
from processing.storage import cache_dir

DRAWING = 1  # version of what is drawn: another one is another folder in the cache
SPLITS = ("train", "validate", "test")

# Of every seven images of a kind, this is where each goes: the first three already fill every split.
SPLIT_CYCLE = ("train", "validate", "test", "train", "train", "train", "train")
MIN_IMAGES = 12  # four kinds of image times three splits
IMAGE_SIZES = (96, 1024)  # smaller images lose the lesions; SLAKE's own largest is 1024


def write_phantoms(folder: str | Path, num_images: int = 60, seed: int = 0, image_size: int = 224) -> Path:
    """Writes a phantom data set in SLAKE's layout, or leaves it alone where it is already there.

    Image number i depends on `seed` and `image_size` only, and about five of seven images go to training. The set is
    written beside `folder` and renamed when complete, so two processes may race: the loser discards its copy.

    Args:
        folder: where `train.json`, `validate.json`, `test.json` and `imgs/xmlabN/` go.
        num_images: images in all splits, at least 12.
        seed: zero or a positive number.
        image_size: width and height of every image in pixels, 96 to 1024.

    Returns:
        `folder` as an absolute path.

    Raises:
        UserError: an argument is out of range, or the folder holds anything but this very data set.
    """
    folder = Path(folder).absolute()
    if num_images < MIN_IMAGES:
        raise UserError(
            f"num_images is {num_images}, too few for every kind of image in every split: give {MIN_IMAGES} or more."
        )
    if seed < 0:
        raise UserError(f"seed is {seed}: give zero or a positive number.")
    if not IMAGE_SIZES[0] <= image_size <= IMAGE_SIZES[1]:
        raise UserError(f"image_size is {image_size}: give {IMAGE_SIZES[0]} to {IMAGE_SIZES[1]} pixels.")
    if _is_occupied(folder):
        _check_same(folder, num_images, seed, image_size)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        _write_files(part, num_images, seed, image_size)
        try:
            os.rename(part, folder)
        except OSError:
            if not _is_occupied(folder):
                raise
            _check_same(folder, num_images, seed, image_size)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def cached_phantoms(num_images: int = 60) -> Path:
    """The folder of a phantom set in the cache, written where it is not there yet."""
    return write_phantoms(cache_dir() / f"phantom-{DRAWING}" / str(num_images), num_images)


def _is_occupied(folder: Path) -> bool:
    """Whether anything but an empty folder is there."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _write_files(folder: Path, num_images: int, seed: int, image_size: int) -> None:
    """Draws the images one by one and appends their rows, so that memory does not grow with `num_images`."""
    folder.mkdir()
    with ExitStack() as stack:
        files = {split: stack.enter_context(open(folder / f"{split}.json", "w", encoding="utf-8")) for split in SPLITS}
        for index in tqdm(range(num_images), desc="phantoms", unit="image", disable=num_images < 500):
            scene, picture = draw_scene(index, seed, image_size)
            target = folder / "imgs" / f"xmlab{index}"
            target.mkdir(parents=True)
            picture.save(target / "source.jpg", quality=92)
            (target / "detection.json").write_text(json.dumps(scene.boxes()), encoding="utf-8")
            file = files[SPLIT_CYCLE[index // len(KINDS) % len(SPLIT_CYCLE)]]
            file.write(", " if file.tell() else "[")
            file.write(", ".join(map(json.dumps, slake_rows(scene, index))))
        for file in files.values():
            file.write("]")


def _check_same(folder: Path, num_images: int, seed: int, image_size: int) -> None:
    """Raises `UserError` unless a folder holds the set of these arguments, by its first image and its count."""
    scene, _ = draw_scene(0, seed, image_size)
    start = "[" + ", ".join(map(json.dumps, slake_rows(scene, 0)))
    try:
        with open(folder / "train.json", encoding="utf-8") as file:
            same = file.read(len(start)) == start
        with Image.open(folder / "imgs" / "xmlab0" / "source.jpg") as picture:
            same = same and picture.size == (image_size, image_size)
        same = same and sum(1 for _ in (folder / "imgs").iterdir()) == num_images
    except (OSError, UnicodeDecodeError):
        same = False
    if not same:
        raise UserError(
            f"{folder} exists and is not the phantom set of num_images={num_images}, seed={seed}, "
            f"image_size={image_size}: choose another folder or remove it."
        )
