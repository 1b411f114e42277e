"""processing.images.image_facts: what may be shown of a file, and nothing of its patient."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate

from processing.images import ImageError, ImageFacts, image_facts
from tests.support.image_files import colour_dicom, dicom, encoded


def test_facts_of_a_dicom_file_hold_what_a_viewer_needs():
    facts = image_facts(get_testdata_file("CT_small.dcm"))
    assert facts.format == "DICOM"
    assert facts.details == {"Modality": "CT", "Pixel spacing": "0.661468 x 0.661468 mm", "Slice thickness": "5 mm"}
    stored = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    values = stored.pixel_array * float(stored.RescaleSlope) + float(stored.RescaleIntercept)
    assert facts.value_range == (values.min(), values.max())
    low, high = np.percentile(values[stored.pixel_array != stored.PixelPaddingValue], (1, 99))
    # a linear window shows a unit less than its width (PS3.3 C.11.2.1.2)
    assert facts.window == pytest.approx(((low + high + 1) / 2, high - low + 1))


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
    # LINEAR (PS3.3 C.11.2.1.2) has no width of half a unit, so it is one of LINEAR_EXACT (C.11.2.1.3)
    for function in ("LINEAR_EXACT", "LINEAR"):
        exact = image_facts(dicom(stored, VOILUTFunction=function, **window, **frames))
        assert (exact.details, exact.slices) == ({}, 2)
        assert (exact.window, exact.value_range) == ((50, 0.5), (0, 100))
    without = image_facts(dicom(stored, WindowCenter=50, WindowWidth=0, **frames))
    assert without.window == pytest.approx((50.5, 99))  # from percentile 1 to 99, which are 1 and 99
    flat = image_facts(dicom(np.full((2, 2), 9, np.uint16)))
    assert flat.value_range == (9, 9)


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
