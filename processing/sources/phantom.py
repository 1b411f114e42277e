"""Generated phantom images, by name instead of by folder."""

import re
from dataclasses import replace

from processing.phantom.files import cached_phantoms
from processing.sources.rows import Source
from processing.sources.slake import read_slake

PHANTOM = re.compile(r"phantom(?::(\d{1,7})(?:x(\d{1,3}))?)?")
NUM_IMAGES = 60  # where the name gives no number


def read_phantom(name: str) -> Source | None:
    """Reads `phantom`, `phantom:N` or `phantom:NxS`; None for another name.

    It has N images, with S as patients of S slices each. They are drawn first where they are not in the cache.

    Raises:
        UserError: there can't be so many images, or slices of a patient.
    """
    match = PHANTOM.fullmatch(name)
    if match is None:
        return None
    slices = int(match[2]) if match[2] else None
    return replace(read_slake(cached_phantoms(int(match[1] or NUM_IMAGES), slices)), kind="phantom")
