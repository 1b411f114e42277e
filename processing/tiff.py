"""TIFF files: what Pillow leaves out of their grey values."""

from io import BytesIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF, little- and big-endian

# Tags and values of TIFF 6.0.
BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, SAMPLES_PER_PIXEL, SAMPLE_FORMAT = 258, 259, 262, 277, 339
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4
FORMAT_NAMES = {UNSIGNED: "unsigned", SIGNED: "signed", FLOAT: "float"}
FAX_COMPRESSIONS = (2, 3, 4)  # CCITT: bits of ink
# Pillow takes libtiff's numbers for big-endian as the file is. They are in the machine's order.
NATIVE_ORDER = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}


class UnsupportedTiff(ValueError):
    """Pillow does not read this kind of pixels or this compression. Its message says which."""


class Tiff(TiffImageFile):
    """A TIFF file of any grey that `grey_values` knows.

    Pillow inverts grey whose zero is white where it has at most 8 unsigned bits. Deeper ones it leaves as they are or
    refuses. They are opened here as if black were zero.
    """

    def _setup(self) -> None:  # Pillow has no public hook between reading the tags and choosing the mode
        tags = self.tag_v2
        found = {tag: tags.get(tag) for tag in (PHOTOMETRIC, SAMPLE_FORMAT)}
        bits, kind = _bits_and_format(tags)
        if found[PHOTOMETRIC] is None:
            tags[PHOTOMETRIC] = _usual_photometric(tags)
        elif found[PHOTOMETRIC] == WHITE_IS_ZERO and (bits > 8 or kind == SIGNED):
            tags[PHOTOMETRIC] = BLACK_IS_ZERO
        if kind == UNSIGNED:
            # Of 32 bits Pillow has only signed ones in either byte order.
            tags[SAMPLE_FORMAT] = SIGNED if bits == 32 else UNSIGNED
        try:
            super()._setup()
        except (SyntaxError, KeyError) as error:
            raise UnsupportedTiff(_describe_pixels(tags)) from error
        finally:
            for tag, value in found.items():
                if value is not None:
                    tags[tag] = value
                elif tag in tags:
                    del tags[tag]
        for at, tile in enumerate(self.tile):
            if tile.codec_name == "libtiff" and isinstance(tile.args, tuple) and tile.args[0] in NATIVE_ORDER:
                self.tile[at] = tile._replace(args=(NATIVE_ORDER[tile.args[0]], *tile.args[1:]))


def open_tiff(data: bytes) -> Tiff:
    """A TIFF file with its tags read and its pixels not yet decoded.

    Raises:
        UnsupportedTiff: Pillow can't decode it.
        Exception: whatever Pillow raises for a damaged file.
    """
    return Tiff(BytesIO(data))


def grey_values(image: Image.Image) -> np.ndarray:
    """The numbers of a grey image ``(height, width)``, the lowest of which is the darkest."""
    values = np.asarray(image)
    if not isinstance(image, TiffImageFile):
        return values
    bits, kind = _bits_and_format(image.tag_v2)
    if image.mode == "L" and kind != SIGNED:
        return values  # inverted by Pillow where it must be
    if image.mode == "L":
        values = values.view(np.int8)
    elif (bits, kind) == (32, UNSIGNED):
        values = values.view(np.uint32)
    if image.tag_v2.get(PHOTOMETRIC) != WHITE_IS_ZERO:
        return values
    return -values if values.dtype.kind == "f" else ~values


def _bits_and_format(tags: ImageFileDirectory_v2) -> tuple[int, int]:
    """Bits of a sample and its format, of which `UNSIGNED` is the standard's default."""
    kind = max(tags.get(SAMPLE_FORMAT, (UNSIGNED,)))
    return max(tags.get(BITS_PER_SAMPLE, (1,))), UNSIGNED if kind == UNDEFINED else kind


def _usual_photometric(tags: ImageFileDirectory_v2) -> int:
    """What libtiff takes a file for that does not say it."""
    if tags.get(SAMPLES_PER_PIXEL, 1) >= 3:
        return RGB
    return WHITE_IS_ZERO if tags.get(COMPRESSION) in FAX_COMPRESSIONS else BLACK_IS_ZERO


def _describe_pixels(tags: ImageFileDirectory_v2) -> str:
    bits, kind = _bits_and_format(tags)
    samples = tags.get(SAMPLES_PER_PIXEL, 1)
    name = FORMAT_NAMES.get(kind, "other")
    return f"{samples} x {bits}-bit {name}, compression {tags.get(COMPRESSION, 1)}"
