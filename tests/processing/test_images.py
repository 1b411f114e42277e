"""processing.images: what it opens, and what each pixel becomes."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from processing.images import open_image
from tests.support.image_files import RAMP, RAMP_GREY, encoded, grey

SLAKE_DIR = Path(os.environ.get("SLAKE_DIR", "shared/data/slake"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_each_format_opens_as_rgb_from_path_string_bytes_file_and_image(tmp_path, kind):
    data = encoded(Image.new("RGB", (5, 3), (200, 0, 0)), kind)
    path = tmp_path / "picture"
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), io.BytesIO(data), Image.open(io.BytesIO(data))):
        image = open_image(source)
        assert type(image) is Image.Image
        assert (image.mode, image.size) == ("RGB", (5, 3))
        assert np.abs(np.asarray(image, int) - (200, 0, 0)).max() <= 3


def test_a_phones_several_picture_jpeg_opens_with_its_first_picture():
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    image = open_image(encoded(red, "MPO", save_all=True, append_images=[blue]))
    assert image.getpixel((0, 0))[0] > 250


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_the_first_frame_of_several_is_taken(kind):
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    data = encoded(red, kind, save_all=True, append_images=[blue])
    assert open_image(data).getpixel((0, 0))[0] > 250


def test_a_file_object_stays_open_and_a_path_is_closed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("L", (2, 2), 7), "PNG"))
    with path.open("rb") as file:
        open_image(file)
        assert not file.closed
    before = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
    open_image(path)
    assert (os.listdir("/proc/self/fd") if sys.platform == "linux" else []) == before


def test_a_raw_stream_that_gives_few_bytes_at_a_time_is_read_whole():
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 10))

    assert grey(open_image(Slow(encoded(Image.new("L", (2, 1), 7), "PNG")))) == [[7, 7]]


def test_a_given_image_is_left_as_it_is():
    source = Image.new("RGB", (2, 2), "red")
    source.info["note"] = "kept"
    image = open_image(source)
    image.putpixel((0, 0), (0, 0, 0))
    assert source.getpixel((0, 0)) == (255, 0, 0)
    assert source.info == {"note": "kept"}
    assert image.info == {}


def test_alpha_is_composited_over_black():
    rgba = Image.new("RGBA", (1, 1), (200, 100, 50, 128))
    assert open_image(encoded(rgba, "PNG")).getpixel((0, 0)) == (100, 50, 25)
    assert open_image(rgba.convert("RGBa")).getpixel((0, 0)) == (100, 50, 25)
    assert grey(open_image(encoded(Image.new("LA", (1, 1), (200, 0)), "PNG"))) == [[0]]
    assert grey(open_image(Image.new("La", (1, 1), (100, 128)))) == [[100]]


def test_palette_colours_are_looked_up_and_their_transparency_is_black():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert [open_image(encoded(image, "PNG")).getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (40, 50, 60)]
    clear = open_image(encoded(image, "PNG", transparency=0))
    assert [clear.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (40, 50, 60)]
    assert open_image(image.convert("PA")).getpixel((1, 0)) == (40, 50, 60)


def test_a_transparent_colour_of_an_rgb_png_is_black():
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (8, 7, 6))
    opened = open_image(encoded(image, "PNG", transparency=(9, 9, 9)))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (8, 7, 6)]


def test_one_bit_grey_cmyk_and_ycbcr_become_rgb():
    assert grey(open_image(encoded(Image.new("1", (1, 1), 1), "PNG"))) == [[255]]
    assert grey(open_image(encoded(Image.new("L", (1, 1), 77), "PNG"))) == [[77]]
    # r = 255 - (c + k), as Pillow's naive conversion has it without black
    assert open_image(encoded(Image.new("CMYK", (1, 1), (255, 55, 0, 0)), "TIFF")).getpixel((0, 0)) == (0, 200, 255)
    # ITU-R BT.601: r = 100 + 1.402 * 50, g = 100 - 0.714 * 50, b = 100
    assert open_image(Image.new("YCbCr", (1, 1), (100, 128, 178))).getpixel((0, 0)) == (170, 64, 100)


def test_lab_becomes_rgb():
    # L* 100 is white and a* 0, b* 0 is grey: CIE L* 53.585 is sRGB 128
    lab = encoded(Image.merge("LAB", [Image.new("L", (1, 1), v) for v in (137, 128, 128)]), "TIFF")
    assert Image.open(io.BytesIO(lab)).mode == "LAB"
    assert np.abs(np.asarray(open_image(lab), int) - 128).max() <= 2


@pytest.mark.parametrize(("dtype", "kind"), [("<u2", "PNG"), ("<u2", "TIFF"), ("<i4", "TIFF"), ("<f4", "TIFF")])
def test_deep_grey_is_scaled_from_the_1st_to_the_99th_percentile(dtype, kind):
    data = encoded(Image.fromarray((RAMP * 500).astype(dtype)), kind)
    assert Image.open(io.BytesIO(data)).mode in {"I;16", "I", "F"}
    assert grey(open_image(data)) == RAMP_GREY
    assert (RAMP_GREY[0][0], RAMP_GREY[0][1], RAMP_GREY[0][50], RAMP_GREY[0][99]) == (0, 0, 128, 255)


def test_big_endian_deep_grey_is_read_as_numbers():
    image = Image.frombytes("I;16B", (101, 1), (RAMP * 500).astype(">u2").tobytes())
    assert grey(open_image(image)) == RAMP_GREY


def test_a_constant_deep_image_is_constant():
    assert grey(open_image(Image.fromarray(np.full((2, 2), 4000, np.uint16)))) == [[0, 0], [0, 0]]


def test_a_lesion_of_less_than_one_percent_stays_visible():
    values = np.full((20, 20), 1000, np.uint16)
    values[3, 4] = 3000
    assert np.asarray(open_image(Image.fromarray(values)))[3, 4].tolist() == [255, 255, 255]


def test_nan_is_black_and_infinities_are_the_ends():
    values = RAMP.astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    opened = grey(open_image(Image.fromarray(values)))[0]
    assert opened[:3] == [0, 255, 0]
    low, high = np.percentile(np.arange(3, 101), (1, 99))
    assert opened[50] == round((50 - low) / (high - low) * 255)
    assert grey(open_image(Image.fromarray(np.full((1, 2), np.nan, np.float32)))) == [[0, 0]]


@pytest.mark.parametrize("factor", [3e36, 1e-41, 1.0])
def test_floats_of_every_size_are_stretched_without_overflow(factor):
    values = ((RAMP - 50) * 2 * factor).astype(np.float32)  # to 3e38 on both sides, of the 3.4e38 that float32 holds
    opened = grey(open_image(Image.fromarray(values)))[0]
    assert np.abs(np.array(opened) - RAMP_GREY[0]).max() <= 1
    values[0, 1:3] = np.nan, np.inf
    assert grey(open_image(Image.fromarray(values)))[0][1:3] == [0, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "top_left", "top_right", "size"),
    [
        (1, "red", "lime", (32, 16)),
        (2, "lime", "red", (32, 16)),
        (3, "white", "blue", (32, 16)),
        (4, "blue", "white", (32, 16)),
        (5, "red", "blue", (16, 32)),
        (6, "blue", "red", (16, 32)),
        (7, "white", "lime", (16, 32)),
        (8, "lime", "white", (16, 32)),
    ],
)
def test_exif_orientation_is_undone_once(kind, orientation, top_left, top_right, size):
    stored = Image.new("RGB", (32, 16))
    for colour, corner in (("red", (0, 0)), ("lime", (16, 0)), ("blue", (0, 8)), ("white", (16, 8))):
        stored.paste(colour, (*corner, corner[0] + 16, corner[1] + 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(stored, kind, exif=exif))
    assert image.size == size
    for colour, place in ((top_left, (2, 2)), (top_right, (size[0] - 3, 2))):
        expected = np.array(Image.new("RGB", (1, 1), colour).getpixel((0, 0)))
        assert np.abs(np.array(image.getpixel(place)) - expected).max() < 60
    assert 0x0112 not in image.getexif()


@pytest.mark.parametrize("exif", [b"XX\0\x2a\0\0\0\x08", b"MM\0\x2a\0\0\0\x08\0\2\1\x0f\0\2\0\0\0\x40\0\0\0\x1a"])
def test_a_broken_exif_block_neither_spoils_the_picture_nor_warns(exif):
    # with a resolution, as else Pillow looks for one in the EXIF block while it opens the file
    data = encoded(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0" + exif, dpi=(72, 72))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert open_image(data).size == (8, 8)
    assert not caught


def test_importing_the_module_loads_neither_torch_nor_pandas_nor_pydicom():
    code = "import sys, processing.images; print({'torch', 'pandas', 'pydicom'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_slake_images_open_as_rgb_of_their_own_size():
    paths = sorted(SLAKE_DIR.glob("imgs/*/source.jpg"))
    if not paths:
        pytest.skip(f"no SLAKE images under {SLAKE_DIR}/imgs: set SLAKE_DIR to the SLAKE folder")
    for path in paths:
        with Image.open(path) as plain:
            size, pixels = plain.size, plain.convert("RGB").tobytes()
        image = open_image(path)
        assert (image.mode, image.size) == ("RGB", size)
        assert image.tobytes() == pixels
