"""Opens an image file safely as RGB: bounded in bytes and pixels, from a short list of formats.

Nothing is mirrored or resized here: left and right are answers. Only a camera's EXIF orientation is undone.
"""

import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from processing.dicom import describe_dicom, draw_dicom, is_dicom, read_dicom
from processing.dicom_header import HeaderError
from processing.errors import UserError, describe_error
from processing.file_kinds import CONVERT, describe_kind
from processing.image_source import ImageBytes, ImageSource, label_of, name_of, read_bytes, slice_of, split_slice
from processing.nifti import Nifti, is_nifti
from processing.pixels import ImageError, ImageFacts, above_limit, cannot_open, check_number, check_size, stretch
from processing.png import Png, open_png
from processing.sixteen_bits import draw_sixteen_bits
from processing.tiff import SIGNATURES, Tiff, UnsupportedTiff, grey_values, open_tiff
from processing.tiff_pages import count_pages, with_page_first

# The largest everyday medical image is an uncompressed mammogram: 4728 x 5928 pixels of 2 bytes, 28 million pixels
# in 53 MiB. The limits let it through, and keep one upload's decoded RGB image at or below 150 MB.
MAX_IMAGE_BYTES = 64 * 2**20
MAX_IMAGE_PIXELS = 50_000_000

# Pillow reads some fifty formats and some of its plugins start other programs (EPS): only what datasets use is tried.
# JPEG includes MPO, the several-picture JPEG of phones.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

# EXIF 2.32, tag 0x0112: how to turn the stored picture upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_quiet_lock = threading.Lock()


def open_image(
    source: ImageSource,
    *,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_IMAGE_PIXELS,
    window: tuple[float, float] | None = None,
) -> Image.Image:
    """Opens a PNG, JPEG, WebP, TIFF, BMP, GIF, DICOM or NIfTI image as RGB.

    `scan.dcm#12` names the twelfth frame of a DICOM file, page of a TIFF or slice of a NIfTI volume. Without a number
    it is the first frame or page; of a volume of several slices one must be named.
    The content says which it is, whatever the name ends in. Grey values of more than 8 bits are scaled so that the 1st
    and 99th percentile become 0 and 255; three equal channels of 16 bits are grey. Other colours of 16 bits keep the
    upper 8, or those of 12 bits where no number needs more. DICOM grey values go through their window. Alpha is
    composited over black, as medical backgrounds are black. Of grey TIFF in several planes the first is taken.

    Args:
        source: a path, the bytes of a file, a binary file object (read from where it stands, left open; `ImageBytes`
            may name a slice) or a PIL image (left as it is; `max_bytes` doesn't apply, and of 16-bit colours or alpha
            it has 8 bits).
        max_bytes: largest file in bytes; checked before it is read.
        max_pixels: largest width x height in pixels; checked before it is decoded.
        window: ``(center, width)`` in the units of a grey DICOM or NIfTI file after rescaling (Hounsfield units for
            CT), instead of the window in its header; other images don't use it. Of DICOM it is the standard's LINEAR
            window, which needs a width of at least 1; a narrower one, and that of NIfTI, is LINEAR_EXACT
            (`processing.dicom_grey`).

    Returns:
        A loaded image of mode RGB, ``(width, height)`` as a viewer shows it, without metadata.

    Raises:
        ImageError: the image can't be opened, whatever the reason.
    """
    label = label_of(source)
    if window is not None and not (math.isfinite(window[0]) and 0 < window[1] < math.inf):
        raise cannot_open(label, "the window is not (center, width) with a width above 0", "change the window")
    if isinstance(source, Image.Image):
        with _decoder_errors_as_image_error(label):
            return _finish(source, label, max_pixels)
    data, number = read_bytes(source, max_bytes), slice_of(source) or 1
    with _decoder_errors_as_image_error(label):
        if is_nifti(data):
            with _quiet():
                volume = Nifti(data, label, max_pixels)
                if volume.slices > 1 and slice_of(source) is None:
                    example = f"{os.path.basename(_file_name(source)) or 'volume.nii.gz'}#{(volume.slices + 1) // 2}"
                    fix = f"name one of them, as in {example}"
                    raise cannot_open(label, f"it is a volume of {volume.slices:,} slices", fix)
                return volume.draw(number, window)
        if is_dicom(data, _file_name(source)):
            with _quiet():
                return draw_dicom(read_dicom(data, label, max_pixels, number), window, number)
        with _identify(data, label, max_pixels, number) as image:
            return _finish(image, label, max_pixels)


def image_facts(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> ImageFacts:
    """Reads what an image file says of itself; the arguments are those of `open_image`.

    The window and the values are those of the slice that is named, by default of the first.

    Raises:
        ImageError: the image can't be opened, whatever the reason.
    """
    label = label_of(source)
    data, number = read_bytes(source, max_bytes), slice_of(source) or 1
    with _decoder_errors_as_image_error(label):
        if is_nifti(data):
            with _quiet():
                return Nifti(data, label, max_pixels).describe(number)
        if is_dicom(data, _file_name(source)):
            with _quiet():
                return describe_dicom(read_dicom(data, label, max_pixels, number), number)
        with _identify(data, label, max_pixels, number) as image:
            check_size(*image.size, label, max_pixels)
            slices = count_pages(data) if data.startswith(SIGNATURES) else 1
            return ImageFacts(str(image.format), slices=slices)


def read_image(source: str | os.PathLike[str] | bytes | BinaryIO, *, max_bytes: int = MAX_IMAGE_BYTES) -> ImageBytes:
    """Reads the file of an image into memory, undecoded, for a later `open_image` of the same slice.

    Raises:
        ImageError: it can't be read or has more than `max_bytes`.
    """
    return ImageBytes(read_bytes(source, max_bytes), name_of(source), slice_of(source))


@contextmanager
def errors_name_image(source: ImageSource) -> Iterator[None]:
    """Turns whatever fails while an image is prepared for a model into an `ImageError` that names the image."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        problem = f"preparing it for the model failed ({describe_error(error)})"
        raise cannot_open(label_of(source), problem, "leave it out") from error


@contextmanager
def _decoder_errors_as_image_error(label: str) -> Iterator[None]:
    """Turns whatever the decoders raise into one `ImageError`."""
    try:
        yield
    except (ImageError, ImportError):
        raise
    except HeaderError as error:
        raise cannot_open(label, error.problem, error.fix) from None
    except Exception:
        # "from None" because their texts may quote patient data.
        raise cannot_open(label, "it is cut off or damaged", "export or download it again") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the decoders' warnings and pydicom's log off the console.

    The lock is there because ``catch_warnings`` swaps a list of the whole process: two threads that leave it in
    the wrong order would silence everything for good.
    """
    logger = logging.getLogger("pydicom")
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        propagate, logger.propagate = logger.propagate, False
        try:
            yield
        finally:
            logger.propagate = propagate


def _file_name(source: ImageSource) -> str:
    """The name of the file, without the number of a slice."""
    return split_slice(name_of(source))[0]


def _identify(data: bytes, label: str, max_pixels: int, number: int) -> ImageFile.ImageFile:
    """The image with its header read and its pixels not yet decoded."""
    try:
        with _quiet():
            if data.startswith(SIGNATURES):
                if number > 1:
                    check_number(number, count_pages(data), label)
                return open_tiff(with_page_first(data, number))
            image = Image.open(BytesIO(data), formats=FORMATS)
            check_number(number, 1, label)
            return open_png(data) if image.format == "PNG" else image
    except UnsupportedTiff as error:
        mend = "save it as PNG, or as an uncompressed grey or RGB TIFF of 8 or 16 unsigned bits"
        raise cannot_open(label, str(error), mend) from None
    except UnidentifiedImageError:
        kind, mend = describe_kind(data) or (None, CONVERT)
        problem = "its content is not a known image" if kind is None else f"it is {kind}, not a known image"
        raise cannot_open(label, problem, mend) from None
    except Image.DecompressionBombError:
        # Pillow has its own limit, twice MAX_IMAGE_PIXELS of its own, and stops before the size can be asked for.
        pillow_limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise above_limit(label, f"more than {pillow_limit:,}", min(max_pixels, pillow_limit), "pixels") from None


def _finish(image: Image.Image, label: str, max_pixels: int) -> Image.Image:
    """Decodes, converts to RGB and turns upright."""
    check_size(*image.size, label, max_pixels)
    image.load()
    rgb = _to_rgb(image)
    orientation = None
    # A broken EXIF block doesn't spoil the pixels.
    with _quiet(), suppress(Exception):
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[orientation])
    # Else a later exif_transpose would turn it a second time.
    rgb.info.clear()
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image of the same size from any Pillow mode."""
    if isinstance(image, Png | Tiff) and (samples := image.samples()) is not None:
        image = draw_sixteen_bits(*samples)
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return Image.fromarray(stretch(grey_values(image))).convert("RGB")
    if image.mode == "L" and (values := grey_values(image)).dtype == np.int8:
        return Image.fromarray(values.view(np.uint8) ^ 0x80).convert("RGB")  # -128 is black
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(rgba, mask=rgba.getchannel("A"))
        return black
    return image.convert("RGB")
