"""Image files made in memory, and what an opened image or a refusal must look like."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

from processing.images import ImageError, open_image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(
    pixels: np.ndarray,
    *,
    syntax: str = "1.2.840.10008.1.2.1",
    preamble: bool = True,
    texts: dict[str, str] | None = None,
    **header,
) -> bytes:
    """A DICOM file with a patient's name around ``pixels`` (rows, columns), (frames, rows, columns) or RGB.

    Args:
        texts: elements that hold a text, whatever their type.
        header: elements; those that are None are left out.
    """
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
    dataset.HighBit = (header.get("BitsStored") or dataset.BitsStored) - 1
    for keyword, value in header.items():
        setattr(dataset, keyword, value)
        if value is None:
            delattr(dataset, keyword)
    for keyword, text in (texts or {}).items():
        dataset.add_new(keyword, "LO", text)
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


# 0 .. 100 has the percentiles 1 and 99: a value v becomes (v - 1) / 98 * 255, clipped
RAMP = np.arange(101).reshape(1, 101)

RAMP_GREY = np.rint(np.clip((RAMP - 1) / 98 * 255, 0, 255)).astype(int).tolist()


def png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10**6), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
