"""processing.tiff: grey of every depth, sign and byte order, with black or white as zero."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from processing.images import image_facts, open_image
from tests.support.image_files import RAMP, RAMP_GREY, grey, refusal

WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}


def tiff(data: bytes, size: tuple[int, int], bits: int, photometric: int | None, kind: str = "u", **options) -> bytes:
    """A TIFF of one strip.

    Args:
        data: the pixels in the byte order of the file.
        options: `order` ("<" or ">"), `compression` (1 or 8), `samples` and `sample_format`.
    """
    order, compression, samples = (options.get(name, value) for name, value in OPTIONS.items())
    sample_format = options.get("sample_format", SAMPLE_FORMATS[kind])
    data = zlib.compress(data) if compression == 8 else data
    entries = [(256, size[0]), (257, size[1]), (258, bits), (259, compression), (262, photometric), (273, 8)]
    entries += [(277, samples), (278, size[1]), (279, len(data)), (339, sample_format)]
    entries = [(tag, value) for tag, value in entries if value is not None]
    rows = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    directory = struct.pack(f"{order}H", len(entries)) + rows + bytes(4)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return header + data + directory


OPTIONS = {"order": "<", "compression": 1, "samples": 1}


def packed(values: list[int], bits: int) -> bytes:
    """Numbers of 1, 2 or 4 bits, the first in the highest bits of a byte."""
    text = "".join(f"{value:0{bits}b}" for value in values)
    return bytes(int(text[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(text), 8))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_up_to_eight_bits_are_what_they_are_or_the_inverse(order, compression, bits):
    highest = 2**bits - 1
    values = [0, highest, highest // 2, 1, 0]
    data = packed(values, bits) if bits < 8 else bytes(values)
    expected = [value * 255 // highest for value in values]
    options = {"order": order, "compression": compression}
    assert grey(open_image(tiff(data, (5, 1), bits, BLACK_IS_ZERO, **options))) == [expected]
    inverse = [255 - value for value in expected]
    assert grey(open_image(tiff(data, (5, 1), bits, WHITE_IS_ZERO, **options))) == [inverse]


def scaled(kind: str, size: int) -> np.ndarray:
    """The ramp from the lowest to the highest number of a type, floats from -300 to 700."""
    if kind == "f":
        return (RAMP * 10.0 - 300).astype(f"f{size}")
    limits = np.iinfo(f"{kind}{size}")
    step = (int(limits.max) - int(limits.min)) // 100
    return np.array([[int(limits.min) + step * int(value) for value in RAMP[0]]], f"{kind}{size}")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(("kind", "size"), [("u", 2), ("i", 2), ("u", 4), ("i", 4), ("f", 4)])
def test_deeper_numbers_are_a_ramp_from_black_or_from_white(order, compression, kind, size):
    data = scaled(kind, size).astype(f"{order}{kind}{size}").tobytes()
    options = {"order": order, "compression": compression}
    black = grey(open_image(tiff(data, (101, 1), size * 8, BLACK_IS_ZERO, kind, **options)))[0]
    white = grey(open_image(tiff(data, (101, 1), size * 8, WHITE_IS_ZERO, kind, **options)))[0]
    assert np.abs(np.array(black) - RAMP_GREY[0]).max() <= 1
    assert np.abs(np.array(white) - (255 - np.array(RAMP_GREY[0]))).max() <= 1
    assert (black[0], black[-1], white[0], white[-1]) == (0, 255, 255, 0)


@pytest.mark.parametrize("compression", [1, 8])
def test_twelve_bits_are_a_ramp_from_black_or_from_white(compression):
    values = [value * 40 for value in range(102)]
    text = "".join(f"{value:012b}" for value in values)
    data = int(text, 2).to_bytes(len(text) // 8, "big")
    black = grey(open_image(tiff(data, (102, 1), 12, BLACK_IS_ZERO)))[0]
    white = grey(open_image(tiff(data, (102, 1), 12, WHITE_IS_ZERO)))[0]
    assert black == sorted(black)
    assert white == [255 - value for value in black]


@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_bytes_go_from_black_at_minus_128_to_white(order):
    data = np.array([-128, -1, 0, 127], np.int8).tobytes()
    assert grey(open_image(tiff(data, (4, 1), 8, BLACK_IS_ZERO, "i", order=order))) == [[0, 127, 128, 255]]
    assert grey(open_image(tiff(data, (4, 1), 8, WHITE_IS_ZERO, "i", order=order))) == [[255, 128, 127, 0]]


def test_without_a_sample_format_numbers_are_unsigned():
    data = scaled("u", 4).astype("<u4").tobytes()
    for sample_format in (None, 4):  # 4: undefined
        opened = grey(open_image(tiff(data, (101, 1), 32, BLACK_IS_ZERO, sample_format=sample_format)))[0]
        assert opened == sorted(opened)


@pytest.mark.parametrize(("bits", "kind"), [(8, "u"), (16, "u"), (16, "i"), (32, "f")])
def test_without_a_photometric_interpretation_zero_is_black(bits, kind):
    values = RAMP.astype(f"<{kind}{bits // 8}")
    opened = grey(open_image(tiff(values.tobytes(), (101, 1), bits, None, kind)))
    assert opened == (RAMP.tolist() if bits == 8 else RAMP_GREY)


def test_three_samples_without_a_photometric_interpretation_are_colours():
    data = tiff(bytes([1, 2, 3, 4, 5, 6]), (2, 1), 8, None, samples=3)
    assert np.asarray(open_image(data)).tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_an_image_that_pillow_has_opened_is_inverted_too(tmp_path):
    path = tmp_path / "white.tif"
    path.write_bytes(tiff((RAMP * 100).astype("<u2").tobytes(), (101, 1), 16, WHITE_IS_ZERO))
    with Image.open(path) as image:
        assert grey(open_image(image)) == grey(open_image(path))
        assert grey(open_image(path))[0][0] == 255


def test_nan_is_black_where_white_is_zero_too():
    values = RAMP.astype("<f4")
    values[0, :3] = np.nan, np.inf, -np.inf
    opened = grey(open_image(tiff(values.tobytes(), (101, 1), 32, WHITE_IS_ZERO, "f")))[0]
    assert opened[:3] == [0, 0, 255]


@pytest.mark.parametrize(
    ("bits", "kind", "name"), [(64, "f", "64-bit float"), (16, "f", "16-bit float"), (64, "i", "64-bit signed")]
)
def test_pixels_that_pillow_can_not_read_are_named(bits, kind, name):
    data = tiff(bytes(bits // 8 * 4), (4, 1), bits, BLACK_IS_ZERO, kind)
    expected = (
        f"it is a TIFF whose pixels (1 x {name}, compression 1) are not supported; save it as PNG, or as an "
        "uncompressed grey or RGB TIFF of 8 or 16 unsigned bits."
    )
    assert expected in refusal(data)


def test_an_unknown_compression_is_named():
    data = tiff(bytes(4), (4, 1), 8, BLACK_IS_ZERO, compression=34712)
    assert "it is a TIFF whose pixels (1 x 8-bit unsigned, compression 34712) are not supported" in refusal(data)


def test_a_tiff_is_bounded_and_known_by_its_content(tmp_path):
    path = tmp_path / "scan.jpg"
    path.write_bytes(tiff(bytes(range(101)), (101, 1), 8, BLACK_IS_ZERO))
    assert grey(open_image(path)) == RAMP.tolist()
    assert image_facts(path).format == "TIFF"
    assert "it has 101 x 1 = 101 pixels, above the limit max_pixels = 100" in refusal(path, max_pixels=100)
    huge = tiff(bytes(8), (60_000, 60_000), 8, BLACK_IS_ZERO)
    assert "3,600,000,000 pixels, above the limit" in refusal(huge)


def test_pillows_own_tables_are_untouched():
    before = dict(TiffImagePlugin.OPEN_INFO)
    open_image(tiff(scaled("u", 4).astype(">u4").tobytes(), (101, 1), 32, WHITE_IS_ZERO, order=">"))
    assert before == TiffImagePlugin.OPEN_INFO
