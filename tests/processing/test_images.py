"""``processing.images``: what it opens, what each pixel becomes, and what it refuses with which words."""

import io
import logging
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from processing.images import MAX_IMAGE_PIXELS, ImageError, ImageFacts, image_facts, open_image

SLAKE_DIR = Path(os.environ.get("SLAKE_DIR", "shared/data/slake"))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, *, syntax: str = "1.2.840.10008.1.2.1", preamble: bool = True, **header) -> bytes:
    """A DICOM file with a patient's name around ``pixels`` (rows, columns), (frames, rows, columns) or RGB."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    dataset.PatientName = "Secret^Patient"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in header.items():
        setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue() if preamble else buffer.getvalue()[132:]


def colour_dicom(pixels: np.ndarray, photometric: str = "RGB", **header) -> bytes:
    rows, columns, samples = pixels.shape
    options = {"SamplesPerPixel": samples, "PlanarConfiguration": 0, "PhotometricInterpretation": photometric}
    return dicom(pixels, Rows=rows, Columns=columns, **options, **header)


def item(**elements) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def grey(image: Image.Image) -> list:
    """The red channel as rows, after checking that the image is grey RGB."""
    array = np.asarray(image)
    assert image.mode == "RGB"
    assert (array == array[..., :1]).all()
    return array[..., 0].tolist()


def refusal(source, **options) -> str:
    """The message of the refusal, after checking that it is one clean sentence."""
    with pytest.raises(ImageError) as caught:
        open_image(source, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith("Cannot open ")
    assert message.endswith(".")
    assert "Secret" not in message
    return message


# Sources


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


# Conversions


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


# 0 .. 100 has the percentiles 1 and 99: a value v becomes (v - 1) / 98 * 255, clipped
RAMP = np.arange(101).reshape(1, 101)
RAMP_GREY = np.rint(np.clip((RAMP - 1) / 98 * 255, 0, 255)).astype(int).tolist()


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


def test_the_whole_range_of_16_bits_neither_overflows_nor_wraps():
    assert grey(open_image(dicom(np.array([[-32768, 0, 32767]], np.int16)))) == [[0, 128, 255]]


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


# DICOM


def test_a_ct_with_a_negative_intercept_is_windowed_in_hounsfield_units():
    stored = np.array([[0, 984, 1024, 1064, 1104, 4000]], np.uint16)
    data = dicom(stored, RescaleSlope=1, RescaleIntercept=-1024)
    # center 40, width 80: C.11.2.1.2.1 by hand, x in -1024, -40, 0, 40, 80, 2976
    # ((x - 39.5) / 79 + 0.5) * 255 = 0 for x = 0, 129.1 for 40, clipped for the rest
    assert grey(open_image(data, window=(40, 80))) == [[0, 0, 0, 129, 255, 255]]


def test_the_linear_window_follows_the_standards_examples():
    # PS3.3 C.11.2.1.2.1: center 2048 and width 4096 map 0 .. 4095 to the whole range,
    stored = np.array([[0, 1365, 4095]], np.uint16)
    assert grey(open_image(dicom(stored, WindowCenter=2048, WindowWidth=4096))) == [[0, 85, 255]]
    # center 0 and width 100: at or below -50 black, above 49 white,
    stored = np.array([[-51, -50, -49, 0, 49, 50]], np.int16)
    # (-49 + 0.5) / 99 + 0.5 = 0.0101 -> 2.58; 0.5 / 99 + 0.5 = 0.505 -> 128.8
    assert grey(open_image(dicom(stored, WindowCenter=0, WindowWidth=100))) == [[0, 0, 3, 129, 255, 255]]
    # and a width of 1 is a step at center - 0.5, for the values between as well.
    stored = np.array([[90, 94, 96, 100]], np.int16)
    step = dicom(stored, WindowCenter=10, WindowWidth=1, RescaleSlope=0.1, RescaleIntercept=0)
    assert grey(open_image(step)) == [[0, 0, 255, 255]]


def test_the_other_window_functions_of_the_header_are_followed():
    stored = np.array([[-50, 0, 25, 50]], np.int16)
    exact = dicom(stored, WindowCenter=0, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    assert grey(open_image(exact)) == [[0, 128, 191, 255]]
    # 255 / (1 + exp(-4 x / 100)): x = -50 -> 30.4, 25 -> 186.4, 50 -> 224.6
    sigmoid = dicom(stored, WindowCenter=0, WindowWidth=100, VOILUTFunction="SIGMOID")
    assert grey(open_image(sigmoid)) == [[30, 128, 186, 225]]
    moved = dicom(stored + 25, WindowCenter=25, WindowWidth=100, VOILUTFunction="SIGMOID")
    assert grey(open_image(moved)) == [[30, 128, 186, 225]]


def test_the_argument_beats_the_header_and_the_first_header_window_is_taken():
    stored = np.array([[0, 50, 100, 1000]], np.uint16)
    data = dicom(stored, WindowCenter=[50.5, 500], WindowWidth=[101, 1000], VOILUTFunction="SIGMOID")
    first = dicom(stored, WindowCenter=[50.5, 500], WindowWidth=[101, 1000])
    assert grey(open_image(first)) == [[0, 128, 255, 255]]
    # the argument is a linear window: (x - 0) / 1000 * 255
    assert grey(open_image(data, window=(500.5, 1001))) == [[0, 13, 26, 255]]


def test_a_header_window_without_a_width_falls_back_to_percentiles():
    data = dicom(RAMP.astype(np.uint16), WindowCenter=50, WindowWidth=0)
    assert grey(open_image(data)) == RAMP_GREY


def lookup_table(vr: str, first: int, bits: int, entries: list[int], **elements) -> Dataset:
    """A table item with its entries as numbers (VR US) or as bytes (VR OW)."""
    table = item(LUTDescriptor=[len(entries), first, bits], **elements)
    table.add_new("LUTData", vr, entries if vr == "US" else np.array(entries, "<u2").tobytes())
    return table


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_a_voi_table_is_used_when_there_is_no_window(vr):
    table = lookup_table(vr, 10, 8, [5, 100, 200])
    stored = np.array([[0, 10, 11, 12, 99]], np.uint8)
    assert grey(open_image(dicom(stored, VOILUTSequence=[table]))) == [[5, 5, 100, 200, 200]]
    windowed = dicom(stored, VOILUTSequence=[table], WindowCenter=10, WindowWidth=1)
    assert grey(open_image(windowed)) == [[0, 255, 255, 255, 255]]


def test_a_table_of_0_entries_has_65536():
    table = item(LUTDescriptor=[0, 0, 16], LUTData=np.arange(2**16)[::-1].astype("<u2").tobytes())
    table["LUTData"].VR = "OW"
    stored = np.array([[0, 2**15, 2**16 - 1]], np.uint16)
    assert grey(open_image(dicom(stored, VOILUTSequence=[table]))) == [[255, 127, 0]]


def test_the_bytes_of_a_big_endian_table_are_read_in_their_order():
    table = item(LUTDescriptor=[3, 0, 16])
    table.add_new("LUTData", "OW", np.array([0, 500, 1000], ">u2").tobytes())
    stored = np.array([[0, 1, 2]], np.uint8)
    window = {"ModalityLUTSequence": [table], "WindowCenter": 500.5, "WindowWidth": 1001}
    assert grey(open_image(dicom(stored, syntax="1.2.840.10008.1.2.2", **window))) == [[0, 128, 255]]


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_a_modality_table_is_applied_before_the_window(vr):
    table = lookup_table(vr, 0, 16, [1000, 0, 500], ModalityLUTType="HU")
    stored = np.array([[0, 1, 2]], np.uint8)
    data = dicom(stored, ModalityLUTSequence=[table], WindowCenter=500.5, WindowWidth=1001)
    assert grey(open_image(data)) == [[255, 0, 128]]


def test_without_a_window_the_percentiles_scale_the_grey_values():
    assert grey(open_image(dicom(RAMP.astype(np.int16) - 500))) == RAMP_GREY


@pytest.mark.parametrize("padding", [-2000, 63536])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_signed_padding_stays_out_of_the_percentiles_and_is_black(padding, photometric):
    stored = np.concatenate([np.full((1, 30), -2000), RAMP], axis=1).astype(np.int16)
    data = bytearray(dicom(stored, PhotometricInterpretation=photometric, PixelPaddingValue=-2000))
    if padding > 0:  # some writers give the unsigned number with VR US
        at = data.index(b"\x28\x00\x20\x01SS")
        data[at + 4 : at + 6] = b"US"
    opened = grey(open_image(bytes(data)))[0]
    assert opened[:30] == [0] * 30
    assert opened[30:] == (RAMP_GREY[0] if photometric == "MONOCHROME2" else [255 - v for v in RAMP_GREY[0]])


def test_a_padding_range_is_excluded_whole():
    stored = np.concatenate([[[900, 950, 999]], RAMP], axis=1).astype(np.uint16)
    data = dicom(stored, PixelPaddingValue=1000, PixelPaddingRangeLimit=900)
    assert grey(open_image(data)) == [[0, 0, 0, *RAMP_GREY[0]]]


def test_monochrome1_is_inverted():
    stored = np.array([[0, 51, 255]], np.uint8)
    data = dicom(stored, PhotometricInterpretation="MONOCHROME1", WindowCenter=128, WindowWidth=256)
    assert grey(open_image(data)) == [[255, 204, 0]]


def test_the_first_frame_of_a_dicom_is_taken():
    stored = np.stack([RAMP, RAMP[:, ::-1]]).astype(np.uint16)
    assert grey(open_image(dicom(stored, NumberOfFrames=2))) == RAMP_GREY


def test_an_enhanced_file_uses_the_window_and_rescale_of_its_first_frame():
    rescale = item(RescaleSlope=2, RescaleIntercept=-100, RescaleType="HU")
    shared = item(PixelValueTransformationSequence=[rescale])
    frames = [item(FrameVOILUTSequence=[item(WindowCenter=c, WindowWidth=101)]) for c in (0.5, 500)]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    stored = np.array([[[50, 65, 75]], [[0, 0, 0]]], np.uint16)
    # 0, 30 and 50 through (x + 50) / 100 * 255
    assert grey(open_image(dicom(stored, NumberOfFrames=2, **groups))) == [[128, 204, 255]]


def test_rgb_and_ybr_dicom_keep_their_colours():
    pixels = np.array([[[200, 10, 30], [0, 255, 7]]], np.uint8)
    assert np.asarray(open_image(colour_dicom(pixels))).tolist() == pixels.tolist()
    # JPEG's BT.601: y 100, cr 178 is r = 170, g = 64, b = 100
    ybr = np.array([[[100, 128, 178]]], np.uint8)
    assert open_image(colour_dicom(ybr, "YBR_FULL")).getpixel((0, 0)) == (170, 64, 100)


def test_deep_rgb_dicom_keeps_its_high_bits():
    pixels = np.array([[[0xC8FF, 0x0A00, 0x1E80]]], np.uint16)
    assert open_image(colour_dicom(pixels)).getpixel((0, 0)) == (0xC8, 0x0A, 0x1E)


def test_planar_rgb_dicom_is_interleaved():
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    planar = np.moveaxis(pixels, -1, 0).tobytes()
    data = colour_dicom(pixels, PixelData=planar).replace(b"\x28\0\6\0US\2\0\0\0", b"\x28\0\6\0US\2\0\1\0")
    assert np.asarray(open_image(data)).tolist() == pixels.tolist()


@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (16, 256)])
def test_palette_dicom_is_looked_up_and_clipped_at_both_ends(bits, scale):
    header = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, entries in (("Red", [10, 20]), ("Green", [30, 40]), ("Blue", [50, 60])):
        header[f"{colour}PaletteColorLookupTableDescriptor"] = [2, 5, bits]
        table = (np.array(entries) * scale).astype(f"<u{bits // 8}").tobytes()
        header[f"{colour}PaletteColorLookupTableData"] = table
    opened = np.asarray(open_image(dicom(np.array([[0, 5, 6, 9]], np.uint8), **header)))
    assert opened.tolist() == [[[10, 30, 50], [10, 30, 50], [20, 40, 60], [20, 40, 60]]]


def test_a_dicom_without_preamble_opens_only_under_a_dcm_name(tmp_path):
    data = dicom(RAMP.astype(np.uint16), preamble=False)
    for name in ("a.dcm", "A.DICOM"):
        (tmp_path / name).write_bytes(data)
        assert grey(open_image(tmp_path / name)) == RAMP_GREY
    assert "not a known image" in refusal(data)


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_a_dicom_without_any_file_header_is_read_in_its_own_encoding(tmp_path, implicit, little):
    dataset = pydicom.dcmread(io.BytesIO(dicom((RAMP * 100).astype(np.uint16))))
    del dataset.file_meta
    dataset.PixelData = (RAMP * 100).astype("<u2" if little else ">u2").tobytes()
    path = tmp_path / "a.dcm"
    pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    assert grey(open_image(path)) == RAMP_GREY


def test_a_dicom_is_known_by_its_content_whatever_its_name(tmp_path):
    path = tmp_path / "scan.jpg"
    path.write_bytes(dicom(RAMP.astype(np.uint16)))
    assert grey(open_image(path)) == RAMP_GREY


def test_pydicoms_ct_and_mr_samples_give_the_pixels_of_the_formula():
    ct = open_image(get_testdata_file("CT_small.dcm", download=False))
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    units = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    real = units[dataset.pixel_array != dataset.PixelPaddingValue]
    low, high = np.percentile(real, (1, 99))
    expected = np.clip((units - low) / (high - low) * 255, 0, 255)
    assert np.abs(np.asarray(ct)[..., 0] - expected).max() <= 0.51
    mr = open_image(get_testdata_file("MR_small.dcm", download=False))
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    center, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    expected = np.clip(((dataset.pixel_array - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
    assert np.abs(np.asarray(mr)[..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("kind", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "padded"])
def test_every_encoding_of_one_mr_gives_the_same_picture(kind):
    plain = open_image(get_testdata_file("MR_small.dcm", download=False))
    assert open_image(get_testdata_file(f"MR_small_{kind}.dcm", download=False)).tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", ["SC_rgb_rle", "SC_rgb_rle_16bit", "SC_rgb_dcmtk_+eb+cr", "SC_rgb_jpeg_dcmtk"])
def test_colour_samples_show_the_colour_bars(name):
    image = open_image(get_testdata_file(f"{name}.dcm", download=False))
    expected = {5: (255, 0, 0), 25: (0, 255, 0), 45: (0, 0, 255), 95: (255, 255, 255)}
    for row, colour in expected.items():
        assert np.abs(np.array(image.getpixel((50, row))) - colour).max() <= 6  # one of them is a lossy JPEG


def test_pydicoms_warnings_and_log_stay_off_the_console(caplog):
    data = dicom(np.zeros((4, 4), np.uint16), NumberOfFrames=0, PixelData=bytes(33))
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        assert open_image(data).size == (4, 4)
    assert not caplog.records
    assert logging.getLogger("pydicom").propagate


# Refusals


def test_missing_folder_empty_and_impossible_paths_are_told_apart(tmp_path):
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
    assert "a int is no image; give a path" in refusal(3)
    assert "a NoneType is no image" in refusal(None)
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


def png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10**6), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("side", "figure"),
    [(7_100, "7100 x 7100 = 50,410,000"), (10_000, "10000 x 10000 = 100,000,000"), (60_000, "more than 178,956,970")],
)
def test_a_decompression_bomb_is_refused_before_decoding(side, figure, monkeypatch):
    def explode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own warning must not come out either
        message = refusal(png_bomb(side, side))
    assert f"it has {figure} pixels, above the limit max_pixels = {MAX_IMAGE_PIXELS:,};" in message
    assert time.perf_counter() - start < 1


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


def test_dicom_without_pixel_data_is_refused():
    dataset = pydicom.dcmread(io.BytesIO(dicom(np.zeros((2, 2), np.uint8))))
    del dataset.PixelData
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert "no DICOM image (there is no pixel data); choose the file of an image" in refusal(buffer.getvalue())
    assert "there is no pixel data" in refusal(get_testdata_file("rtplan.dcm", download=False))


@pytest.mark.parametrize(
    ("header", "mend"),
    [
        ({"syntax": "1.2.840.10008.1.2.1.99"}, "convert it to uncompressed DICOM or PNG"),
        ({"syntax": "1.2.840.10008.1.2.4.80", "PixelData": encapsulate([b"JPEG-LS."])}, "convert it to"),
        ({"syntax": "1.2.840.10008.1.2.4.50", "PixelData": encapsulate([b"no JPEG."])}, "convert it to uncompressed"),
        ({"PhotometricInterpretation": "CMYK"}, "convert it to uncompressed DICOM or PNG"),
        ({"Columns": 9000, "Rows": 9000}, "make it smaller"),
    ],
)
def test_a_refused_dicom_is_named_with_the_mend(tmp_path, header, mend):
    (tmp_path / "scan.dcm").write_bytes(dicom(np.zeros((2, 2), np.uint8), **header))
    message = refusal(tmp_path / "scan.dcm")
    assert f"{tmp_path}/scan.dcm': it" in message
    assert mend in message


def test_dicom_with_too_many_pixels_is_refused_from_its_header():
    data = dicom(np.zeros((2, 2), np.uint8), Rows=60_000, Columns=60_000)
    assert "it has 60000 x 60000 = 3,600,000,000 pixels, above the limit max_pixels = 50,000,000" in refusal(data)


def test_unsupported_transfer_syntaxes_are_named_unless_the_name_is_the_files_own_text():
    known = refusal(get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False))
    assert "its transfer syntax JPEG-LS Lossless Image Compression is not supported; convert it to" in known
    assert "Deflated Explicit VR" in refusal(get_testdata_file("image_dfl.dcm", download=False))
    assert "12-bit JPEG is not" in refusal(get_testdata_file("JPEG-lossy.dcm", download=False))
    data = dicom(np.zeros((2, 2), np.uint8)).replace(b"1.2.840.10008.1.2.1\0", b"Secret^Patient 1960\0")
    assert "its transfer syntax (unregistered) is not supported" in refusal(data)


def test_a_deflated_dicom_bomb_is_refused_before_it_inflates(monkeypatch):
    plain = dicom(np.zeros((2, 2), np.uint8))
    data = plain.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")

    def explode(*_):
        raise AssertionError("inflated")

    monkeypatch.setattr(zlib, "decompress", explode)
    assert "Deflated" in refusal(data)


def test_a_compressed_dicom_frame_larger_than_its_header_is_refused_before_it_inflates(monkeypatch):
    jpeg = encoded(Image.new("L", (3000, 3000)), "JPEG")
    syntax = "1.2.840.10008.1.2.4.50"
    small = encapsulate([encoded(Image.new("L", (8, 8), 70), "JPEG")])
    header = {"syntax": syntax, "WindowCenter": 128, "WindowWidth": 256}
    pixels = np.zeros((8, 8), np.uint8)
    assert np.abs(np.array(grey(open_image(dicom(pixels, PixelData=small, **header)))) - 70).max() <= 1
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *_, **__: pytest.fail("inflated"))
    assert "cut off or damaged" in refusal(dicom(pixels, PixelData=encapsulate([jpeg]), **header))


def test_an_extended_offset_table_cannot_swap_the_frame_after_the_check():
    frames = [encoded(Image.new("L", size, 70), "JPEG") for size in ((8, 8), (3000, 3000))]
    frames = [frame + bytes(len(frame) % 2) for frame in frames]
    data = dicom(
        np.zeros((8, 8), np.uint8),
        syntax="1.2.840.10008.1.2.4.50",
        PixelData=encapsulate(frames, has_bot=False),
        NumberOfFrames=2,
        ExtendedOffsetTable=struct.pack("<2Q", len(frames[0]) + 8, 0),
        ExtendedOffsetTableLengths=struct.pack("<2Q", len(frames[1]), len(frames[0])),
        WindowCenter=128,
        WindowWidth=256,
    )
    assert open_image(data).size == (8, 8)


def test_an_rle_frame_with_far_more_data_than_pixels_is_refused_before_it_inflates(monkeypatch):
    def rle(pixels: np.ndarray, size: int) -> bytes:
        frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x07" * (size // 2 - 32)
        return dicom(pixels, syntax="1.2.840.10008.1.2.5", PixelData=encapsulate([frame]))

    pixels = np.zeros((64, 64), np.uint8)
    assert open_image(rle(pixels, 2 * pixels.size + 4096)).size == (64, 64)
    monkeypatch.setattr("pydicom.pixels.decoders.rle._rle_decode_segment", lambda _: pytest.fail("inflated"))
    assert "cut off or damaged" in refusal(rle(pixels, 2 * pixels.size + 4098))


def test_unknown_photometric_interpretations_are_refused_without_quoting_them():
    message = refusal(dicom(np.zeros((2, 2), np.uint8), PhotometricInterpretation="SECRET"))
    assert "its photometric interpretation is none of MONOCHROME1, MONOCHROME2" in message
    assert "SECRET" not in message


@pytest.mark.parametrize("window", [(40, 0), (40, -5), (float("nan"), 80), (40, float("inf"))])
def test_impossible_windows_are_refused(window):
    message = refusal(dicom(RAMP.astype(np.uint16)), window=window)
    assert "the window is not (center, width) with a width of at least 1" in message


def test_the_cause_with_the_decoders_text_is_not_shown():
    with pytest.raises(ImageError) as caught:
        open_image(encoded(Image.new("RGB", (64, 64)), "BMP")[:-9])
    assert caught.value.__suppress_context__


# Robustness


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


# Facts ---------------------------------------------------------------------------------------------------------------


def test_facts_of_a_dicom_file_hold_what_a_viewer_needs():
    facts = image_facts(get_testdata_file("CT_small.dcm"))
    assert facts.format == "DICOM"
    assert facts.details == {"Modality": "CT", "Pixel spacing": "0.661468 x 0.661468 mm", "Slice thickness": "5 mm"}
    stored = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    values = stored.pixel_array * float(stored.RescaleSlope) + float(stored.RescaleIntercept)
    assert facts.value_range == (values.min(), values.max())
    low, high = np.percentile(values[stored.pixel_array != stored.PixelPaddingValue], (1, 99))
    assert facts.window == pytest.approx(((low + high) / 2, high - low))


def test_facts_show_no_text_of_a_dicom_header():
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    secret = "Doe^Jane"
    dataset.PatientName = dataset.PatientID = dataset.Modality = dataset.StudyDescription = secret
    dataset.WindowCenter, dataset.WindowWidth = 600, 1600
    file = io.BytesIO()
    dataset.save_as(file)
    facts = image_facts(file.getvalue())
    assert "Doe" not in repr(facts)
    assert facts.window == (600, 1600)


def test_facts_of_a_dicom_file_follow_its_frames_and_window_function():
    stored = np.array([[[0, 50, 100]], [[7, 7, 7]]], np.uint16)
    window = {"WindowCenter": 50, "WindowWidth": 0.5}
    frames = {"NumberOfFrames": 2, "SliceThickness": "0"}
    # half a unit is a width for LINEAR_EXACT (PS3.3 C.11.2.1.3) and none for LINEAR: then percentiles 1 and 99
    exact = image_facts(dicom(stored, VOILUTFunction="LINEAR_EXACT", **window, **frames))
    assert exact.details == {"Frames": "2, of which the first is shown"}
    assert (exact.window, exact.value_range) == ((50, 0.5), (0, 100))
    linear = image_facts(dicom(stored, **window, **frames))
    assert linear.window == pytest.approx((50, 98))
    flat = image_facts(dicom(np.full((2, 2), 9, np.uint8)))
    assert (flat.window, flat.value_range) == ((9, 1), (9, 9))


def test_facts_of_colour_and_of_nothing_but_padding_have_no_window():
    assert image_facts(colour_dicom(np.zeros((2, 2, 3), np.uint8), Modality="US")) == ImageFacts(
        "DICOM", {"Modality": "Ultrasound"}
    )
    assert image_facts(dicom(np.zeros((2, 2), np.uint8), PixelPaddingValue=0)) == ImageFacts("DICOM", {})


def test_facts_of_other_files_are_their_format(tmp_path):
    assert image_facts(encoded(Image.new("RGB", (4, 3)), "PNG")) == ImageFacts("PNG")
    path = tmp_path / "scan.png"
    broken = {"no image": b"no image", "bytes": bytes(50), "pixels": encoded(Image.new("L", (9, 9)), "PNG")}
    broken["DICOM"] = dicom(
        np.zeros((9, 9), np.uint8), syntax="1.2.840.10008.1.2.4.80", PixelData=encapsulate([b"JPEG-LS."])
    )
    for content in broken.values():
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r"^Cannot open '/.*/scan\.png': "):
            image_facts(path, max_bytes=49 if content == bytes(50) else 10_000, max_pixels=80)
