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
from processing.image_source import ImageSource, label_of, name_of, read_bytes
from processing.pixels import ImageError, ImageFacts, above_limit, cannot_open, check_size, stretch
from processing.png import Png, open_png
from processing.sixteen_bits import draw_sixteen_bits
from processing.tiff import SIGNATURES, Tiff, UnsupportedTiff, grey_values, open_tiff

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
    """Opens a PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM image as RGB; of several frames or pages, the first.

    The content says which it is, whatever the name ends in. Grey values of more than 8 bits are scaled so that the 1st
    and 99th percentile become 0 and 255; three equal channels of 16 bits are grey. Other colours of 16 bits keep the
    upper 8, or those of 12 bits where no number needs more. DICOM grey values go through their window. Alpha is
    composited over black, as medical backgrounds are black. Of grey TIFF in several planes the first is taken.

    Args:
        source: a path, the bytes of a file, a binary file object (read from where it stands, left open) or a
            PIL image (left as it is; `max_bytes` doesn't apply, and of 16-bit colours or alpha it has 8 bits).
        max_bytes: largest file in bytes; checked before it is read.
        max_pixels: largest width x height in pixels; checked before it is decoded.
        window: ``(center, width)`` in the units of a grey DICOM file after rescaling (Hounsfield units for CT),
            instead of the window in its header; other images don't use it. It is the standard's LINEAR window, which
            needs a width of at least 1; a narrower one is LINEAR_EXACT (`processing.dicom_grey`).

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
    data = read_bytes(source, max_bytes)
    with _decoder_errors_as_image_error(label):
        if is_dicom(data, name_of(source)):
            with _quiet():
                return draw_dicom(read_dicom(data, label, max_pixels), window)
        with _identify(data, label, max_pixels) as image:
            return _finish(image, label, max_pixels)


def image_facts(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> ImageFacts:
    """Reads what an image file says of itself; the arguments are those of `open_image`.

    Raises:
        ImageError: the image can't be opened, whatever the reason.
    """
    label = label_of(source)
    data = read_bytes(source, max_bytes)
    with _decoder_errors_as_image_error(label):
        if is_dicom(data, name_of(source)):
            with _quiet():
                return describe_dicom(read_dicom(data, label, max_pixels))
        with _identify(data, label, max_pixels) as image:
            check_size(*image.size, label, max_pixels)
            return ImageFacts(str(image.format))


def read_image(source: str | os.PathLike[str] | bytes | BinaryIO, *, max_bytes: int = MAX_IMAGE_BYTES) -> BytesIO:
    """Reads the file of an image into memory, undecoded, for a later `open_image`.

    Raises:
        ImageError: it can't be read or has more than `max_bytes`.
    """
    file = BytesIO(read_bytes(source, max_bytes))
    file.name = name_of(source)
    return file


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


def _identify(data: bytes, label: str, max_pixels: int) -> ImageFile.ImageFile:
    """The image with its header read and its pixels not yet decoded."""
    try:
        with _quiet():
            if data.startswith(SIGNATURES):
                return open_tiff(data)
            image = Image.open(BytesIO(data), formats=FORMATS)
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
