"""processing.png: PNG files of 16 bits a number with colours or alpha, and transparent grey of every depth."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from processing.images import open_image
from tests.support.image_files import RAMP, RAMP_GREY, grey, refusal

GREY, RGB, GREY_ALPHA, RGB_ALPHA = 0, 2, 4, 6


def png(rows: np.ndarray, bits: int, colour_type: int, transparent: list[int] | None = None) -> bytes:
    """A PNG file of rows of bytes ``(height, bytes)``, or of numbers of 16 bits of any further shape."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    width = rows.shape[1] * 8 // bits if bits <= 8 else rows.shape[1]
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    body = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in rows)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"tRNS", np.array(transparent, ">u2").tobytes()) if transparent is not None else b""
    return data + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def with_alpha(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([colour.reshape(*colour.shape[:2], -1), alpha[..., None]], axis=-1)


OPAQUE = np.full(RAMP.shape, 65535)


@pytest.mark.parametrize("factor", [1, 40, 655])  # the highest is 100, 4,000 (12 bits) and 65,500
def test_sixteen_bit_grey_is_stretched_with_alpha_and_as_three_equal_channels_too(factor):
    values = RAMP * factor
    three = np.stack([values] * 3, axis=-1)
    assert grey(open_image(png(values, 16, GREY))) == RAMP_GREY
    assert grey(open_image(png(with_alpha(values, OPAQUE), 16, GREY_ALPHA))) == RAMP_GREY
    assert grey(open_image(png(three, 16, RGB))) == RAMP_GREY
    assert grey(open_image(png(with_alpha(three, OPAQUE), 16, RGB_ALPHA))) == RAMP_GREY


@pytest.mark.parametrize("channels", [1, 3])
def test_wholly_transparent_grey_is_black_and_does_not_count(channels):
    values, alpha = RAMP * 40, OPAQUE.copy()
    values = np.concatenate([values, [[65535] * 20]], axis=1)
    alpha = np.concatenate([alpha, [[0] * 20]], axis=1)
    stacked = np.stack([values] * channels, axis=-1)
    data = png(with_alpha(stacked, alpha), 16, GREY_ALPHA if channels == 1 else RGB_ALPHA)
    assert grey(open_image(data)) == [RAMP_GREY[0] + [0] * 20]
    # the same, told by a transparent number
    data = png(stacked if channels == 3 else values, 16, GREY if channels == 1 else RGB, [65535] * channels)
    assert grey(open_image(data)) == [RAMP_GREY[0] + [0] * 20]


def test_half_transparent_grey_of_sixteen_bits_is_composited_over_black():
    half = np.full(RAMP.shape, 0x8000)  # 128 of 255
    opened = np.array(grey(open_image(png(with_alpha(RAMP * 40, half), 16, GREY_ALPHA))))
    assert np.abs(opened - np.array(RAMP_GREY) * 128 / 255).max() <= 0.51


def test_sixteen_bit_colours_keep_the_upper_eight_bits_that_they_use():
    colours = np.array([[[0x1234, 0xFFFF, 0x00FF], [0x1000, 0, 0x80FF]]])
    upper = [[0x12, 0xFF, 0], [0x10, 0, 0x80]]
    assert np.asarray(open_image(png(colours, 16, RGB))).tolist() == [upper]
    opaque = with_alpha(colours, np.full((1, 2), 65535))
    assert np.asarray(open_image(png(opaque, 16, RGB_ALPHA))).tolist() == [upper]
    twelve = np.array([[[0x123, 0xFFF, 0x00F], [0x100, 0, 0x80F]]])
    assert np.asarray(open_image(png(twelve, 16, RGB))).tolist() == [upper]
    # what can't be seen says nothing about the others
    hidden = with_alpha(np.concatenate([twelve, [[[0xFFFF, 0, 0]]]], axis=1), np.array([[65535, 65535, 0]]))
    assert np.asarray(open_image(png(hidden, 16, RGB_ALPHA))).tolist() == [[*upper, [0, 0, 0]]]


def test_a_transparent_colour_of_sixteen_bits_is_that_colour_alone():
    colours = np.array([[[0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD]]])  # differ in the lowest bit
    opened = open_image(png(colours, 16, RGB, [0x1234, 0x5678, 0x9ABC]))
    assert np.asarray(opened).tolist() == [[[0, 0, 0], [0x12, 0x56, 0x9A]]]


@pytest.mark.parametrize(
    ("bits", "row", "transparent", "expected"),
    [
        (1, 0b10101010, 1, [0] * 8),
        (1, 0b10101010, 0, [255, 0] * 4),
        (2, 0b00011011, 3, [0, 85, 170, 0]),
        (2, 0b00011011, 1, [0, 0, 170, 255]),
        (4, 0x5F, 15, [85, 0]),
        (4, 0x5F, 5, [0, 255]),
        (8, 0x5F, 0x5F, [0]),
    ],
)
def test_a_transparent_grey_of_every_depth_is_black(bits, row, transparent, expected):
    assert grey(open_image(png(np.array([[row]]), bits, GREY, [transparent]))) == [expected]


def test_a_sixteen_bit_png_is_bounded_and_refused_where_it_is_cut_off():
    noise = np.random.default_rng(0).integers(0, 65536, (40, 40, 3))
    data = png(noise, 16, RGB)
    assert "it has 40 x 40 = 1,600 pixels, above the limit max_pixels = 1,599" in refusal(data, max_pixels=1599)
    assert "cut off or damaged" in refusal(data[: len(data) // 2])


def test_an_image_that_pillow_has_opened_has_the_eight_bits_that_pillow_reads(tmp_path):
    path = tmp_path / "colours.png"
    path.write_bytes(png(np.array([[[0x123, 0xFFF, 0x00F]]]), 16, RGB))
    with Image.open(path) as image:
        assert np.asarray(open_image(image)).tolist() == [[[0x1, 0xF, 0]]]
