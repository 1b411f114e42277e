"""Splits by image, and no image in two of them. Images are compared by their decoded pixels."""

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from processing.errors import UserError
from processing.image_checks import CheckedImage
from processing.neighbours import clusters

logger = logging.getLogger(__name__)

ORDER = ("train", "validation", "test")
NO_SPLIT, LEFT_OUT = -1, -2
TRAIN, VALIDATION, TEST = range(len(ORDER))


@dataclass
class Places:
    """The image and the split of each of N rows, as numbers.

    Attributes:
        images: the files of the images.
        image: the place in `images` of each row's, ``(N,)``.
        split: the place in `ORDER` of each row's, ``(N,)``; `NO_SPLIT` where the data set names none, `LEFT_OUT` for
            rows that are no part of any.
        where: file and number of a row, for messages.
    """

    images: list[CheckedImage]
    image: np.ndarray
    split: np.ndarray
    where: Callable[[int], str]

    def pixels(self) -> np.ndarray:
        """A number for the pixels of each row's image, ``(N,)``."""
        _, numbers = np.unique([image.pixels for image in self.images], return_inverse=True)
        return numbers[self.image]

    def used_images(self, rows: np.ndarray) -> list[CheckedImage]:
        """The images of some rows, chosen by numbers or a mask."""
        return [self.images[number] for number in np.unique(self.image[rows])]


def refuse_leaks(places: Places, *, drop_leaking_rows: bool) -> None:
    """Makes sure that no image stands in two splits.

    Args:
        drop_leaking_rows: instead of refusing, leaves out training rows whose image is also in validation or test, and
            validation rows whose image is also in test.

    Raises:
        UserError: an image stands in two splits.
    """
    pixels, counted = places.pixels(), places.split >= 0
    stands = np.zeros((pixels.max(initial=0) + 1, len(ORDER)), dtype=bool)
    stands[pixels[counted], places.split[counted]] = True
    last_split = len(ORDER) - 1 - stands[:, ::-1].argmax(axis=1)
    leaking = np.flatnonzero(counted & (places.split != last_split[pixels]))
    if not len(leaking):
        return
    if drop_leaking_rows:
        counts = Counter(ORDER[number] for number in places.split[leaking])
        dropped = ", ".join(f"{count:,} {split}" for split, count in sorted(counts.items()))
        logger.warning("Dropped %s rows whose image is also in a later split.", dropped)
        places.split[leaking] = LEFT_OUT
        return
    several = stands[stands.sum(axis=1) > 1]
    pairs = Counter(" and ".join(ORDER[number] for number in np.flatnonzero(found)) for found in several)
    shared = ", ".join(f"{count:,} in {pair}" for pair, count in sorted(pairs.items()))
    raise UserError(
        f"The splits share images ({shared}; {len(leaking):,} rows, the first is {places.where(leaking[0])}), so "
        "scores would reward memorised images; add --drop_leaking_rows to remove such rows from training, or choose "
        "one language."
    )


def split_by_image(places: Places, seed: int) -> None:
    """Gives rows without a split one, and all rows about an image the same.

    Where the data set has no splits, 80 % of the images go to training and 10 % to validation and test each. Where
    only a validation split is missing, as in VQA-RAD, 10 % of the training images go there.

    Raises:
        UserError: some rows have a split and others have none, or there are too few images.
    """
    present = set(np.unique(places.split).tolist()) - {LEFT_OUT}
    if NO_SPLIT in present and present != {NO_SPLIT}:
        missing = np.flatnonzero(places.split == NO_SPLIT)
        raise UserError(
            f"{len(missing):,} rows have no split while others do (the first: {places.where(missing[0])}); fill them "
            "in."
        )
    if VALIDATION in present or present == {TEST}:
        return
    in_test = {image.pixels for image in places.used_images(places.split == TEST)}
    images = [image for image in places.used_images(places.split != LEFT_OUT) if image.pixels not in in_test]
    order = _in_random_order(((image.pixels, image) for image in images), seed)
    tenth = max(1, round(len(order) / 10))
    held_out = dict.fromkeys(order[:tenth], VALIDATION)
    if not in_test:
        held_out |= dict.fromkeys(order[tenth : 2 * tenth], TEST)
    if len(held_out) == len(order):
        raise UserError(f"{len(order)} images are too few to split by image; give at least 3, or a split column.")
    chosen = np.array([held_out.get(image.pixels, TRAIN) for image in places.images], dtype=places.split.dtype)
    free = (places.split != TEST) & (places.split != LEFT_OUT)
    places.split[free] = chosen[places.image[free]]


def hold_out_tuning_rows(places: Places, seed: int) -> None:
    """Leaves the training rows, of which those of a tenth of the images become the validation split.

    What is chosen on them has seen neither the validation nor the test split. Near-identical images
    (`processing.neighbours`) stay together, so that a recipe can't be chosen for remembering them.

    Raises:
        UserError: there are too few groups of near-identical images.
    """
    places.split[places.split != TRAIN] = LEFT_OUT
    files = sorted(places.used_images(places.split == TRAIN), key=lambda image: image.digest, reverse=True)
    images = list({image.pixels: image for image in files}.values())  # of equal pixels the file of the least digest
    groups = clusters([image.thumbnail for image in images]).tolist()
    members: dict[int, list[CheckedImage]] = defaultdict(list)
    for group, image in zip(groups, images, strict=True):
        members[group].append(image)
    wanted = max(1, round(len(images) / 10))
    held_out: set[str] = set()
    for group in _in_random_order(zip(groups, images, strict=True), seed):
        if len(held_out) + len(members[group]) <= wanted:
            held_out |= {image.pixels for image in members[group]}
    if not held_out or len(held_out) == len(images):
        raise UserError(
            "--tuning_split: groups of near-identical images stay together, and "
            f"{max(map(len, members.values())):,} of the {len(images):,} training images are one group, so that a "
            "tenth can't be held back; leave it out."
        )
    is_held_out = np.array([image.pixels in held_out for image in places.images])
    places.split[(places.split == TRAIN) & is_held_out[places.image]] = VALIDATION
    logger.info(
        "--tuning_split: %s of %s training images are held back to evaluate on, in whole groups of near-identical "
        "ones; the validation and test splits are left out.",
        f"{len(held_out):,}",
        f"{len(images):,}",
    )


def _in_random_order(images: Iterable[tuple[Hashable, CheckedImage]], seed: int) -> list:
    """The distinct keys of images, shuffled; the digests of the files decide, which are the same on every machine."""
    first: dict[Hashable, str] = {}
    for key, image in images:
        first[key] = min(first.get(key, image.digest), image.digest)
    order = sorted(first, key=first.__getitem__)
    random.Random(seed).shuffle(order)
    return order
