"""Splits by image, and no image in two of them. Images are compared by their decoded pixels."""

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable

from processing.errors import UserError
from processing.image_checks import CheckedImage
from processing.neighbours import clusters
from processing.sources.rows import Row

logger = logging.getLogger(__name__)

ORDER = ("train", "validation", "test")


def refuse_leaks(rows: list[Row], *, drop_leaking_rows: bool) -> list[Row]:
    """Makes sure that no image stands in two splits.

    Args:
        drop_leaking_rows: instead of refusing, removes training rows whose image is also in validation or test, and
            validation rows whose image is also in test.

    Raises:
        UserError: an image stands in two splits.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits[row["checked"].pixels].add(row["split"])
    last_split = {pixels: max(found, key=ORDER.index) for pixels, found in splits.items()}
    leaking = [row for row in rows if row["split"] != last_split[row["checked"].pixels]]
    if not leaking:
        return rows
    if drop_leaking_rows:
        counts = Counter(row["split"] for row in leaking)
        dropped = ", ".join(f"{count:,} {split}" for split, count in sorted(counts.items()))
        logger.warning("Dropped %s rows whose image is also in a later split.", dropped)
        return [row for row in rows if row["split"] == last_split[row["checked"].pixels]]
    pairs = Counter(" and ".join(sorted(found, key=ORDER.index)) for found in splits.values() if len(found) > 1)
    shared = ", ".join(f"{count:,} in {pair}" for pair, count in sorted(pairs.items()))
    raise UserError(
        f"The splits share images ({shared}; {len(leaking):,} rows, the first is {leaking[0]['where']}), so scores "
        "would reward memorised images; add --drop_leaking_rows to remove such rows from training, or choose one "
        "language."
    )


def split_by_image(rows: list[Row], seed: int) -> list[Row]:
    """Gives rows without a split one, and all rows about an image the same.

    Where the data set has no splits, 80 % of the images go to training and 10 % to validation and test each. Where
    only a validation split is missing, as in VQA-RAD, 10 % of the training images go there.

    Raises:
        UserError: some rows have a split and others have none, or there are too few images.
    """
    present = {row["split"] for row in rows}
    if None in present and present != {None}:
        missing = [row["where"] for row in rows if row["split"] is None]
        raise UserError(
            f"{len(missing):,} rows have no split while others do (the first: {missing[0]}); fill them in."
        )
    if "validation" in present or present == {"test"}:
        return rows
    in_test = {row["checked"].pixels for row in rows if row["split"] == "test"}
    images = {row["checked"] for row in rows if row["checked"].pixels not in in_test}
    order = _in_random_order(((image.pixels, image) for image in images), seed)
    tenth = max(1, round(len(order) / 10))
    held_out = dict.fromkeys(order[:tenth], "validation")
    if not in_test:
        held_out |= dict.fromkeys(order[tenth : 2 * tenth], "test")
    if len(held_out) == len(order):
        raise UserError(f"{len(order)} images are too few to split by image; give at least 3, or a split column.")
    for row in rows:
        if row["split"] != "test":
            row["split"] = held_out.get(row["checked"].pixels, "train")
    return rows


def hold_out_tuning_rows(rows: list[Row], seed: int) -> list[Row]:
    """The training rows, of which those of a tenth of the images are the validation split.

    What is chosen on them has seen neither the validation nor the test split. Near-identical images
    (`processing.neighbours`) stay together, so that a recipe can't be chosen for remembering them.

    Raises:
        UserError: there are too few groups of near-identical images.
    """
    rows = [row for row in rows if row["split"] == "train"]
    files = sorted({row["checked"] for row in rows}, key=lambda image: image.digest, reverse=True)
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
    for row in rows:
        if row["checked"].pixels in held_out:
            row["split"] = "validation"
    logger.info(
        "--tuning_split: %s of %s training images are held back to evaluate on, in whole groups of near-identical "
        "ones; the validation and test splits are left out.",
        f"{len(held_out):,}",
        f"{len(images):,}",
    )
    return rows


def _in_random_order(images: Iterable[tuple[Hashable, CheckedImage]], seed: int) -> list:
    """The distinct keys of images, shuffled; the digests of the files decide, which are the same on every machine."""
    first: dict[Hashable, str] = {}
    for key, image in images:
        first[key] = min(first.get(key, image.digest), image.digest)
    order = sorted(first, key=first.__getitem__)
    random.Random(seed).shuffle(order)
    return order
