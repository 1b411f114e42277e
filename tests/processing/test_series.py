"""processing.series: which DICOM files are slices of one series, and their order."""

import zlib

import numpy as np
import pydicom.data
import pytest

from processing.series import sort_into_series
from tests.support.image_files import dicom

AXIAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]


def a_slice(position, series="1.2", number=1, orientation=AXIAL, **header):
    pixels = np.zeros((2, 2), np.uint8)
    return dicom(
        pixels,
        SeriesInstanceUID=series,
        InstanceNumber=number,
        ImageOrientationPatient=orientation,
        ImagePositionPatient=position,
        **header,
    )


def sort(*files):
    return sort_into_series([(f"{number}.dcm", data) for number, data in enumerate(files)])


def test_slices_are_sorted_by_position_along_their_normal_whatever_their_numbers_say():
    assert sort(a_slice([0, 0, 5], number=1), a_slice([0, 0, -5], number=2), a_slice([0, 0, 0], number=3)) == [
        [1, 2, 0]
    ]
    # the normal of this plane points to the patient's right, which is -x
    sagittal = [a_slice([x, 0, 0], orientation=SAGITTAL) for x in (10, 30, 20)]
    assert sort(*sagittal) == [[1, 2, 0]]


def test_slices_of_one_position_or_of_none_go_by_their_number():
    assert sort(*(a_slice([0, 0, 0], number=number) for number in (3, 1, 2))) == [[1, 2, 0]]
    assert sort(*(a_slice(None, number=number, orientation=None) for number in (3, 10, 2))) == [[2, 0, 1]]


@pytest.mark.parametrize(
    "other",
    [
        {"series": "1.3"},
        {"orientation": SAGITTAL},
        {"EchoTime": 80},
        {"Rows": 1, "Columns": 4},
    ],
    ids=["series", "orientation", "echo", "size"],
)
def test_mixed_series_are_kept_apart(other):
    mixed = [a_slice([0, 0, 2]), a_slice([0, 0, 9], **other), a_slice([0, 0, 1]), a_slice([0, 0, 8], **other)]
    found = sort(*mixed)
    assert {frozenset(members) for members in found} == {frozenset({0, 2}), frozenset({1, 3})}
    assert found[0] == [2, 0]


def test_other_files_stay_alone():
    frames = dicom(np.zeros((3, 2, 2), np.uint8), NumberOfFrames=3, SeriesInstanceUID="1.2")
    without = dicom(np.zeros((2, 2), np.uint8))
    files = [("a.png", b"\x89PNG"), ("x.dcm", b"damaged"), ("f.dcm", frames), ("n.dcm", without), ("m.dcm", without)]
    assert sort_into_series(files) == [[0], [1], [2], [3], [4]]


def test_a_real_ct_slice_has_a_series():
    with open(pydicom.data.get_testdata_file("CT_small.dcm"), "rb") as file:
        data = file.read()
    assert sort_into_series([("a", data), ("b.png", b"\x89PNG"), ("c", data)]) == [[0, 2], [1]]


def test_a_deflated_file_is_not_inflated_to_be_sorted(monkeypatch):
    plain = dicom(np.zeros((2, 2), np.uint8), SeriesInstanceUID="1.2")
    deflated = plain.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")

    def explode(*_):
        raise AssertionError("inflated")

    monkeypatch.setattr(zlib, "decompress", explode)
    monkeypatch.setattr("processing.series.first_value", explode)  # nothing of it is read at all
    assert sort_into_series([("a.dcm", deflated)]) == [[0]]
