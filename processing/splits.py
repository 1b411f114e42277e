"""Splits by image, and no image in two of them."""

import logging
import random
from collections import Counter, defaultdict

from processing.errors import UserError
from processing.sources.tables import Row

logger = logging.getLogger(__name__)


def refuse_leaks(rows: list[Row], *, drop_leaking_rows: bool) -> list[Row]:
    """Makes sure that no image, told by its content, stands in two splits.

    Args:
        drop_leaking_rows: removes training rows whose image is also in validation or test, and validation rows whose
            image is also in test, instead of refusing.

    Raises:
        UserError: an image stands in two splits.
    """
    order = {"train": 0, "validation": 1, "test": 2}
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits[row["digest"]].add(row["split"])
    last = {digest: max(found, key=order.__getitem__) for digest, found in splits.items()}
    leaking = [row for row in rows if row["split"] != last[row["digest"]]]
    if not leaking:
        return rows
    if drop_leaking_rows:
        counts = Counter(row["split"] for row in leaking)
        dropped = ", ".join(f"{count:,} {split}" for split, count in sorted(counts.items()))
        logger.warning("Dropped %s rows whose image is also in a later split.", dropped)
        return [row for row in rows if row["split"] == last[row["digest"]]]
    pairs = Counter(" and ".join(sorted(found, key=order.__getitem__)) for found in splits.values() if len(found) > 1)
    shared = ", ".join(f"{count:,} in {pair}" for pair, count in sorted(pairs.items()))
    raise UserError(
        f"The splits share images ({shared}; {len(leaking):,} rows, the first is {leaking[0]['where']}), so figures "
        "would measure memory; add --drop_leaking_rows to remove such rows from training, or choose one language."
    )


def split_by_image(rows: list[Row], seed: int) -> list[Row]:
    """Gives splits to rows that have none: 80/10/10 by image, or 10 % of the training images where only a validation
    split is missing, as in VQA-RAD."""
    present = {row["split"] for row in rows}
    if None in present and present != {None}:
        missing = [row["where"] for row in rows if row["split"] is None]
        raise UserError(
            f"{len(missing):,} rows have no split while others do (the first: {missing[0]}); fill them in."
        )
    if "validation" in present or present == {"test"}:
        return rows
    kept = {row["digest"] for row in rows if row["split"] == "test"}
    digests = sorted({row["digest"] for row in rows} - kept)
    random.Random(seed).shuffle(digests)
    tenth = max(1, round(len(digests) / 10))
    validation, test = set(digests[:tenth]), set() if kept else set(digests[tenth : 2 * tenth])
    if len(validation) + len(test) >= len(digests):
        raise UserError(f"{len(digests)} images are too few to split by image; give at least 3, or a split column.")
    for row in rows:
        if row["split"] != "test":
            row["split"] = (
                "validation" if row["digest"] in validation else "test" if row["digest"] in test else "train"
            )
    return rows
