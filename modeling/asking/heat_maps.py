"""Heat maps over their images."""

import matplotlib
import numpy as np
from PIL import Image

from metrics.cases import COLORS
from processing.errors import UserError


def overlay(image: Image.Image, heat: np.ndarray, opacity: float = 0.6) -> Image.Image:
    """Lays a heat map over its image. The colder a place, the more of the plain image shows.

    Args:
        image: of any size, taken as RGB.
        heat: ``(rows, columns)`` over the whole image. Its coldest place gets no colour, its hottest the most.
        opacity: of the hottest place, 0 to 1.

    Raises:
        UserError: the opacity is out of range.
    """
    if not 0 <= opacity <= 1:
        raise UserError(f"opacity {opacity}: must be from 0 to 1.")
    smooth = Image.fromarray(heat.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    values = np.asarray(smooth) - heat.min()
    values = (values / max(heat.max() - heat.min(), np.finfo(np.float32).tiny)).clip(0, 1)
    colors = matplotlib.colormaps[COLORS](values)[..., :3] * 255
    alpha = opacity * values[..., None]
    plain = np.asarray(image.convert("RGB"))
    return Image.fromarray(np.round(plain * (1 - alpha) + colors * alpha).astype(np.uint8))
