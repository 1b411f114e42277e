"""processing.images: what it refuses, with which words, before it costs time or memory."""

import io
import os
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from pydicom.data import get_testdata_file

from processing.images import MAX_IMAGE_PIXELS, ImageError, open_image
from tests.support.image_files import RAMP, colour_dicom, dicom, encoded, png_bomb, refusal


def test_missing_files_folders_empty_files_and_impossible_paths_have_their_own_messages(tmp_path):
    empty = tmp_path / "empty.png"
    empty.touch()
    assert refusal(tmp_path / "no.png") == f"Cannot open '{tmp_path}/no.png': it does not exist; check the path."
    assert "does not exist" in refusal(empty / "inside.png")
    assert "it is a folder; name a file inside it" in refusal(tmp_path)
    assert refusal(empty) == f"Cannot open '{empty}': it is empty (0 bytes); export or download it again."
    assert refusal(b"").startswith("Cannot open the image: it is empty")
    assert "path is not valid" in refusal("a\0b.png")
    assert "path is not valid" in refusal("x" * 5000)
    assert len(refusal("x" * 5000)) < 400
    assert refusal("").startswith("Cannot open '': ")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFO files")
def test_pipes_and_devices_are_refused_without_waiting(tmp_path):
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    for path in (fifo, "/dev/zero", "/dev/null"):
        assert "it is a pipe, socket or device and not a regular file" in refusal(path)


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"x")

    def deny(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)  # root may read everything, so the mode bits can't be the test
    assert "not permitted; change its permissions" in refusal(path)


def test_names_are_escaped_in_messages(tmp_path):
    message = refusal(tmp_path / "a\nb\x1b[31m\u202e.png")
    assert r"a\nb\x1b[31m\u202e.png" in message
    upload = io.BytesIO(b"no image")
    upload.name = "a\r\nSet-Cookie: x"
    assert r"'a\r\nSet-Cookie: x'" in refusal(upload)


def test_things_that_are_no_source_are_refused():
    assert "an object of type int is not an image; give a path" in refusal(3)
    assert "an object of type NoneType is not an image" in refusal(None)
    assert "open it with mode 'rb'" in refusal(io.StringIO("text"))
    closed = io.BytesIO(b"x")
    closed.close()
    assert "reading it failed" in refusal(closed)


def test_bytes_limit_is_checked_before_reading(tmp_path, monkeypatch):
    path = tmp_path / "big.png"
    with path.open("wb") as file:
        file.truncate(2**40)  # a sparse terabyte
    assert "it has 1,099,511,627,776 bytes, above the limit max_bytes = 67,108,864; make it smaller" in refusal(path)
    assert "it has 11 bytes, above the limit max_bytes = 10;" in refusal(b"x" * 11, max_bytes=10)

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size=-1):
            self.given += size
            return bytes(size)

    endless = Endless()
    assert "it has more than 5,000,000 bytes, above the limit max_bytes = 5,000,000" in refusal(
        endless, max_bytes=5 * 10**6
    )
    assert endless.given == 5 * 10**6 + 1


def test_a_stream_that_gives_more_than_asked_is_stopped_too():
    class Generous(io.RawIOBase):
        def read(self, size=-1):
            assert size > 0, "asked for everything"
            return bytes(size + 1000)

    assert "above the limit max_bytes = 5,000,000" in refusal(Generous(), max_bytes=5 * 10**6)


def test_a_file_of_just_the_limits_opens():
    data = encoded(Image.new("L", (10, 10)), "PNG")
    assert open_image(data, max_bytes=len(data), max_pixels=100).size == (10, 10)
    assert "it has 10 x 10 = 100 pixels, above the limit max_pixels = 99;" in refusal(data, max_pixels=99)
    assert "max_pixels = 99" in refusal(Image.new("L", (10, 10)), max_pixels=99)
    assert "max_bytes" in refusal(data, max_bytes=len(data) - 1)


@pytest.mark.parametrize(
    ("side", "figure"),
    [(7_100, "7100 x 7100 = 50,410,000"), (10_000, "10000 x 10000 = 100,000,000"), (60_000, "more than 178,956,970")],
)
def test_a_decompression_bomb_is_refused_before_decoding(side, figure, monkeypatch):
    def explode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own warning must not come out either
        message = refusal(png_bomb(side, side))
    assert f"it has {figure} pixels, above the limit max_pixels = {MAX_IMAGE_PIXELS:,};" in message


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc, which only Linux has")
def test_a_decompression_bomb_takes_no_memory(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_bomb(13_000, 13_000))  # 507 MB as RGB
    (tmp_path / "bomb.dcm").write_bytes(dicom(np.zeros((2, 2), np.uint8), Rows=60_000, Columns=60_000))
    code = """
import sys
from processing.images import ImageError, open_image
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
import pydicom.pixels
before = peak()
for path in sys.argv[1:]:
    try: open_image(path)
    except ImageError as error: assert "max_pixels" in str(error), error
    else: raise SystemExit("opened")
print(peak() - before)
"""
    paths = [str(tmp_path / "bomb.png"), str(tmp_path / "bomb.dcm")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 30


def test_raising_the_limit_lets_a_large_image_through_pillows_own_warning():
    data = encoded(Image.new("1", (9500, 9500)), "PNG")  # 90 million pixels: Pillow warns from 89 million
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(data, max_pixels=10**8).size == (9500, 9500)


def test_pillows_global_switches_are_untouched():
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    open_image(encoded(Image.new("L", (2, 2)), "PNG"))
    open_image(dicom(RAMP.astype(np.uint16)))
    refusal(png_bomb(60_000, 60_000))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


@pytest.mark.parametrize("kind", ["PPM", "PCX", "EPS", "ICO"])
def test_formats_off_the_list_are_not_opened(kind):
    message = refusal(encoded(Image.new("RGB", (16, 16)), kind))
    assert "not a known image; convert it to PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM" in message


def test_cut_off_and_damaged_files_are_refused(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        data = encoded(noise, kind)
        assert "cut off or damaged; export or download it again" in refusal(data[: len(data) // 2])
    assert "not a known image" in refusal(b"just text")
    assert "cut off or damaged" in refusal(dicom(RAMP.astype(np.uint16))[:-50])
    damaged = bytearray(encoded(noise, "PNG"))
    damaged[len(damaged) // 2] ^= 255
    assert "cut off or damaged" in refusal(bytes(damaged))


def test_images_without_pixels_are_refused():
    assert "it has no pixels (0 x 5)" in refusal(Image.new("RGB", (0, 5)))
    assert "it has no pixels (2 x 0)" in refusal(dicom(np.zeros((2, 2), np.uint8), Rows=0))
    refusal(png_bomb(0, 5))


@pytest.mark.parametrize("window", [(40, 0), (40, -5), (float("nan"), 80), (40, float("inf"))])
def test_impossible_windows_are_refused(window):
    message = refusal(dicom(RAMP.astype(np.uint16)), window=window)
    assert "the window is not (center, width) with a width above 0" in message


def test_the_cause_with_the_decoders_text_is_not_shown():
    with pytest.raises(ImageError) as caught:
        open_image(encoded(Image.new("RGB", (64, 64)), "BMP")[:-9])
    assert caught.value.__suppress_context__


@cache
def valid_files() -> dict[str, bytes]:
    ramp = np.add.outer(np.arange(24), np.arange(24) * 4).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp.T, ramp[::-1]], axis=-1))
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = {f"{c}PaletteColorLookupTable{p}": v for c in ("Red", "Green", "Blue") for p, v in
               (("Descriptor", [256, 0, 8]), ("Data", bytes(range(256))))}  # fmt: skip
    files = {kind: encoded(image, kind, exif=exif) for kind in ("PNG", "JPEG", "WEBP")}
    files |= {kind: encoded(image, kind) for kind in ("GIF", "BMP")}
    files |= {f"TIFF {c}": encoded(image, "TIFF", compression=c) for c in ("raw", "tiff_lzw", "tiff_adobe_deflate")}
    files |= {
        "DICOM grey": dicom(ramp.astype(np.int16), RescaleSlope=2, RescaleIntercept=-9, PixelPaddingValue=3),
        "DICOM window": dicom(ramp, WindowCenter=50, WindowWidth=100, PhotometricInterpretation="MONOCHROME1"),
        "DICOM colour": colour_dicom(np.asarray(image)),
        "DICOM palette": dicom(ramp, PhotometricInterpretation="PALETTE COLOR", **palette),
        "DICOM RLE": Path(get_testdata_file("MR_small_RLE.dcm", download=False)).read_bytes(),
        "DICOM JPEG": Path(get_testdata_file("SC_rgb_small_odd_jpeg.dcm", download=False)).read_bytes(),
    }
    return files


@settings(max_examples=500, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_corrupted_file_gives_an_rgb_image_or_an_image_error(data):
    original = valid_files()[data.draw(st.sampled_from(sorted(valid_files())))]
    broken = bytearray(original)
    # headers decide most, so half of the changes go there
    places = st.integers(0, len(broken) - 1) | st.integers(0, min(600, len(broken) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        broken[place] = value
    del broken[data.draw(st.just(len(broken)) | st.integers(1, len(broken))) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = open_image(bytes(broken), max_pixels=10**6)
        except ImageError:
            return
    assert image.mode == "RGB"
    assert 0 < image.width * image.height <= 10**6
    assert image.tobytes()
