"""processing.dicom_grey: which bits of a grey DICOM file count, and what they become without or with a window."""

import numpy as np
import pytest
from PIL import Image

from processing.images import image_facts, open_image
from tests.support.image_files import RAMP, RAMP_GREY, dicom, encoded, grey, item

EIGHT_BITS = np.linspace(40, 160, 64).astype(np.uint8).reshape(1, 64)
TWELVE_BITS = np.array([[0, 1, 1000, 2048, 4095]])
WINDOW_12 = {"WindowCenter": 2048, "WindowWidth": 4096}  # the whole of 12 bits
GREY_12 = [[0, 0, 62, 128, 255]]  # of TWELVE_BITS in it: x / 4095 * 255


# Without a window ----------------------------------------------------------------------------------------------------


def test_eight_bits_without_a_window_are_the_pixels_of_the_png():
    png = open_image(encoded(Image.fromarray(EIGHT_BITS), "PNG"))
    assert open_image(dicom(EIGHT_BITS)).tobytes() == png.tobytes()
    assert grey(open_image(dicom(EIGHT_BITS))) == EIGHT_BITS.tolist()
    inverted = dicom(EIGHT_BITS, PhotometricInterpretation="MONOCHROME1")
    assert grey(open_image(inverted)) == (255 - EIGHT_BITS).tolist()
    in_16 = dicom(EIGHT_BITS.astype(np.uint16), BitsStored=8)
    assert grey(open_image(in_16)) == EIGHT_BITS.tolist()


@pytest.mark.parametrize(("bits", "expected"), [(1, [0, 255]), (4, [0, 17, 119, 255]), (7, [0, 2, 129, 255])])
def test_fewer_bits_fill_the_range_as_in_a_png_of_as_many(bits, expected):
    stored = {1: [0, 1], 4: [0, 1, 7, 15], 7: [0, 1, 64, 127]}[bits]
    assert grey(open_image(dicom(np.array([stored], np.uint8), BitsStored=bits))) == [expected]


def test_eight_signed_bits_go_from_black_at_their_lowest_to_white():
    stored = np.array([[-128, -1, 0, 127]], np.int8)
    assert grey(open_image(dicom(stored))) == [[0, 127, 128, 255]]


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [("1", "-1024", [40, 100, 160]), ("0.000001", "0", [40, 100, 160]), ("-1", "255", [215, 155, 95])],
)
def test_a_rescale_of_eight_bits_changes_units_and_no_pixel(slope, intercept, expected):
    data = dicom(np.array([[40, 100, 160]], np.uint8), RescaleSlope=slope, RescaleIntercept=intercept)
    assert grey(open_image(data)) == [expected]


def test_eight_bits_with_a_window_or_a_table_go_through_it():
    stored = np.array([[40, 100, 160]], np.uint8)
    assert grey(open_image(dicom(stored, WindowCenter=100, WindowWidth=121))) == [[1, 129, 255]]
    assert grey(open_image(dicom(stored), window=(100.5, 121))) == [[0, 128, 255]]
    table = item(LUTDescriptor=[3, 40, 8])
    table.add_new("LUTData", "US", [9, 8, 7])
    assert grey(open_image(dicom(stored, VOILUTSequence=[table]))) == [[9, 7, 7]]


def test_more_than_eight_bits_without_a_window_are_stretched():
    assert grey(open_image(dicom(RAMP.astype(np.uint16), BitsStored=9))) == RAMP_GREY


@pytest.mark.parametrize(
    ("stored", "header"),
    [
        (EIGHT_BITS, {}),
        (EIGHT_BITS.view(np.int8), {}),
        (EIGHT_BITS, {"RescaleSlope": "2", "RescaleIntercept": "-1024"}),
        (EIGHT_BITS, {"RescaleSlope": "0.000001", "RescaleIntercept": "0"}),
        (EIGHT_BITS // 16, {"BitsStored": 4}),
        (np.array([[0, 1]], np.uint8), {"BitsStored": 1}),
    ],
)
def test_the_window_in_the_facts_shows_eight_bits_as_they_are_shown_without_one(stored, header):
    data = dicom(stored, **header)
    facts = image_facts(data)
    low, high = facts.value_range
    assert low <= facts.window[0] <= high or header == {} or header.get("BitsStored")
    difference = np.array(grey(open_image(data, window=facts.window))) - grey(open_image(data))
    assert np.abs(difference).max() <= 1


LESION = np.full((1, 500), 1000)
LESION[0, 7] = 3000  # less than 1 % of the pixels


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("stored", [np.full((2, 3), 7), np.full((2, 3), 0), np.arange(4).reshape(1, 4), RAMP, LESION])
@pytest.mark.parametrize("slope", ["1", "0.000001", "-2"])
def test_the_window_in_the_facts_shows_what_percentiles_show(stored, photometric, slope):
    header = {"RescaleSlope": slope, "RescaleIntercept": "0", "PhotometricInterpretation": photometric}
    data = dicom(stored.astype(np.uint16), **header)
    shown = np.array(grey(open_image(data)))
    assert np.abs(grey(open_image(data, window=image_facts(data).window)) - shown).max() <= 1
    assert (
        len(np.unique(shown)) == len(np.unique(np.clip(stored, *np.percentile(stored, (1, 99))))) or stored is LESION
    )
    if stored.min() == stored.max():
        assert np.all(shown == (255 if photometric == "MONOCHROME1" else 0))  # black, inverted in MONOCHROME1


def test_the_window_of_eight_bits_is_all_of_them():
    facts = image_facts(dicom(EIGHT_BITS))
    assert (facts.window, facts.value_range) == ((128, 256), (40, 160))


# HighBit -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("high", [11, 12, 14, 15])
@pytest.mark.parametrize("overlay", [False, True])
def test_the_stored_bits_end_at_the_high_bit_whatever_the_others_hold(high, overlay):
    low = high - 11
    stored = TWELVE_BITS << low
    if overlay:
        mask = 0xFFFF & ~(0xFFF << low)
        stored = stored | mask
    data = dicom(stored.astype(np.uint16), BitsStored=12, HighBit=high, **WINDOW_12)
    assert grey(open_image(data)) == GREY_12
    assert image_facts(data).value_range == (0, 4095)


@pytest.mark.parametrize("high", [11, 13, 15])
@pytest.mark.parametrize("overlay", [False, True])
def test_signed_stored_bits_have_their_sign_at_the_high_bit(high, overlay):
    low = high - 11
    stored = ((TWELVE_BITS - 2048) & 0xFFF) << low
    if overlay:
        stored = stored | (0xFFFF & ~(0xFFF << low))
    header = {"BitsStored": 12, "HighBit": high, "PixelRepresentation": 1, "WindowCenter": 0, "WindowWidth": 4096}
    data = dicom(stored.astype(np.uint16), **header)
    assert grey(open_image(data)) == GREY_12
    assert image_facts(data).value_range == (-2048, 2047)


def test_left_aligned_bits_without_a_window_are_a_ramp():
    stored = (np.arange(0, 4096, 41) << 4).astype(np.uint16).reshape(1, -1)
    opened = grey(open_image(dicom(stored, BitsStored=12, HighBit=15)))[0]
    assert opened == sorted(opened)
    assert len(set(opened)) > 90


def test_eight_bits_at_the_top_of_sixteen_are_drawn_as_a_png():
    data = dicom(EIGHT_BITS.astype(np.uint16) << 8, BitsStored=8, HighBit=15)
    assert grey(open_image(data)) == EIGHT_BITS.tolist()


def test_a_high_bit_that_the_pixels_contradict_is_not_followed():
    # all in the lowest 12 bits, down to the last: right-aligned, whatever HighBit says
    for stored, sign in ((TWELVE_BITS, 0), (TWELVE_BITS - 2048, 1)):
        header = {"WindowCenter": 2048 * (1 - sign), "WindowWidth": 4096, "PixelRepresentation": sign}
        data = dicom(stored.astype(np.int16), BitsStored=12, HighBit=15, **header)
        assert grey(open_image(data)) == GREY_12


@pytest.mark.parametrize("high", [0, 5, 16, 200])
def test_an_impossible_high_bit_is_that_of_right_aligned_bits(high):
    assert grey(open_image(dicom(TWELVE_BITS.astype(np.uint16), BitsStored=12, HighBit=high, **WINDOW_12))) == GREY_12


# Padding -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("bits", "high"), [(12, None), (12, 11), (12, 15), (10, 9)])
def test_padding_told_by_bits_that_are_not_stored_is_black_and_does_not_count(bits, high, photometric):
    ramp = (RAMP * 10) << ((high or bits - 1) + 1 - bits)
    stored = np.concatenate([np.full((1, 30), 63536), ramp], axis=1).astype(np.uint16)
    header = {"BitsStored": bits, "PixelPaddingValue": 63536, "PhotometricInterpretation": photometric}
    data = dicom(stored, **header, **({} if high is None else {"HighBit": high}))
    shown = RAMP_GREY[0] if photometric == "MONOCHROME2" else [255 - value for value in RAMP_GREY[0]]
    assert grey(open_image(data)) == [[0] * 30 + shown]
    assert image_facts(data).value_range == (0, 1000)


def test_padding_below_what_signed_bits_hold_is_black_and_does_not_count():
    stored = np.concatenate([np.full((1, 30), -32768), RAMP * 10 - 500], axis=1).astype(np.int16)
    data = dicom(stored, BitsStored=12, PixelPaddingValue=-32768)
    assert grey(open_image(data)) == [[0] * 30 + RAMP_GREY[0]]
    # a range of which the stored bits hold one end
    stored[0, :30] = np.arange(30) - 2060
    data = dicom(stored, BitsStored=12, PixelPaddingValue=-2060, PixelPaddingRangeLimit=-2031)
    assert grey(open_image(data)) == [[0] * 30 + RAMP_GREY[0]]


def test_padding_that_the_stored_bits_hold_is_found_under_overlays():
    stored = np.concatenate([np.full((1, 30), 2000), RAMP * 10], axis=1).astype(np.uint16)
    stored[0, ::2] |= 0x8000
    data = dicom(stored, BitsStored=12, PixelPaddingValue=2000)
    assert grey(open_image(data)) == [[0] * 30 + RAMP_GREY[0]]


# Windows narrower than 1 ---------------------------------------------------------------------------------------------

ADC = {"RescaleSlope": "0.000001", "RescaleIntercept": "0"}
STORED_ADC = np.array([[0, 300, 1100, 1900, 4000]], np.uint16)  # 0 to 0.004 mm²/s


def test_a_window_narrower_than_1_is_exact():
    # LINEAR_EXACT by hand: (x - 0.0003) / 0.0016 * 255
    data = dicom(STORED_ADC, WindowCenter="0.0011", WindowWidth="0.0016", **ADC)
    assert grey(open_image(data)) == [[0, 0, 128, 255, 255]]
    assert grey(open_image(data, window=(0.0011, 0.0016))) == [[0, 0, 128, 255, 255]]
    # (x - 0) / 0.004 * 255
    assert grey(open_image(data, window=(0.002, 0.004))) == [[0, 19, 70, 121, 255]]
    # integers too: from 0.5 to 1
    assert grey(open_image(dicom(np.array([[0, 1, 2]], np.uint16)), window=(0.75, 0.5))) == [[0, 255, 255]]


def test_facts_of_small_values_have_a_small_window():
    windowed = image_facts(dicom(STORED_ADC, WindowCenter="0.0011", WindowWidth="0.0016", **ADC))
    assert windowed.window == (0.0011, 0.0016)
    assert windowed.value_range == pytest.approx((0, 0.004))
    without = image_facts(dicom(STORED_ADC, **ADC))
    low, high = np.percentile(STORED_ADC * 1e-6, (1, 99))
    assert without.window == pytest.approx(((low + high) / 2, high - low))  # narrower than 1, so exact
    negative = image_facts(dicom(STORED_ADC, RescaleSlope="-0.000001", RescaleIntercept="0"))
    assert negative.window[1] == pytest.approx(high - low)


def test_a_float_map_from_0_to_1_is_windowed():
    values = np.array([[0, 0.25, 0.5, 1]], np.float32)
    header = {"BitsAllocated": 32, "BitsStored": None, "HighBit": None, "PixelRepresentation": None, "PixelData": None}
    data = dicom(values, **header, FloatPixelData=values.tobytes())
    assert grey(open_image(data, window=(0.5, 1 - 1e-9))) == [[0, 64, 128, 255]]
    assert image_facts(data).value_range == (0, 1)


@pytest.mark.parametrize("width", [1e-300, 1e-12, 0.999, 1.0, 1e300])
def test_every_width_above_0_gives_a_picture(width):
    opened = np.array(grey(open_image(dicom(RAMP.astype(np.uint16)), window=(50, width))))
    assert opened.shape == RAMP.shape
    assert np.all(np.diff(opened) >= 0)


def test_an_unknown_window_function_is_linear():
    stored = np.array([[-51, -50, -49, 0, 49, 50]], np.int16)
    data = dicom(stored, WindowCenter=0, WindowWidth=100, VOILUTFunction="LINEAR_INEXACT")
    assert grey(open_image(data)) == [[0, 0, 3, 129, 255, 255]]
