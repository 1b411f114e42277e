"""Colours, and grey with alpha, of 16 bits a number, of which Pillow keeps 8."""

import numpy as np
from PIL import Image

from processing.pixels import stretch

Samples = tuple[np.ndarray, np.ndarray | None]  # grey (rows, columns) or RGB (rows, columns, 3), and alpha; all uint16
TWELVE_BITS = 2**12


def join_bytes(upper: Image.Image, lower: Image.Image) -> np.ndarray:
    """The numbers of 16 bits ``(rows, columns, n)`` of which two images hold a byte each."""
    numbers = np.asarray(upper).astype(np.uint16)
    numbers <<= 8
    numbers |= np.asarray(lower)
    return numbers


def split_alpha(numbers: np.ndarray, colours: int, premultiplied: bool = False) -> Samples:
    """The samples of uint16 ``(rows, columns, n)``, whose first `colours` are grey or RGB and whose next is alpha.

    Args:
        premultiplied: the colours were multiplied by their alpha. That is undone.
    """
    colour = numbers[..., 0] if colours == 1 else numbers[..., :colours]
    if numbers.shape[-1] == colours:
        return colour, None
    alpha = numbers[..., colours]
    if premultiplied:
        divisor = np.maximum(alpha, 1).astype(np.float32).reshape(alpha.shape + (1,) * (colour.ndim - 2))
        colour = np.rint(np.minimum(colour / divisor, 1) * 65535).astype(np.uint16)
    return colour, alpha


def draw_sixteen_bits(colour: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
    """Samples as an image of 8 bits, L or RGB, or LA or RGBA with alpha.

    Grey is stretched between the percentiles of what is not wholly transparent, and three equal channels are grey.
    Colours keep the upper 8 of their 16 bits, or of 12 where no number needs more.
    """
    visible = None if alpha is None else alpha > 0
    if colour.ndim == 3 and np.array_equal(colour[..., 0], colour[..., 1]) and np.array_equal(*colour.T[1:]):
        colour = colour[..., 0]
    if colour.ndim == 2:
        eight = stretch(colour, visible)
    else:
        highest = np.max(colour, initial=0, where=True if visible is None else visible[..., None])
        eight = (colour >> (4 if highest < TWELVE_BITS else 8)).astype(np.uint8)  # of what is seen
    image = Image.fromarray(eight)
    if alpha is not None:
        image.putalpha(Image.fromarray((alpha >> 8).astype(np.uint8)))
    return image
