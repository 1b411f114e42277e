"""Tiny models of each architecture, and questions about images of several shapes."""

import numpy as np
import pytest
from PIL import Image

from tests.modeling.vlm.questions import SHAPES, Asked
from tests.support.tiny_vlms import MAKERS, OTHERS, tiny_vlm


@pytest.fixture(scope="module", params=[*MAKERS, *OTHERS])
def asked(request) -> Asked:
    """A tiny model that is asked several questions about each of several images."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in SHAPES]
    return Asked(request.param, tiny_vlm(request.param), images)
