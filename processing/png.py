"""PNG files: the 16-bit numbers that Pillow cuts to 8, and transparent greys that it misses."""

from io import BytesIO

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from processing.sixteen_bits import Samples, join_bytes, split_alpha

# Pillow's raw modes of 16 bits: the upper bytes, and those that give the lower bytes of numbers in PNG's order.
LOWER_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
GREY_AND_ALPHA, FOUR_BYTES = "LA;16B", "RGBA"
GREY_LEVELS = {"L;2": 4, "L;4": 16}


class Png(PngImageFile):
    """A PNG file that gives all 16 bits of its numbers, and whose transparent grey is one of the image's greys."""

    data = b""  # the file

    def _open(self) -> None:
        super()._open()
        self._raw_mode = str(self.tile[0].args) if self.tile else ""
        if self._raw_mode == GREY_AND_ALPHA:
            self._mode = "RGBA"
            self._decode_as(FOUR_BYTES)
        levels = GREY_LEVELS.get(self._raw_mode)
        if levels and "transparency" in self.info:
            # Pillow spreads the pixels over 0 to 255 and leaves this number as it is.
            self.info["transparency"] = self.info["transparency"] % levels * 255 // (levels - 1)

    def _decode_as(self, raw_mode: str) -> None:
        self.tile = [tile._replace(args=raw_mode) for tile in self.tile]

    def samples(self) -> Samples | None:
        """The numbers of 16 bits that `Image.load` has cut or left without their transparency; None if it has not."""
        if self._raw_mode == GREY_AND_ALPHA:
            return split_alpha(np.asarray(self).view(">u2"), 1)
        transparent = self.info.get("transparency")
        if self._raw_mode in LOWER_BYTES:
            lower = Png(BytesIO(self.data))
            lower._decode_as(LOWER_BYTES[self._raw_mode])
            colour, alpha = split_alpha(join_bytes(self, lower), 3)
            if transparent is not None:
                alpha = _opaque(np.any(colour != np.array(transparent), axis=-1))
            return colour, alpha
        if self.mode == "I;16" and transparent is not None:
            grey = np.asarray(self)
            return grey, _opaque(grey != transparent)
        return None


def open_png(data: bytes) -> Png:
    """A PNG file with its header read and its pixels not yet decoded.

    Raises:
        Exception: whatever Pillow raises for a damaged file.
    """
    image = Png(BytesIO(data))
    image.data = data
    return image


def _opaque(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 65535, 0).astype(np.uint16)
