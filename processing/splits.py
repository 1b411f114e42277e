"""Splits that cut no image and no group (patient, study), and what of an evaluation split training has seen.

Images are compared by their decoded pixels.
"""

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from processing.errors import UserError
from processing.image_checks import CheckedImage
from processing.neighbours import clusters, has_neighbour

logger = logging.getLogger(__name__)

ORDER = ("train", "validation", "test")
NO_SPLIT, LEFT_OUT = -1, -2
TRAIN, VALIDATION, TEST = range(len(ORDER))
REFUSE, DROP, KEEP = LEAKS = ("refuse", "drop", "keep")
IMAGE, NEIGHBOURS = SPLIT_BY = ("image", "neighbours")
OVERLAPS = ("none", "near", "same")  # of an image with those of the training rows


@dataclass
class Places:
    """The image, the group and the split of each of N rows, as numbers.

    Attributes:
        images: the files of the images.
        image: the place in `images` of each row's, ``(N,)``.
        group: a number for the group (patient, study) of each row, ``(N,)``; -1 where the data set names none.
        split: the place in `ORDER` of each row's, ``(N,)``; `NO_SPLIT` where the data set names none, `LEFT_OUT` for
            rows that are no part of any.
        where: file and number of a row, for messages.
    """

    images: list[CheckedImage]
    image: np.ndarray
    group: np.ndarray
    split: np.ndarray
    where: Callable[[int], str]

    def pixels(self) -> np.ndarray:
        """A number for the pixels of each row's image, ``(N,)``."""
        _, numbers = np.unique([image.pixels for image in self.images], return_inverse=True)
        return numbers[self.image]

    def used_images(self, rows: np.ndarray) -> list[CheckedImage]:
        """The images of some rows, chosen by numbers or a mask."""
        return [self.images[number] for number in np.unique(self.image[rows])]


def refuse_leaks(places: Places, leaks: str) -> None:
    """Looks for images and groups that stand in two splits.

    Args:
        leaks: `refuse` them; `drop` training rows whose image or group is also in validation or test, and validation
            rows whose image or group is also in test; or `keep` all rows, with a warning.

    Raises:
        UserError: an image or a group stands in two splits and is to be refused.
    """
    counted = places.split >= 0
    leaking, shared = np.zeros(len(counted), dtype=bool), []
    for what, numbers in (("images", places.pixels()), ("groups, such as patients", places.group)):
        known = counted & (numbers >= 0)
        stands = np.zeros((numbers.max(initial=0) + 1, len(ORDER)), dtype=bool)
        stands[numbers[known], places.split[known]] = True
        last_split = len(ORDER) - 1 - stands[:, ::-1].argmax(axis=1)
        leaking |= known & (places.split != last_split[numbers])
        several = stands[stands.sum(axis=1) > 1]
        pairs = Counter(" and ".join(ORDER[number] for number in np.flatnonzero(found)) for found in several)
        if pairs:
            shared.append((what, ", ".join(f"{count:,} in {pair}" for pair, count in sorted(pairs.items()))))
    if not shared:
        return
    if leaks == DROP:
        counts = Counter(ORDER[number] for number in places.split[leaking])
        dropped = ", ".join(f"{count:,} {split}" for split, count in sorted(counts.items()))
        logger.warning("Dropped %s rows whose image or group is also in a later split.", dropped)
        places.split[leaking] = LEFT_OUT
        return
    told = " and ".join(f"{what} ({pairs})" for what, pairs in shared)
    if leaks == KEEP:
        logger.warning("The splits share %s: the figures of such rows measure memory. They are told apart.", told)
        return
    rows = np.flatnonzero(leaking)
    raise UserError(
        f"The splits share {told}: {len(rows):,} rows, the first is {places.where(rows[0])}, so scores would reward "
        "memorised images; add --leaks drop to remove such rows from training, --leaks keep to tell their figures "
        "apart, or choose one language."
    )


def split_rows(places: Places, seed: int, by: str | None = None) -> None:
    """Gives rows without a split one, and all rows about an image or of a group the same.

    Where the data set has no splits, 80 % of the images go to training and 10 % to validation and test each. Where
    only a validation split is missing, as in VQA-RAD, 10 % of the training images go there.

    Args:
        by: with `neighbours`, near-identical images stay together.

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
    free = (places.split == NO_SPLIT) | (places.split == TRAIN)
    units = _units(places, free | (places.split == TEST), near=by == NEIGHBOURS)
    in_test = set(units[places.image[places.split == TEST]].tolist())
    members = _members(places, units, free)
    order = [unit for unit in _in_random_order(members, seed) if unit not in in_test]
    total = sum(_count(members[unit]) for unit in order)
    tenth = max(1, round(total / 10))
    validation = _take(order, members, tenth)
    test = set() if in_test else _take([unit for unit in order if unit not in validation], members, tenth)
    if not validation or not (test or in_test) or len(validation | test) == len(order):
        if len(order) == total:
            raise UserError(f"{total} images are too few to split by image; give at least 3, or a split column.")
        raise UserError(
            f"The {total:,} images are too few groups ({len(order):,}, the largest of "
            f"{max(_count(members[unit]) for unit in order):,} images) to hold a tenth of them back twice; give a "
            "split column."
        )
    split = np.full(len(places.images), TRAIN)
    split[np.isin(units, list(validation))] = VALIDATION
    split[np.isin(units, list(test))] = TEST
    places.split[free] = split[places.image[free]]


def hold_out_tuning_rows(places: Places, seed: int) -> None:
    """Leaves the training rows, of which those of a tenth of the images become the validation split.

    What is chosen on them has seen neither the validation nor the test split. Groups and near-identical images
    (`processing.neighbours`) stay together, so that a recipe can't be chosen for remembering them.

    Raises:
        UserError: there are too few groups of near-identical images.
    """
    places.split[places.split != TRAIN] = LEFT_OUT
    training = places.split == TRAIN
    units = _units(places, training, near=True)
    members = _members(places, units, training)
    total = sum(map(_count, members.values()))
    held_out = _take(_in_random_order(members, seed), members, max(1, round(total / 10)))
    if not held_out or len(held_out) == len(members):
        raise UserError(
            "--tuning_split: groups of near-identical images stay together, and "
            f"{max(map(_count, members.values())):,} of the {total:,} training images are one group, so that a "
            "tenth can't be held back; leave it out."
        )
    places.split[training & np.isin(units, list(held_out))[places.image]] = VALIDATION
    logger.info(
        "--tuning_split: %s of %s training images are held back to evaluate on, in whole groups of near-identical "
        "ones; the validation and test splits are left out.",
        f"{sum(_count(members[unit]) for unit in held_out):,}",
        f"{total:,}",
    )


def choose_to_evaluate(places: Places) -> None:
    """Makes a data set one test split: of its test rows, else of its validation rows, else of all its rows."""
    present = set(np.unique(places.split).tolist())
    chosen = next((split for split in (TEST, VALIDATION) if split in present), None)
    own = places.split != LEFT_OUT if chosen is None else places.split == chosen
    places.split[:] = np.where(own, TEST, LEFT_OUT)


def refuse_shared(places: Places, others: Places, leaks: str) -> None:
    """Looks for images of another data set, which is to be evaluated, among the training and validation rows.

    Args:
        leaks: as for `refuse_leaks`; rows are dropped here, and not in the other data set.

    Raises:
        UserError: there are some, and they are to be refused.
    """
    evaluated = {image.pixels for image in others.used_images(others.split >= 0)}
    is_shared = np.array([image.pixels in evaluated for image in places.images], dtype=bool)
    shared = np.flatnonzero(is_shared[places.image] & (places.split >= 0))
    if not len(shared):
        return
    count = _count(places.used_images(shared))
    told = f"Images of --dataset that are also in --eval_dataset: {count:,} ({len(shared):,} rows, the first is "
    told += f"{places.where(shared[0])})"
    if leaks == REFUSE:
        raise UserError(f"{told}; add --leaks drop to leave these rows out, or --leaks keep to tell figures apart.")
    logger.warning("%s: they are %s.", told, "left out" if leaks == DROP else "kept, and their figures told apart")
    if leaks == DROP:
        places.split[shared] = LEFT_OUT


def overlaps(places: Places, training: Places | None = None) -> np.ndarray:
    """What training has seen of each row's image, as a place in `OVERLAPS`, ``(N,)``.

    `same` is an image of the same pixels in the training rows, `near` a near neighbour of it or an image of its group.
    It is -1 for training rows, and for all rows where there are none to train on.

    Args:
        training: has the training rows, where they are of another data set.
    """
    own, training = training is None, training or places
    result = np.full(len(places.split), -1, dtype=np.int8)
    trained, evaluated = training.split == TRAIN, places.split > TRAIN
    if not trained.any() or not evaluated.any():
        return result
    images = training.used_images(trained)
    pixels = {image.pixels for image in images}
    overlap = np.array([2 if image.pixels in pixels else 0 for image in places.images], dtype=np.int8)
    asked = [number for number in np.unique(places.image[evaluated]).tolist() if not overlap[number]]
    overlap[asked] = has_neighbour(
        [places.images[number].thumbnail for number in asked], [image.thumbnail for image in images]
    )
    result[evaluated] = overlap[places.image[evaluated]]
    if own:
        in_group = (places.group >= 0) & np.isin(places.group, places.group[trained])
        result[evaluated & in_group & (result == 0)] = 1
    return result


def _units(places: Places, rows: np.ndarray, near: bool) -> np.ndarray:
    """A number for each image, ``(images,)``; rows of one number must share a split.

    Args:
        rows: which count, as a mask ``(N,)``.
        near: whether near-identical images have one number.
    """
    _, pixels = np.unique([image.pixels for image in places.images], return_inverse=True)
    number = pixels.max(initial=-1) + 1
    grouped = rows & (places.group >= 0)
    edges = [(pixels[places.image[grouped]], number + places.group[grouped])]
    number += places.group.max(initial=-1) + 1
    if near:
        used = np.unique(places.image[rows])
        edges.append((pixels[used], number + clusters([places.images[i].thumbnail for i in used])))
        number += len(used)
    one, other = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(number, number))
    return connected_components(graph, directed=False)[1][pixels]


def _members(places: Places, units: np.ndarray, rows: np.ndarray) -> dict[int, list[CheckedImage]]:
    """The images of some rows by their unit."""
    members: dict[int, list[CheckedImage]] = defaultdict(list)
    for number in np.unique(places.image[rows]).tolist():
        members[int(units[number])].append(places.images[number])
    return members


def _count(images: Iterable[CheckedImage]) -> int:
    return len({image.pixels for image in images})


def _take(order: Iterable[int], members: dict[int, list[CheckedImage]], wanted: int) -> set[int]:
    """Units in their order, as long as they have no more than the wanted number of images.

    Larger ones are passed over. Where each is too large, it is the smallest.
    """
    taken: set[int] = set()
    counts = {unit: _count(members[unit]) for unit in order}
    left = max(wanted, min(counts.values(), default=0))
    for unit, count in counts.items():
        if count <= left:
            taken.add(unit)
            left -= count
    return taken


def _in_random_order(members: dict[int, list[CheckedImage]], seed: int) -> list[int]:
    """The units, shuffled; the digests of the files decide, which are the same on every machine."""
    first = {unit: min(image.digest for image in images) for unit, images in members.items()}
    order = sorted(first, key=first.__getitem__)
    random.Random(seed).shuffle(order)
    return order
