"""processing.dicom_header: elements that are missing, empty or hold a text, each mended or named."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate

from processing.images import image_facts, open_image
from tests.support.image_files import RAMP, RAMP_GREY, colour_dicom, dicom, encoded, grey, item, refusal

DEEP = RAMP.astype(np.uint16)
COLOURS = np.array([[[200, 10, 30], [0, 255, 7], [1, 2, 3], [4, 5, 6]]], np.uint8)


def emptied(data: bytes, keyword: str) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    setattr(dataset, keyword, None)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "keyword",
    [
        "PixelRepresentation",
        "PhotometricInterpretation",
        "SamplesPerPixel",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "NumberOfFrames",
    ],
)
def test_a_missing_or_empty_element_with_one_sure_value_has_it(keyword):
    header = {"NumberOfFrames": 1}
    assert grey(open_image(dicom(DEEP, **header | {keyword: None}))) == RAMP_GREY
    assert grey(open_image(emptied(dicom(DEEP, **header), keyword))) == RAMP_GREY


@pytest.mark.parametrize("keyword", ["NumberOfFrames", "HighBit", "PixelPaddingValue", "WindowCenter", "WindowWidth"])
def test_a_text_in_an_element_that_can_be_done_without_is_not_followed(keyword):
    header = {"WindowCenter": 30, "WindowWidth": 10} if "Window" in keyword else {}
    header.pop(keyword, None)
    assert grey(open_image(dicom(DEEP, texts={keyword: "about forty"}, **header))) == RAMP_GREY


@pytest.mark.parametrize("keyword", ["SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"])
def test_colours_are_known_without_their_elements(keyword):
    header = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0} | {keyword: None}
    data = dicom(COLOURS, Rows=1, Columns=4, **header)
    assert np.asarray(open_image(data)).tolist() == COLOURS.tolist()


def test_colours_are_known_without_samples_and_photometric_interpretation_by_their_number():
    data = dicom(COLOURS, Rows=1, Columns=4, SamplesPerPixel=None, PhotometricInterpretation=None)
    assert np.asarray(open_image(data)).tolist() == COLOURS.tolist()


@pytest.mark.parametrize(("dtype", "pixels"), [(np.uint8, 5), (np.uint8, 4), (np.uint16, 5), (np.int16, 4)])
def test_the_allocated_bits_are_known_by_the_size_of_the_pixels(dtype, pixels):
    stored = np.arange(pixels, dtype=dtype).reshape(1, pixels) * 20
    expected = grey(open_image(dicom(stored)))
    assert grey(open_image(dicom(stored, BitsAllocated=None))) == expected
    assert grey(open_image(dicom(stored, BitsAllocated=None, BitsStored=None, HighBit=None))) == expected


def test_the_sign_of_a_jpeg_2000_is_known_by_its_codestream():
    dataset = pydicom.dcmread(get_testdata_file("MR_small_jp2klossless.dcm", download=False))
    expected = open_image(get_testdata_file("MR_small_jp2klossless.dcm", download=False)).tobytes()
    del dataset.PixelRepresentation
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert open_image(buffer.getvalue()).tobytes() == expected


@pytest.mark.parametrize(
    ("keyword", "tag"),
    [("Rows", "0028,0010"), ("Columns", "0028,0011")],
)
def test_a_missing_size_is_named(keyword, tag):
    side = {"Rows": "height", "Columns": "width"}[keyword]
    expected = (
        f"Cannot open the image: its header has no {keyword} ({tag}), the {side} of the picture; export it again."
    )
    assert refusal(dicom(DEEP, **{keyword: None})) == expected
    assert refusal(emptied(dicom(DEEP), keyword)) == expected


@pytest.mark.parametrize(
    ("keyword", "tag"),
    [
        ("Rows", "0028,0010"),
        ("Columns", "0028,0011"),
        ("SamplesPerPixel", "0028,0002"),
        ("BitsAllocated", "0028,0100"),
        ("BitsStored", "0028,0101"),
        ("PixelRepresentation", "0028,0103"),
        ("RescaleSlope", "0028,1053"),
        ("RescaleIntercept", "0028,1052"),
    ],
)
@pytest.mark.parametrize("text", ["Secret", "1.2.3", "1,2,3", "nan", "inf"])
def test_a_text_in_a_number_is_named_and_not_quoted(keyword, tag, text):
    message = refusal(dicom(DEEP, texts={keyword: text}))
    expected = f"its {keyword} ({tag}) is not a number; correct the element or export the file again."
    assert message == f"Cannot open the image: {expected}"


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"BitsAllocated": 7}, "its BitsAllocated (0028,0100) is 7, which is none of 1, 8, 16, 32, 64"),
        ({"BitsStored": 40}, "its BitsStored (0028,0101) is 40 of 16 bits"),
        ({"BitsStored": 0, "HighBit": 0}, "its BitsStored (0028,0101) is 0 of 16 bits"),
        ({"SamplesPerPixel": 4}, "its SamplesPerPixel (0028,0002) is 4, which is none of 1, 3"),
        ({"PixelRepresentation": 2}, "its PixelRepresentation (0028,0103) is 2, which is none of 0, 1"),
        ({"texts": {"Rows": "1.5"}}, "its Rows (0028,0010) is not a whole number"),
        ({"texts": {"Rows": "-1"}}, "its Rows (0028,0010) is not a whole number"),
        ({"BitsAllocated": None, "Columns": 77}, "its header has no BitsAllocated (0028,0100)"),
        ({"Columns": 202}, "its header asks for 404 bytes of pixels, and it has 202"),
    ],
)
def test_an_impossible_number_is_named(header, problem):
    assert problem in refusal(dicom(DEEP, **header))


def comma(data: bytes, point: bytes) -> bytes:
    """The file with a comma in the place of the point in a number."""
    assert data.count(point) == 1
    return data.replace(point, point.replace(b".", b","))


def test_a_decimal_comma_is_a_point():
    stored = np.array([[0, 20, 40, 60]], np.uint16)
    window = {"WindowCenter": 50, "WindowWidth": 101}
    slope = dicom(stored, RescaleSlope="1.50", RescaleIntercept="0", **window)
    assert grey(open_image(comma(slope, b"1.50"))) == grey(open_image(slope)) == [[1, 78, 154, 231]]
    intercept = dicom(stored, RescaleSlope="1", RescaleIntercept="10.5", **window)
    assert grey(open_image(comma(intercept, b"10.5"))) == grey(open_image(intercept)) == [[28, 79, 130, 181]]
    centre = dicom(stored, WindowCenter="30.5", WindowWidth="61")
    assert grey(open_image(comma(centre, b"30.5"))) == grey(open_image(centre)) == [[0, 85, 170, 255]]
    spacing = dicom(stored, PixelSpacing=["0.25", "0.75"])
    assert image_facts(comma(spacing, b"0.25\\0.75")).details == {"Pixel spacing": "0.25 x 0.75 mm"}


def test_a_decimal_comma_in_the_groups_of_an_enhanced_file_is_a_point():
    rescale = item(RescaleSlope="2.50", RescaleIntercept="0", RescaleType="US")
    window = item(WindowCenter="50", WindowWidth="101")
    groups = {"PixelValueTransformationSequence": [rescale], "FrameVOILUTSequence": [window]}
    stored = np.array([[[0, 20, 40]]], np.uint16)
    data = dicom(stored, NumberOfFrames=1, SharedFunctionalGroupsSequence=[item(**groups)])
    assert grey(open_image(comma(data, b"2.50"))) == grey(open_image(data)) == [[1, 129, 255]]


def test_a_slope_of_0_which_leaves_nothing_is_1():
    assert grey(open_image(dicom(DEEP, RescaleSlope=0, RescaleIntercept=-9))) == RAMP_GREY


def test_broken_tables_are_named_or_done_without():
    broken = item(LUTDescriptor=[3, 0, 16], ModalityLUTType="HU")
    message = refusal(dicom(DEEP, ModalityLUTSequence=[broken]))
    assert "the table in its ModalityLUTSequence (0028,3000) is not readable; correct the element or" in message
    assert grey(open_image(dicom(DEEP, VOILUTSequence=[broken]))) == RAMP_GREY
    palette = dicom(np.zeros((2, 2), np.uint8), PhotometricInterpretation="PALETTE COLOR")
    message = refusal(palette)
    assert "its RedPaletteColorLookupTableData (0028,1201) or the descriptor is missing or not readable; ex" in message


def test_small_letters_of_a_photometric_interpretation_are_read():
    assert grey(open_image(dicom(DEEP, PhotometricInterpretation="monochrome2"))) == RAMP_GREY


# Transfer syntax -----------------------------------------------------------------------------------------------------

JPEG = "1.2.840.10008.1.2.4.50"


def jpeg_dicom(**header) -> bytes:
    frame = encapsulate([encoded(Image.new("L", (8, 8), 70), "JPEG")])
    return dicom(np.zeros((8, 8), np.uint8), PixelData=frame, syntax=JPEG, **header)


def test_a_missing_or_wrong_transfer_syntax_of_compressed_pixels_is_named():
    data = jpeg_dicom()
    assert set(np.ravel(grey(open_image(data)))) <= {69, 70, 71}
    wrong = data.replace(JPEG.encode(), b"1.2.840.10008.1.2.1\0\0\0")
    expected = "its pixels are compressed, but its TransferSyntaxUID (0002,0010) says that they are not; correct the"
    assert expected in refusal(wrong)
    expected = "its pixels are compressed, but its TransferSyntaxUID (0002,0010) is missing; correct the"
    assert expected in refusal(data.replace(JPEG.encode(), bytes(len(JPEG))))
    assert expected in refusal(data[data.index(b"\x08\0\x16\0") :])


def test_pixels_that_were_decompressed_under_the_old_transfer_syntax_are_read():
    data = dicom(RAMP.astype(np.uint8))
    # of the same length, so that the length of the group stays right
    data = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
    assert grey(open_image(data)) == RAMP.tolist()


def test_what_no_decoder_here_reads_is_not_called_damaged():
    jpeg = jpeg_dicom(BitsAllocated=16, BitsStored=12, HighBit=11)
    twelve = jpeg.replace(JPEG.encode(), JPEG[:-2].encode() + b"51")
    assert "its header asks for 12-bit JPEG, which is not supported; convert it to uncompressed DICOM" in refusal(
        twelve
    )
    deep = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG2000", no_jp2=True))
    at = deep.index(b"\xff\x51") + 40  # Ssiz of SIZ: the bits of each component, less one
    for component in range(3):
        deep[at + 3 * component] = 11
    frame = encapsulate([bytes(deep)])
    colours = colour_dicom(np.zeros((8, 8, 3), np.uint8), syntax="1.2.840.10008.1.2.4.91", PixelData=frame)
    assert "it has JPEG 2000 colours of more than 8 bits, which are not supported" in refusal(colours)
