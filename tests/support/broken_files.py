"""Files that should open nothing: images and archives that are broken, lie or attack, made from scratch.

python -m tests.support.broken_files

opens each with the image reader, the data set reader and a predictor, and prints the time and the message as JSON.
"""

import functools
import gzip
import io
import json
import pickle
import re
import stat
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

NOISE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
PIXELS = 100_000  # side of images that claim to be huge


def encoded(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, color: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def zeros(megabytes: int) -> bytes:
    """This many megabytes of zeros, deflated to a thousandth."""
    packer = zlib.compressobj(9, wbits=-15)
    piece = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = struct.pack(">HH", megabytes * 2**20 % 65_521, 1)  # Adler-32 of zeros
    return b"\x78\xda" + piece * megabytes + b"\x03\0" + checksum


def tiff(*entries: tuple[int, int, int, int], following: int = 0, order: bytes = b"II*\0") -> bytes:
    """A TIFF of one directory of (tag, type, count, value)."""
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return order + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + rows + struct.pack("<I", following)


def grey_tiff(width: int, height: int, compression: int = 1, offset: int = 8, count: int = 64) -> bytes:
    sizes = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    return tiff(*sizes, (273, 4, 1, offset), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, count))


def pages(count: int) -> bytes:
    """A good TIFF of this many pages of 8 x 8 pixels, which share their pixels."""
    size = len(grey_tiff(8, 8)) - 8
    first = 8 + 64
    file = b"II*\0" + struct.pack("<I", first) + bytes(range(64))
    for number in range(1, count + 1):
        page = grey_tiff(8, 8)[8:-4]
        file += page + struct.pack("<I", first + number * size if number < count else 0)
    return file


def bmp(width: int, height: int, compression: int = 0, bits: int = 24, data: bytes = b"") -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def dicom(syntax: UID = ExplicitVRLittleEndian, pixels: bytes | None = bytes(200), **changes: Any) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID("1.2.3")
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientName = CTImageStorage, UID("1.2.3"), "Doe^Jane"
    values = {"Rows": 10, "Columns": 10, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    values |= {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0} | changes
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    if pixels is not None:
        dataset.PixelData = encapsulate([pixels]) if syntax.is_encapsulated else pixels
        dataset["PixelData"].VR = "OB" if syntax.is_encapsulated else "OW"
    file = io.BytesIO()
    with pydicom.config.disable_value_validation():
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def nested_dicom(depth: int) -> bytes:
    """A header of sequences within sequences."""
    inner = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
        inner = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    plain = dicom()
    at = plain.index(b"\x08\x00\x16\x00")
    return plain[:at] + inner + plain[at:]


METHODS = {"deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}


def packed(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def damaged(name: str, method: int) -> bytes:
    """An archive whose one member's packed bytes are not what they were."""
    return changed(packed((name, bytes(range(256)) * 40), method=method), 30 + len(name) + 6, b"\xff" * 20)


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def dimensions(data: bytes, marker: bytes, skip: int, size: bytes) -> bytes:
    """Writes another size behind a marker."""
    return changed(data, data.index(marker) + skip, size)


@functools.cache
def images() -> dict[str, bytes]:
    """Broken images by their name."""
    found: dict[str, Callable[[], bytes] | bytes] = {
        "empty.png": b"",
        "one-byte.jpg": b"\xff",
        "text.png": b"Not an image at all.\n",
        "page.html": b"<html><script>alert(1)</script></html>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "entities.svg": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\nshowpage\n",
        "document.pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF",
        "pickle.png": pickle.dumps({"a": list(range(50))}),
        "array.npy": b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,)}" + b" " * 60 + b"\n",
        "library.jpg": b"\x7fELF\x02\x01\x01" + bytes(200),
        "archive.png": packed(("a.png", b"x")),
        "zipped.png": gzip.compress(encoded("PNG")),
        "huge.ppm": b"P6 100000 100000 255\n" + bytes(100),
        "adobe.psd": b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(40),
        "icon.ico": b"\0\0\x01\0\xff\xff" + bytes(64),
        "photo.heic": b"\0\0\0\x18ftypheic" + bytes(64),
        "wave.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64),
        "zeros.tif": bytes(5000),
        "signature.png": b"\x89PNG\r\n\x1a\n",
        "no-size.png": png(0, 0),
        "no-width.png": png(0, 9, chunk(b"IDAT", zlib.compress(bytes(9)))),
        "huge.png": png(PIXELS, PIXELS, chunk(b"IDAT", zlib.compress(b"\0"))),
        "bomb.png": lambda: png(20_000, 20_000, chunk(b"IDAT", zeros(400))),
        "largest-side.png": png(2**31 - 1, 1, chunk(b"IDAT", zlib.compress(b"\0"))),
        "wrong-checksum.png": changed(encoded("PNG"), 29, b"\0\0\0\0"),
        "no-data.png": png(9, 9),
        "bad-stream.png": png(9, 9, chunk(b"IDAT", b"not deflated")),
        "no-palette.png": png(9, 9, chunk(b"IDAT", zlib.compress(bytes(90))), color=3),
        "bits.png": png(9, 9, chunk(b"IDAT", zlib.compress(bytes(90))), bits=7),
        "text-bomb.png": lambda: png(
            9, 9, chunk(b"zTXt", b"a\0\0" + zeros(600)), chunk(b"IDAT", zlib.compress(b"\0"))
        ),
        "profile-bomb.png": lambda: png(9, 9, chunk(b"iCCP", b"a\0\0" + zeros(600))),
        "chunk-length.png": changed(encoded("PNG"), 33, b"\x7f\xff\xff\xff"),
        "huge.jpg": lambda: dimensions(encoded("JPEG"), b"\xff\xc0", 5, b"\xff\xff\xff\xff"),
        "no-size.jpg": lambda: dimensions(encoded("JPEG"), b"\xff\xc0", 5, bytes(4)),
        "no-scan.jpg": lambda: encoded("JPEG").split(b"\xff\xda")[0] + b"\xff\xd9",
        "segment.jpg": b"\xff\xd8\xff\xe0\xff\xff" + bytes(100),
        "no-tables.jpg": b"\xff\xd8\xff\xc0\0\x0b\x08\0\x09\0\x09\x01\x01\x11\0"
        b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\xff\xd9",
        "huge.gif": lambda: changed(encoded("GIF"), 6, b"\xff\xff\xff\xff"),
        "no-picture.gif": b"GIF89a\x09\0\x09\0\0\0\0;",
        "bad-codes.gif": b"GIF89a\x09\0\x09\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x09\0\x09\0\0\x0c\xff"
        + b"\xff" * 300,
        "huge.tif": grey_tiff(PIXELS, PIXELS),
        "outside.tif": grey_tiff(64, 64, offset=2**31),
        "no-such-compression.tif": grey_tiff(8, 8, compression=65_000),
        "bomb.tif": lambda: grey_tiff(7_000, 7_000, 8, 134, len(zeros(60))) + zeros(60),
        "loop.tif": tiff(following=8),
        "no-entries.tif": tiff(),
        "counts.tif": tiff((256, 4, 2**31, 9), (257, 4, 2**31, 9)),
        "huge.bmp": bmp(PIXELS, PIXELS),
        "negative.bmp": bmp(-9, 9),
        "run-length.bmp": bmp(64, 64, 1, 8, b"\xff\0" * 30),
        "bits.bmp": bmp(9, 9, 0, 7),
        "riff.webp": b"RIFF\xff\xff\xff\x7fWEBPVP8 " + bytes(40),
        "canvas.webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff" + bytes(8),
        "no-pixels.dcm": dicom(pixels=None),
        "few-pixels.dcm": dicom(pixels=bytes(20)),
        "no-rows.dcm": dicom(Rows=None),
        "huge.dcm": dicom(Rows=65_535, Columns=65_535),
        "bits.dcm": dicom(BitsAllocated=7),
        "stored.dcm": dicom(BitsStored=40, HighBit=39),
        "colours.dcm": dicom(SamplesPerPixel=9),
        "light.dcm": dicom(PhotometricInterpretation="X" * 16),
        "syntax.dcm": lambda: dicom(UID("1.2.840.10008.1.2.4.70"), b"\xff\xd8"),
        "jpeg.dcm": lambda: dicom(UID("1.2.840.10008.1.2.4.50"), b"\xff\xd8\xff\xd9", BitsAllocated=8, BitsStored=8),
        "deflated-bomb.dcm": lambda: dicom(DeflatedExplicitVRLittleEndian, bytes(20 * 2**20)),
        "cut-off.dcm": dicom()[:300],
        "preamble.dcm": bytes(128) + b"DICM",
        "nested.dcm": lambda: nested_dicom(3_000)[: 2**20],
        "length.dcm": lambda: dimensions(dicom(), b"\xe0\x7f\x10\x00", 8, b"\xf0\xff\xff\x7f"),
        "pages.tif": lambda: pages(10_000),  # opens: the first of them
    }
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        for share in (0.1, 0.9):
            data = encoded(kind)
            found[f"cut-at-{share}.{kind.lower()}"] = data[: int(len(data) * share)]
    return {name: data() if callable(data) else data for name, data in found.items()}


@functools.cache
def archives() -> dict[str, bytes]:
    """Zip files that are broken, lie or attack, by name."""
    good = packed(("a.png", encoded("PNG")))
    directory = good.index(b"PK\x01\x02")
    return {
        "empty.zip": b"",
        "nothing-in-it.zip": packed(),
        "cut.zip": good[: len(good) // 2],
        "text.zip": b"not a zip file",
        "wrong-checksum.zip": changed(good, good.index(b"\x89PNG" if b"\x89PNG" in good else b"PK") + 40, b"\0\0\0\0"),
        "encrypted.zip": changed(changed(good, 6, b"\x01\0"), directory + 8, b"\x01\0"),
        "method.zip": changed(changed(good, 8, b"\x63\0"), directory + 10, b"\x63\0"),
        "lying-size.zip": changed(packed(("a.png", bytes(2**20))), -(22 + 46 + 5) + 24, b"\x0a\0\0\0"),
        "bomb.zip": packed(*((f"{n}.png", bytes(2**20 * 60)) for n in range(5))),
        "many.zip": packed(*((f"{n}.png", b"") for n in range(20_000)), method=zipfile.ZIP_STORED),
        "folders-only.zip": packed(("a/", b""), ("b/", b"")),
        "offset.zip": changed(good, directory + 42, b"\xff\xff\xff\x7f"),
        "no-end.zip": good[:-22],
        **{f"{name}-stream.zip": damaged("a.png", method) for name, method in METHODS.items()},
    }


def hostile_archives() -> dict[str, bytes]:
    """Archives of a data set repo whose members would write elsewhere or can't be unpacked."""
    inside = ("imgs/xmlab0/source.jpg", encoded("JPEG"))
    return {
        "climbs": packed(inside, ("imgs/../../evil.txt", b"x")),
        "climbs by backslash": packed(inside, ("imgs\\..\\..\\evil.txt", b"x")),
        "absolute": packed(inside, ("/tmp/evil.txt", b"x")),
        "drive": packed(inside, ("C:/evil.txt", b"x")),
        "link": packed(inside, (link("imgs/link"), b"/etc/passwd")),
        "newline": packed(inside, ("imgs/xmlab0/a\nb.jpg", b"x")),
        "device": packed(inside, ("imgs/xmlab0/CON", b"x")),
        "long name": packed(inside, ("imgs/" + "a" * 5_000, b"x")),
        "file as folder": packed(inside, ("imgs/xmlab0/source.jpg/evil.txt", b"x")),
        "encrypted": changed(packed(inside), packed(inside).index(b"PK\x01\x02") + 8, b"\x01\0"),
        **{f"{name} stream": damaged(inside[0], method) for name, method in METHODS.items()},
    }


def main() -> None:
    """Opens every file and prints what each reader made of it.

    Printed are, by reader and name, the seconds on the CPU and the message, empty where the file opened; then the
    memory in MB before the first file, and the most of all.
    """
    import torch

    from modeling.asking.predictor import Predictor
    from modeling.training.arguments import ViltTrainingArguments
    from modeling.vilt.checkpoints import build_model
    from modeling.vilt.predictor import ViltPredictor
    from processing.data import load_vqa_dataset
    from processing.errors import UserError
    from processing.images import open_image
    from processing.phantom.files import write_phantoms
    from spaces_app.batch import read_archive

    corpus, zips = images(), archives()
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_vqa_dataset(str(write_phantoms(Path(folder) / "good", num_images=28, image_size=96)))
        args = ViltTrainingArguments(output_dir=folder, model_name_or_path="scratch:tiny")
        model, processor = build_model(args, dataset)
        predictor = Predictor(ViltPredictor(model, processor, torch.device("cpu"), torch.float32))
        report: dict[str, dict[str, tuple[float, str]]] = {}
        start = _megabytes("VmRSS")

        def note(reader: str, name: str, function: Callable[[], Any]) -> None:
            started, message = time.process_time(), ""
            try:
                function()
            except UserError as error:
                message = str(error)
            report.setdefault(reader, {})[name] = (round(time.process_time() - started, 3), message)

        for name, data in corpus.items():
            note("image", name, lambda data=data: open_image(data))
            note("predictor", name, lambda data=data: predictor.answer(data, "Is this a CT?"))
            (Path(folder) / name).write_bytes(data)
            rows = [{"image": name, "question": "Is this a CT?", "answer": "Yes", "split": "train"}]
            (Path(folder) / "rows.json").write_text(json.dumps(rows))
            note("data set", name, lambda: load_vqa_dataset(f"{folder}/rows.json", on_bad_rows="error"))
        for name, data in zips.items():
            note("archive", name, lambda data=data: read_archive(data))
    json.dump({"report": report, "start_mb": start, "peak_mb": _megabytes("VmHWM")}, sys.stdout)


def _megabytes(field: str) -> int:
    [kilobytes] = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) // 1024


if __name__ == "__main__":
    main()
