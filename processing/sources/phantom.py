"""Generated phantom images, by name instead of by folder."""

import re
from dataclasses import replace

from processing.phantom.files import cached_phantoms
from processing.sources.rows import Source
from processing.sources.slake import read_slake

PHANTOM = re.compile(r"phantom(?::(\d{1,7}))?")
NUM_IMAGES = 60  # where the name gives no number


def read_phantom(name: str) -> Source | None:
    """Reads `phantom` or `phantom:N`, which is drawn first where it is not in the cache; None for another name.

    Raises:
        UserError: N is too small.
    """
    match = PHANTOM.fullmatch(name)
    if match is None:
        return None
    return replace(read_slake(cached_phantoms(int(match[1] or NUM_IMAGES))), kind="phantom")
