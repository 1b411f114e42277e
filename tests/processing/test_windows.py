"""processing.windows and the windows of images that are not DICOM."""

import io

import nibabel
import numpy as np
import pytest
from PIL import Image

from processing.images import open_image, read_values
from processing.windows import CT_WINDOWS, PERCENTILE_WINDOWS, percentile_window
from tests.support.image_files import dicom, encoded, grey


def test_windows_of_ct_are_the_published_ones():
    # width and level as published: A. Murphy and others, "Windowing (CT)", https://doi.org/10.53347/rID-52108
    published = {
        "Lung": (1500, -600),
        "Mediastinum": (350, 50),
        "Abdomen": (400, 50),
        "Brain": (80, 40),
        "Bone": (1800, 400),
    }
    assert {name: (width, center) for name, (center, width) in CT_WINDOWS.items()} == published


def test_a_window_between_percentiles():
    values = np.append(np.arange(101, dtype=float), [np.nan, np.inf])
    wanted = {"1 to 99 %": (50, 98), "5 to 95 %": (50, 90), "25 to 99.5 %": (62.25, 74.5), "All values": (50, 100)}
    found = {name: percentile_window(values, *ends) for name, ends in PERCENTILE_WINDOWS.items()}
    assert found == {name: pytest.approx(window) for name, window in wanted.items()}
    rare = np.zeros(1000)
    rare[0] = 8
    assert percentile_window(rare, 1, 99) == (4, 8)
    assert percentile_window(np.full((2, 2), 7.0), 1, 99) == (7, 1)
    assert percentile_window(np.full((2, 2), np.nan), 1, 99) == (0, 1)


def test_grey_levels_of_other_images_are_windowed_and_colours_are_not():
    levels = np.array([[0, 50, 100, 150, 200]], np.uint8)
    for image in (Image.fromarray(levels), Image.fromarray(levels).convert("RGB")):
        data = encoded(image, "PNG")
        assert read_values(data).tolist() == levels.tolist()
        # LINEAR_EXACT, PS3.3 C.11.2.1.3.2: (x - (100 - 100)) / 200 * 255
        assert grey(open_image(data, window=(100, 200))) == [[0, 64, 128, 191, 255]]
        assert grey(open_image(image, window=(100, 100))) == [[0, 0, 128, 255, 255]]
    red = encoded(Image.new("RGB", (2, 2), (200, 0, 0)), "PNG")
    assert read_values(red) is None
    assert np.asarray(open_image(red, window=(100, 100)))[0, 0].tolist() == [200, 0, 0]


def test_values_are_in_the_units_of_the_file():
    stored = np.array([[0, 10], [20, 63536]], np.uint16)
    header = {"RescaleSlope": 2, "RescaleIntercept": -1000, "PixelPaddingValue": 63536}
    values = read_values(dicom(stored, **header))
    np.testing.assert_array_equal(values, [[-1000, -980], [-960, np.nan]])
    assert read_values(dicom(stored, PhotometricInterpretation="RGB", SamplesPerPixel=3, Rows=1, Columns=1)) is None
    volume = nibabel.Nifti1Image(np.arange(4, dtype=np.int16).reshape(2, 2, 1), np.eye(4))
    assert read_values(io.BytesIO(volume.to_bytes())).tolist() == [[3, 1], [2, 0]]
