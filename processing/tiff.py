"""TIFF files: what Pillow leaves out of their grey values and colours."""

import struct
import sys
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from processing.sixteen_bits import Samples, join_bytes, split_alpha

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF, little- and big-endian

# Tags and values of TIFF 6.0.
WIDTH, HEIGHT, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES_PER_PIXEL, ROWS_PER_STRIP, STRIP_BYTE_COUNTS = 273, 274, 277, 278, 279
PLANES, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTE_COUNTS = 284, 317, 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT = 338, 339
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOUR_NAMES = {PALETTE: "palette", CMYK: "CMYK", YCBCR: "YCbCr", LAB: "LAB"}
UNCOMPRESSED, DEFLATE, WEBP = 1, 8, 50001
FAX_COMPRESSIONS = (2, 3, 4)  # CCITT: bits of ink
SEPARATE = 2
PREMULTIPLIED, ALPHA = 1, 2
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4
FORMAT_NAMES = {UNSIGNED: "unsigned", SIGNED: "signed", FLOAT: "float"}
LONG = 4

# What the directory of one plane takes over from that of all: one number each, or one for each strip or tile.
NUMBERS: tuple[int, ...] = (WIDTH, HEIGHT, BITS_PER_SAMPLE, COMPRESSION, FILL_ORDER, ORIENTATION, ROWS_PER_STRIP)
NUMBERS += (PREDICTOR, TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT)
LISTS = (STRIP_OFFSETS, STRIP_BYTE_COUNTS, TILE_OFFSETS, TILE_BYTE_COUNTS)

# Pillow takes libtiff's numbers for big-endian as the file is. They are in the machine's order.
NATIVE_ORDER = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
# The last letter of the raw modes of 16 bits says which byte of a number Pillow keeps. These give the other one.
LOWER_BYTES = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


class UnsupportedTiff(ValueError):
    """A TIFF file that Pillow does not read. Its message says what it is, as the part of a sentence."""


class Tiff(TiffImageFile):
    """A TIFF file of any grey that `grey_values` knows, and of colours of up to 16 bits.

    Pillow inverts grey whose zero is white where it has at most 8 unsigned bits. Deeper ones it leaves as they are or
    refuses. They are opened here as if black were zero. Grey with alpha of 16 bits each is opened as four bytes.
    Planes and YCbCr go through libtiff, as Pillow reads them wrong or not at all where they are not compressed.
    """

    data = b""  # the file

    def _setup(self) -> None:  # Pillow has no public hook between reading the tags and choosing the mode
        tags = self.tag_v2
        bits, kind = _bits_and_format(tags)
        photometric, separate = _photometric(tags), _is_separate(tags)
        samples = tags.get(SAMPLES_PER_PIXEL, 1)
        grey = photometric in {WHITE_IS_ZERO, BLACK_IS_ZERO}
        deep = (bits, kind) == (16, UNSIGNED)
        self._has_pairs = deep and grey and samples == 2
        self._has_planes = deep and photometric == RGB and separate
        unsupported = _unsupported(tags)
        if tags.get(COMPRESSION) == WEBP:  # which is in Pillow's table and not in the libtiff of its wheels
            raise unsupported
        pretended: dict[int, Any] = {PHOTOMETRIC: photometric}
        if photometric == WHITE_IS_ZERO and (bits > 8 or kind == SIGNED):
            pretended[PHOTOMETRIC] = BLACK_IS_ZERO
        if kind == UNSIGNED:
            # Of 32 bits Pillow has only signed ones in either byte order.
            pretended[SAMPLE_FORMAT] = SIGNED if bits == 32 else UNSIGNED
        if self._has_pairs:
            pretended |= {PHOTOMETRIC: RGB, BITS_PER_SAMPLE: (8,) * 4, SAMPLES_PER_PIXEL: 4, EXTRA_SAMPLES: (ALPHA,)}
        if (separate or photometric == YCBCR) and tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED:
            pretended[COMPRESSION] = DEFLATE  # libtiff reads for itself that there is none
        found = {tag: tags.get(tag) for tag in pretended}
        tags.update(pretended)
        try:
            super()._setup()
        except (SyntaxError, KeyError) as error:
            raise unsupported from error
        finally:
            for tag, value in found.items():
                if value is not None:
                    tags[tag] = value
                elif tag in tags:
                    del tags[tag]
        for at, tile in enumerate(self.tile):
            if isinstance(tile.args, tuple):
                raw_mode = tile.args[0]
                if tile.codec_name == "libtiff":
                    raw_mode = NATIVE_ORDER.get(raw_mode, raw_mode)
                raw_mode = raw_mode.replace("RGBa;16", "RGBA;16")  # undone at the full depth
                self.tile[at] = tile._replace(args=(raw_mode, *tile.args[1:]))
        self._has_deep_colours = deep and photometric == RGB and not separate

    def samples(self) -> Samples | None:
        """The numbers of 16 bits of an image that `Image.load` has cut to 8 bits; None if it has not."""
        premultiplied = PREMULTIPLIED in self.tag_v2.get(EXTRA_SAMPLES, ())[:1]
        if self._has_pairs:
            order = "=" if self.use_load_libtiff else {b"II": "<", b"MM": ">"}[self.tag_v2.prefix]
            grey, alpha = split_alpha(np.asarray(self).view(f"{order}u2"), 1, premultiplied)
            has_alpha = premultiplied or ALPHA in self.tag_v2.get(EXTRA_SAMPLES, ())
            white_is_zero = self.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
            return ~grey if white_is_zero else grey, alpha if has_alpha else None
        if self._has_planes:
            tags = _read_tags(self.data)
            planes = [grey_values(Tiff(BytesIO(_one_plane(self.data, tags, at)))) for at in range(len(self.mode))]
            return split_alpha(np.stack(planes, axis=-1), 3, premultiplied)
        if self._has_deep_colours:
            lower = Tiff(BytesIO(self.data))
            for at, tile in enumerate(lower.tile):
                args: Any = tile.args
                raw_mode = args[0][:-1] + LOWER_BYTES[args[0][-1]]
                lower.tile[at] = tile._replace(args=(raw_mode, *args[1:]))
            return split_alpha(join_bytes(self, lower), 3, premultiplied)
        return None


def open_tiff(data: bytes) -> Tiff:
    """A TIFF file with its tags read and its pixels not yet decoded; of grey in several planes, the first plane.

    Raises:
        UnsupportedTiff: Pillow can't decode it.
        Exception: whatever Pillow raises for a damaged file.
    """
    if data.startswith(b"MM\0+"):
        raise UnsupportedTiff("it is a big-endian BigTIFF, which is not supported")
    tags = _read_tags(data)
    if _is_separate(tags) and _photometric(tags) in {WHITE_IS_ZERO, BLACK_IS_ZERO}:
        if {PREMULTIPLIED, ALPHA} & set(tags.get(EXTRA_SAMPLES, ())):
            raise _unsupported(tags)
        data = _one_plane(data, tags, 0)
    image = Tiff(BytesIO(data))
    image.data = data
    return image


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


def _read_tags(data: bytes) -> ImageFileDirectory_v2:
    """The tags of the first page."""
    tags = ImageFileDirectory_v2(data[: 16 if data[2] == 43 else 8])
    stream = BytesIO(data)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def _one_plane(data: bytes, tags: ImageFileDirectory_v2, plane: int) -> bytes:
    """The same file with a directory at its end that names one of its planes, as grey."""
    lists = {SAMPLES_PER_PIXEL: (1,), PHOTOMETRIC: (tags.get(PHOTOMETRIC),)}
    if lists[PHOTOMETRIC] != (WHITE_IS_ZERO,):
        lists[PHOTOMETRIC] = (BLACK_IS_ZERO,)
    for tag in NUMBERS:
        if tag in tags:
            values = tags[tag] if isinstance(tags[tag], tuple) else (tags[tag],)
            lists[tag] = values[min(plane, len(values) - 1) :][:1]
    for tag in LISTS:
        if tag in tags:
            each = len(tags[tag]) // tags[SAMPLES_PER_PIXEL]
            lists[tag] = tags[tag][plane * each : (plane + 1) * each]
    data += bytes(len(data) % 2)
    order = "<" if tags.prefix == b"II" else ">"
    entries, long_lists = b"", b""
    end = len(data) + 2 + 12 * len(lists) + 4
    for tag, values in sorted(lists.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(packed) > 4:
            packed, long_lists = struct.pack(f"{order}I", end + len(long_lists)), long_lists + packed
        entries += struct.pack(f"{order}HHI", tag, LONG, len(values)) + packed
    header = tags.prefix + struct.pack(f"{order}HI", 42, len(data))
    return header + data[8:] + struct.pack(f"{order}H", len(lists)) + entries + bytes(4) + long_lists


def _is_separate(tags: ImageFileDirectory_v2) -> bool:
    """Whether each sample has a plane of its own."""
    return bool(tags.get(PLANES) == SEPARATE and tags.get(SAMPLES_PER_PIXEL, 1) > 1)


def _photometric(tags: ImageFileDirectory_v2) -> int:
    """What the numbers stand for; where the file does not say it, what libtiff takes it for."""
    stated: int | None = tags.get(PHOTOMETRIC)
    if stated is not None:
        return stated
    if tags.get(SAMPLES_PER_PIXEL, 1) >= 3:
        return RGB
    return WHITE_IS_ZERO if tags.get(COMPRESSION) in FAX_COMPRESSIONS else BLACK_IS_ZERO


def _unsupported(tags: ImageFileDirectory_v2) -> UnsupportedTiff:
    bits, kind = _bits_and_format(tags)
    words = [f"{tags.get(SAMPLES_PER_PIXEL, 1)} x {bits}-bit {FORMAT_NAMES.get(kind, 'other')}"]
    words += [COLOUR_NAMES[name] for name in [tags.get(PHOTOMETRIC)] if name in COLOUR_NAMES]
    words += ["in separate planes"] if _is_separate(tags) else []
    pixels = f"{' '.join(words)}, compression {tags.get(COMPRESSION, UNCOMPRESSED)}"
    return UnsupportedTiff(f"it is a TIFF whose pixels ({pixels}) are not supported")
