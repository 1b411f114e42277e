"""processing.file_kinds: a file is known by its content; what is no image is named with the mend."""

import base64
import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from processing.file_kinds import describe_kind
from processing.images import image_facts, open_image
from tests.support.image_files import RAMP, RAMP_GREY, dicom, encoded, grey, refusal

PICTURE = Image.new("L", (3, 2), 90)
ENDINGS = ("dcm", "png", "jpg", "tif", "bmp", "DICOM", "gz", "")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_picture_opens_under_every_ending(tmp_path, kind, ending):
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(encoded(PICTURE, kind))
    assert grey(open_image(path)) == [[90] * 3] * 2
    assert image_facts(path).format == kind


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("preamble", [True, False])
def test_a_dicom_opens_under_every_ending(tmp_path, ending, preamble):
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(dicom(RAMP.astype(np.uint16), preamble=preamble))
    assert grey(open_image(path)) == RAMP_GREY
    assert image_facts(path).format == "DICOM"


def packed(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.png", encoded(PICTURE, "PNG"))
    else:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    return buffer.getvalue()


def array_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, RAMP)
    return buffer.getvalue()


PNG_TEXT = base64.b64encode(encoded(PICTURE, "PNG"))
OTHERS = {
    "gzip": (gzip.compress(dicom(RAMP.astype(np.uint8))), "it is gzip data, not a known image; unpack it first."),
    "zip": (packed("zip"), "it is a zip archive (or an Office document), not a known image; unpack it first."),
    "tar": (packed("tar"), "it is a tar archive, not a known image; unpack it first."),
    "bzip2": (bz2.compress(b"x"), "it is bzip2 data, not a known image; unpack it first."),
    "xz": (lzma.compress(b"x"), "it is xz data, not a known image; unpack it first."),
    "pdf": (b"%PDF-1.7\n", "it is a PDF document, not a known image; export the image from it as PNG."),
    "eps": (encoded(PICTURE, "EPS"), "it is a PostScript drawing, not a known image; convert it to PNG, JPEG, "),
    "jpeg 2000": (encoded(PICTURE, "JPEG2000"), "it is a JPEG 2000 image, not a known image; convert it to PNG, "),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(9), "it is a HEIC photo, not a known image; convert it to PNG, "),
    "avif": (b"\0\0\0\x18ftypavif" + bytes(9), "it is an AVIF image, not a known image; convert it to PNG, "),
    "mp4": (
        b"\0\0\0\x18ftypisom" + bytes(9),
        "it is an MP4 video, not a known image; export one of its frames as PNG.",
    ),
    "avi": (b"RIFF\0\0\0\0AVI LIST", "it is an AVI video, not a known image; export one of its frames as PNG."),
    "nifti header": (
        b"\x5c\1\0\0" + bytes(340) + b"ni1\0",
        "it is the header of a NIfTI volume, not a known image; export the slice as PNG or DICOM, or convert ",
    ),
    "nrrd": (b"NRRD0004\n", "it is an NRRD volume, not a known image; export the slice as PNG or DICOM, or convert "),
    "numpy": (array_file(), "it is a NumPy array, not a known image; export the image from it as PNG."),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, not a known image; export the image from it as PNG."),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "it is a Git LFS pointer in the place of the image, not a known image; run git lfs pull.",
    ),
    "html": (
        b"\n<!DOCTYPE html><html>Not found</html>",
        "it is a web page, not a known image; export or download the image again.",
    ),
    "json": (b'{"error": "no access"}', "it is JSON text, not a known image; export or download the image again."),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG drawing, not a known image; convert it to "),
    "base64": (PNG_TEXT, "it is the base64 text of a PNG, not a known image; decode it from base64 first."),
    "data url": (b"data:image/png;base64," + PNG_TEXT, "it is a data URL, not a known image; decode it from base64 "),
    "text": (b"Not an image.", "its content is not a known image; convert it to PNG, JPEG, WebP, TIFF, BMP, GIF or"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("ending", ["png", "tif", "gz"])
def test_what_is_no_image_is_named_with_the_mend(tmp_path, kind, ending):
    data, expected = OTHERS[kind]
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(data)
    assert expected in refusal(path)


@pytest.mark.parametrize("kind", [kind for kind in OTHERS if kind != "text"])
def test_what_is_no_dicom_is_named_under_a_dicom_name_too(tmp_path, kind):
    data, expected = OTHERS[kind]
    path = tmp_path / "scan.dcm"
    path.write_bytes(data)
    assert expected in refusal(path)


def test_text_under_a_dicom_name_is_no_dicom_image(tmp_path):
    path = tmp_path / "scan.dcm"
    path.write_bytes(b"Not an image, but a longer text than a first element of a file needs to be read.")
    assert "it is not a DICOM image (there is no pixel data); choose the file of an image." in refusal(path)


def test_images_are_of_no_other_kind():
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"):
        assert describe_kind(encoded(PICTURE, kind)) is None
    assert describe_kind(dicom(RAMP.astype(np.uint8))) is None
