"""processing.tiff: colours, alpha and planes, of 8 and of 16 bits, with and without compression."""

import struct
import zlib

import numpy as np
import pytest

from processing.images import open_image
from tests.support.image_files import RAMP, RAMP_GREY, grey, refusal

GREY, RGB, CMYK, YCBCR = 1, 2, 5, 6
UNSPECIFIED, PREMULTIPLIED, ALPHA = 0, 1, 2
PLANES = {"samples side by side": 1, "planes": 2}
OPAQUE = np.full((1, 101), 65535)


def tiff(pixels: np.ndarray, photometric: int, planes: int = 1, **options) -> bytes:
    """A TIFF of unsigned numbers ``(rows, columns, samples)`` in strips of two rows.

    Args:
        planes: 1 for samples side by side, 2 for a plane each.
        options: `order` ("<" or ">"), `compression` (1, or 8 for deflate), `extra` (kinds of the extra samples),
            `predictor` (2 for differences of neighbours in a plane), and `orientation`.
    """
    order, compression = options.get("order", "<"), options.get("compression", 1)
    parts = [pixels] if planes == 1 else list(np.moveaxis(pixels, -1, 0))
    strips = [part[at : at + 2] for part in parts for at in range(0, len(part), 2)]
    if options.get("predictor") == 2:
        strips = [np.diff(strip, axis=1, prepend=strip.dtype.type(0)) for strip in strips]
    data = [strip.astype(pixels.dtype.newbyteorder(order)).tobytes() for strip in strips]
    data = [zlib.compress(strip) if compression == 8 else strip for strip in data]
    offsets = [8 + sum(map(len, data[:at])) for at in range(len(data))]
    samples = pixels.shape[2]
    tags = {256: pixels.shape[1], 257: pixels.shape[0], 258: [pixels.dtype.itemsize * 8] * samples, 259: compression}
    tags |= {262: photometric, 273: offsets, 274: options.get("orientation"), 277: samples, 278: 2}
    tags |= {279: [len(strip) for strip in data], 284: planes, 317: options.get("predictor")}
    tags |= {338: options.get("extra"), 530: [1, 1] if photometric == YCBCR else None}
    lists = {tag: np.atleast_1d(value).tolist() for tag, value in tags.items() if value is not None}
    body = b"".join(data)
    start = 8 + len(body)
    entries, tail = b"", b""
    for tag, values in lists.items():
        # YCbCrSubSampling is read as 2 bytes a number, as it must be
        kind, letter = (3, "H") if tag == 530 else (4, "I")
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            place = start + 2 + 12 * len(lists) + 4 + len(tail)
            packed, tail = struct.pack(f"{order}I", place), tail + packed
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return header + body + struct.pack(f"{order}H", len(lists)) + entries + bytes(4) + tail


def noise(samples: int, dtype: str = "u2") -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (5, 7, samples), dtype, endpoint=True)


@pytest.mark.parametrize("planes", PLANES.values(), ids=PLANES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_colours_are_their_upper_eight_bits(planes, order, compression, dtype):
    pixels = noise(3, dtype)
    expected = pixels if dtype == "u1" else pixels >> 8
    options = {"planes": planes, "order": order, "compression": compression}
    assert np.asarray(open_image(tiff(pixels, RGB, **options))).tolist() == expected.tolist()
    # a fourth sample that is no alpha changes nothing
    pixels = np.concatenate([pixels, noise(1, dtype)], axis=-1)
    opened = open_image(tiff(pixels, RGB, extra=[UNSPECIFIED], **options))
    assert np.asarray(opened).tolist() == expected.tolist()


@pytest.mark.parametrize("planes", PLANES.values(), ids=PLANES)
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_alpha_is_composited_over_black_and_premultiplied_colours_are_so_already(planes, compression, dtype):
    highest = np.iinfo(dtype).max
    pixels = noise(4, dtype)
    colour, alpha = pixels[..., :3] / highest, pixels[..., 3:] / highest
    options = {"planes": planes, "compression": compression}
    opened = np.asarray(open_image(tiff(pixels, RGB, extra=[ALPHA], **options)), float)
    assert np.abs(opened - colour * alpha * 255).max() <= 2
    pixels[..., :3] = np.rint(colour * alpha * highest)
    opened = np.asarray(open_image(tiff(pixels, RGB, extra=[PREMULTIPLIED], **options)), float)
    assert np.abs(opened - colour * alpha * 255).max() <= 2


@pytest.mark.parametrize("planes", PLANES.values(), ids=PLANES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_three_equal_channels_of_sixteen_bits_are_grey_and_stretched(planes, order, compression):
    values = np.stack([RAMP * 40] * 3, axis=-1).astype(np.uint16)  # 12 bits in 16
    options = {"planes": planes, "order": order, "compression": compression}
    assert grey(open_image(tiff(values, RGB, **options))) == RAMP_GREY
    with_alpha = np.concatenate([values, OPAQUE[..., None]], axis=-1).astype(np.uint16)
    assert grey(open_image(tiff(with_alpha, RGB, extra=[ALPHA], **options))) == RAMP_GREY


def test_planes_of_differences_are_read_and_turned_upright():
    values = np.stack([np.repeat(RAMP, 3, axis=0) * 40] * 3, axis=-1).astype(np.uint16)
    opened = open_image(tiff(values, RGB, planes=2, compression=8, predictor=2, orientation=6))
    assert opened.size == (3, 101)
    assert np.asarray(opened)[:, 0, 0].tolist() == RAMP_GREY[0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_sixteen_bit_grey_with_a_second_sample_is_stretched(order, compression):
    values = np.stack([RAMP * 40, OPAQUE], axis=-1).astype(np.uint16)
    options = {"order": order, "compression": compression}
    for extra in ([ALPHA], [PREMULTIPLIED], [UNSPECIFIED], None):
        assert grey(open_image(tiff(values, GREY, extra=extra, **options))) == RAMP_GREY
    white_is_zero = np.array(grey(open_image(tiff(values, 0, extra=[ALPHA], **options))))
    assert np.abs(white_is_zero - (255 - np.array(RAMP_GREY))).max() <= 1
    values[0, 50:, 1] = 0
    cleared = grey(open_image(tiff(values, GREY, extra=[ALPHA], **options)))[0]
    low, high = np.percentile(np.arange(50), (1, 99))
    assert cleared[50:] == [0] * 51
    assert cleared[25] == round((25 - low) / (high - low) * 255)
    half = np.stack([RAMP * 20, OPAQUE // 2 + 1], axis=-1).astype(np.uint16)  # 40 times the ramp, of half alpha
    opened = np.array(grey(open_image(tiff(half, GREY, extra=[PREMULTIPLIED], **options))))
    assert np.abs(opened - np.array(RAMP_GREY) * 128 / 255).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("extra", [None, [UNSPECIFIED] * 2])
def test_of_grey_in_planes_the_first_is_drawn(order, compression, extra):
    options = {"planes": 2, "order": order, "compression": compression, "extra": extra}
    eight = noise(3, "u1")
    assert grey(open_image(tiff(eight, GREY, **options))) == eight[..., 0].tolist()
    assert grey(open_image(tiff(eight, 0, **options))) == (255 - eight[..., 0]).tolist()
    ramp = np.stack([RAMP * 40, OPAQUE, OPAQUE], axis=-1).astype(np.uint16)
    assert grey(open_image(tiff(ramp, GREY, **options))) == RAMP_GREY


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("kind", [PREMULTIPLIED, ALPHA])
def test_grey_and_alpha_in_planes_are_refused_with_what_does(compression, kind):
    message = refusal(tiff(noise(2, "u1"), GREY, planes=2, compression=compression, extra=[kind]))
    assert f"(2 x 8-bit unsigned in separate planes, compression {compression}) are not supported" in message
    assert "; save it as PNG, or as an uncompressed grey or RGB TIFF of 8 or 16 unsigned bits." in message


@pytest.mark.parametrize("planes", PLANES.values(), ids=PLANES)
@pytest.mark.parametrize("compression", [1, 8])
def test_ycbcr_is_turned_to_rgb(planes, compression):
    # ITU-R BT.601: r = y + 1.402 (cr - 128), g = y - 0.344 (cb - 128) - 0.714 (cr - 128), b = y + 1.772 (cb - 128)
    pixels = np.array([[[100, 128, 178], [100, 178, 128], [7, 128, 128]]], np.uint8)
    opened = np.asarray(open_image(tiff(pixels, YCBCR, planes=planes, compression=compression)), int)
    assert np.abs(opened - [[[170, 64, 100], [100, 83, 189], [7, 7, 7]]]).max() <= 1


@pytest.mark.parametrize("planes", PLANES.values(), ids=PLANES)
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_cmyk_planes_are_as_samples_side_by_side(planes, dtype):
    factor = 257 if dtype == "u2" else 1
    pixels = (np.array([[[255, 55, 0, 0], [0, 255, 0, 0]]]) * factor).astype(dtype)
    opened = np.asarray(open_image(tiff(pixels, CMYK, planes=planes)))
    assert opened.tolist() == [[[0, 200, 255], [255, 0, 255]]]


def test_webp_in_a_tiff_is_named_and_nothing_is_printed(capfd):
    data = tiff(noise(3, "u1"), RGB, compression=50001)
    assert "(3 x 8-bit unsigned, compression 50001) are not supported; save it as PNG" in refusal(data)
    assert capfd.readouterr() == ("", "")


def test_a_big_endian_bigtiff_is_named():
    assert "it is a big-endian BigTIFF, which is not supported; save it as PNG" in refusal(
        b"MM\0+\0\x08\0\0" + bytes(99)
    )


@pytest.mark.parametrize(("dtype", "name"), [("u4", "32-bit unsigned"), ("u8", "64-bit unsigned")])
def test_refused_colours_are_called_what_they_are(dtype, name):
    assert f"(3 x {name}, compression 1) are not supported" in refusal(tiff(np.zeros((2, 2, 3), dtype), RGB))
    palette = refusal(tiff(np.zeros((2, 2, 1), np.uint16), 3))
    assert "(1 x 16-bit unsigned palette, compression 1) are not supported" in palette
