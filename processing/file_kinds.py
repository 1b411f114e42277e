"""What a file is by its first bytes: for a sentence about one that is not an image."""

KNOWN = "PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM"
CONVERT = f"convert it to {KNOWN}"
UNPACK = "unpack it first"
SLICE = "export the slice as PNG or DICOM, or convert the volume to NIfTI (.nii.gz)"
EXPORT = "export the image from it as PNG"
AGAIN = "export or download the image again"
DECODE = "decode it from base64 first"

# How the images begin that Pillow opens: JPEG, PNG, GIF, BMP, TIFF and BigTIFF of both byte orders, WebP.
IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"RIFF")

# Offset, bytes, name and mend. The first match counts.
SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "gzip data", UNPACK),
    (0, b"PK\x03\x04", "a zip archive (or an Office document)", UNPACK),
    (0, b"PK\x05\x06", "an empty zip archive", "pack it again"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (0, b"BZh", "bzip2 data", UNPACK),
    (0, b"\xfd7zXZ\0", "xz data", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard data", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"%PDF", "a PDF document", EXPORT),
    (0, b"%!PS", "a PostScript drawing", CONVERT),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", EXPORT),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image", CONVERT),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image", CONVERT),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image", CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", CONVERT),
    (4, b"ftypavif", "an AVIF image", CONVERT),
    (4, b"ftyphei", "a HEIC photo", CONVERT),
    (4, b"ftypmif1", "a HEIC photo", CONVERT),
    (4, b"ftyp", "an MP4 video", "export one of its frames as PNG"),
    (8, b"AVI LIST", "an AVI video", "export one of its frames as PNG"),
    (0, b"8BPS", "a Photoshop file", CONVERT),
    (344, b"ni1\0", "the header of a NIfTI volume", SLICE),
    (0, b"NRRD000", "an NRRD volume", SLICE),
    (0, b"ObjectType = ", "a MetaImage volume", SLICE),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", EXPORT),
    (0, b"\x93NUMPY", "a NumPy array", EXPORT),
    (0, b"version https://git-lfs", "a Git LFS pointer in the place of the image", "run git lfs pull"),
)

# Beginnings of texts, in lower case.
TEXTS = (
    (b"<!doctype html", "a web page", AGAIN),
    (b"<html", "a web page", AGAIN),
    (b"<svg", "an SVG drawing", CONVERT),
    (b"<?xml", "XML text", CONVERT),
    (b"{", "JSON text", AGAIN),
    (b"data:image/", "a data URL", DECODE),
    (b"ivborw0kggo", "the base64 text of a PNG", DECODE),
    (b"/9j/", "the base64 text of a JPEG", DECODE),
)


def describe_kind(data: bytes) -> tuple[str, str] | None:
    """What a file is and what to do with it, as parts of a sentence; None for an unknown kind."""
    for offset, signature, name, mend in SIGNATURES:
        if data.startswith(signature, offset):
            return name, mend
    text = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, name, mend in TEXTS:
        if text.startswith(beginning):
            return name, mend
    return None
