"""processing.dicom: how the pixels of a file become grey or colours, and which files are refused."""

import io
import logging
import struct
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from processing.images import open_image
from tests.support.image_files import RAMP, RAMP_GREY, colour_dicom, dicom, encoded, grey, item, refusal


def test_the_whole_range_of_16_bits_neither_overflows_nor_wraps():
    assert grey(open_image(dicom(np.array([[-32768, 0, 32767]], np.int16)))) == [[0, 128, 255]]


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


@pytest.mark.parametrize(("bits", "high"), [(16, 15), (12, 11), (12, 15), (8, 7)])
def test_deep_ybr_dicom_is_turned_to_rgb_from_its_high_bits(bits, high):
    eight = np.array([[[100, 128, 178], [7, 128, 128]]], np.uint16)  # as in the test of 8 bits
    low_bits = (1 << (bits - 8)) - 1
    pixels = ((eight << (bits - 8)) | low_bits) << (high + 1 - bits)
    data = colour_dicom(pixels.astype(np.uint16), "YBR_FULL", BitsStored=bits, HighBit=high)
    assert np.asarray(open_image(data)).tolist() == [[[170, 64, 100], [7, 7, 7]]]


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


def test_a_dicom_without_preamble_is_known_by_its_first_element(tmp_path):
    data = dicom(RAMP.astype(np.uint16), preamble=False)
    for name in ("a.dcm", "A.DICOM", "a.png", "a"):
        (tmp_path / name).write_bytes(data)
        assert grey(open_image(tmp_path / name)) == RAMP_GREY
    assert grey(open_image(data)) == RAMP_GREY
    assert grey(open_image(b"DICM" + data)) == RAMP_GREY  # the preamble's 128 zeros alone are missing


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_a_dicom_without_any_file_header_is_read_in_its_own_encoding(tmp_path, implicit, little):
    dataset = pydicom.dcmread(io.BytesIO(dicom((RAMP * 100).astype(np.uint16))))
    del dataset.file_meta
    dataset.PixelData = (RAMP * 100).astype("<u2" if little else ">u2").tobytes()
    path = tmp_path / "a"
    pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    assert grey(open_image(path)) == RAMP_GREY
    assert grey(open_image(path.read_bytes())) == RAMP_GREY


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


def test_dicom_without_pixel_data_is_refused():
    dataset = pydicom.dcmread(io.BytesIO(dicom(np.zeros((2, 2), np.uint8))))
    del dataset.PixelData
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert "it is not a DICOM image (there is no pixel data); choose the file of an image" in refusal(
        buffer.getvalue()
    )
    assert "there is no pixel data" in refusal(get_testdata_file("rtplan.dcm", download=False))


@pytest.mark.parametrize(
    ("header", "fix"),
    [
        ({"syntax": "1.2.840.10008.1.2.1.99"}, "convert it to uncompressed DICOM or PNG"),
        ({"syntax": "1.2.840.10008.1.2.4.80", "PixelData": encapsulate([b"JPEG-LS."])}, "convert it to"),
        ({"syntax": "1.2.840.10008.1.2.4.50", "PixelData": encapsulate([b"no JPEG."])}, "convert it to uncompressed"),
        ({"PhotometricInterpretation": "CMYK"}, "convert it to uncompressed DICOM or PNG"),
        ({"Columns": 9000, "Rows": 9000}, "make it smaller"),
    ],
)
def test_a_refused_dicom_is_named_with_the_fix(tmp_path, header, fix):
    (tmp_path / "scan.dcm").write_bytes(dicom(np.zeros((2, 2), np.uint8), **header))
    message = refusal(tmp_path / "scan.dcm")
    assert f"{tmp_path}/scan.dcm': it" in message
    assert fix in message


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
