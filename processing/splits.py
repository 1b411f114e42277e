"""Splits by image, and no image in two of them."""

import logging
import random
from collections import Counter, defaultdict

from processing.errors import UserError
from processing.sources.rows import Row

logger = logging.getLogger(__name__)

ORDER = ("train", "validation", "test")


def refuse_leaks(rows: list[Row], *, drop_leaking_rows: bool) -> list[Row]:
    """Makes sure that no image, compared by its content, stands in two splits.

    Args:
        drop_leaking_rows: instead of refusing, removes training rows whose image is also in validation or test, and
            validation rows whose image is also in test.

    Raises:
        UserError: an image stands in two splits.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits[row["digest"]].add(row["split"])
    last_split = {digest: max(found, key=ORDER.index) for digest, found in splits.items()}
    leaking = [row for row in rows if row["split"] != last_split[row["digest"]]]
    if not leaking:
        return rows
    if drop_leaking_rows:
        counts = Counter(row["split"] for row in leaking)
        dropped = ", ".join(f"{count:,} {split}" for split, count in sorted(counts.items()))
        logger.warning("Dropped %s rows whose image is also in a later split.", dropped)
        return [row for row in rows if row["split"] == last_split[row["digest"]]]
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
    in_test = {row["digest"] for row in rows if row["split"] == "test"}
    digests = sorted({row["digest"] for row in rows} - in_test)
    random.Random(seed).shuffle(digests)
    tenth = max(1, round(len(digests) / 10))
    held_out = dict.fromkeys(digests[:tenth], "validation")
    if not in_test:
        held_out |= dict.fromkeys(digests[tenth : 2 * tenth], "test")
    if len(held_out) == len(digests):
        raise UserError(f"{len(digests)} images are too few to split by image; give at least 3, or a split column.")
    for row in rows:
        if row["split"] != "test":
            row["split"] = held_out.get(row["digest"], "train")
    return rows
