"""Opens an image file safely as RGB: bounded in bytes and pixels, from a short list of formats.

Nothing is mirrored or resized here: left and right are answers. Only a camera's EXIF orientation is undone.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from processing.dicom import describe_dicom, dicom_values, draw_dicom, is_dicom, read_dicom
from processing.dicom_grey import Window, apply_window
from processing.dicom_header import HeaderError
from processing.errors import UserError, describe_error
from processing.file_kinds import CONVERT, describe_kind
from processing.image_source import ImageBytes, ImageSource, label_of, name_of, read_bytes, slice_of, split_slice
from processing.nifti import Nifti, is_nifti
from processing.pixels import ImageError, ImageFacts, above_limit, cannot_open, check_number, check_size, stretch
from processing.png import Png, open_png
from processing.quiet import quiet_decoders
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
            CT), instead of the window in its header. Of another grey image it is one of its levels 0 to 255; images in
            colour don't use it. Of DICOM it is the standard's LINEAR window, which needs a width of at least 1; a
            narrower one, and that of other files, is LINEAR_EXACT (`processing.dicom_grey`).

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
            return _windowed(_finish(source, label, max_pixels), window)
    with _opened(source, max_bytes, max_pixels) as (file, number, _):
        if isinstance(file, Nifti):
            if file.slices > 1 and slice_of(source) is None:
                example = f"{os.path.basename(_file_name(source)) or 'volume.nii.gz'}#{(file.slices + 1) // 2}"
                raise cannot_open(
                    label, f"it is a volume of {file.slices:,} slices", f"name one of them, as in {example}"
                )
            return file.draw(number, window)
        if isinstance(file, Image.Image):
            return _windowed(_finish(file, label, max_pixels), window)
        return draw_dicom(file, window, number)


def read_values(
    source: ImageSource, *, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_IMAGE_PIXELS
) -> np.ndarray | None:
    """The numbers of a grey image that a `window` of `open_image` is about; None of an image in colour.

    The arguments are those of `open_image`.

    Returns:
        ``(height, width)``: of DICOM and NIfTI in the units of the file, NaN where a rectangle is only filled. Of
        other images the grey levels 0 to 255 that `open_image` gives.

    Raises:
        ImageError: the image can't be opened, whatever the reason.
    """
    if not isinstance(source, Image.Image):
        with _opened(source, max_bytes, max_pixels) as (file, number, _):
            if isinstance(file, Nifti):
                values = file.values(number)
                return values if values.ndim == 2 else None
            if not isinstance(file, Image.Image):
                return dicom_values(file, number)
            source = _finish(file, label_of(source), max_pixels)
    return _grey_levels(source)


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
    with _opened(source, max_bytes, max_pixels) as (file, number, count):
        if isinstance(file, Nifti):
            return file.describe(number)
        if not isinstance(file, Image.Image):
            return describe_dicom(file, number)
        check_size(*file.size, label_of(source), max_pixels)
        return ImageFacts(str(file.format), slices=count)


@contextmanager
def _opened(source: ImageSource, max_bytes: int, max_pixels: int) -> Iterator[tuple[Any, int, int]]:
    """A file whose pixels are not yet decoded, the number of the slice that is meant, and how many slices it has.

    The file is a `Nifti`, a Pillow image, or a dataset of pydicom. Whatever its use raises is an `ImageError`.
    """
    label = label_of(source)
    data, number = read_bytes(source, max_bytes), slice_of(source) or 1
    with _decoder_errors_as_image_error(label):
        if is_nifti(data):
            with quiet_decoders():
                volume = Nifti(data, label, max_pixels)
                yield volume, number, volume.slices
        elif is_dicom(data, _file_name(source)):
            with quiet_decoders():
                dataset = read_dicom(data, label, max_pixels, number)
                yield dataset, number, dataset.NumberOfFrames
        else:
            count = 1
            if data.startswith(SIGNATURES):
                count = count_pages(data)
                data = with_page_first(data, number) if number <= count else data
            with _identify(data, label, max_pixels) as image:
                check_number(number, count, label)
                yield image, number, count


def _windowed(image: Image.Image, window: Window | None) -> Image.Image:
    """An image in a window of its grey levels; one in colour as it is."""
    levels = None if window is None else _grey_levels(image)
    if window is None or levels is None:
        return image
    return Image.fromarray(apply_window(levels.astype(np.float32), *window, "LINEAR_EXACT")).convert("RGB")


def _grey_levels(image: Image.Image) -> np.ndarray | None:
    """The grey levels ``(height, width)`` of an image whose channels are equal, else None."""
    levels = np.asarray(image)
    if levels.ndim == 2:
        return levels
    first = levels[..., :1]
    return levels[..., 0] if (levels == first).all() else None


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


def _file_name(source: ImageSource) -> str:
    """The name of the file, without the number of a slice."""
    return split_slice(name_of(source))[0]


def _identify(data: bytes, label: str, max_pixels: int) -> ImageFile.ImageFile:
    """The image with its header read and its pixels not yet decoded."""
    try:
        with quiet_decoders():
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
    with quiet_decoders(), suppress(Exception):
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
