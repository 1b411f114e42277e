"""Open an image file safely and get it as RGB: bounded in bytes and pixels, from a short list of formats.

Nothing is mirrored or resized here: left and right are answers. Only a camera's EXIF orientation is undone.
"""

import logging
import math
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from processing.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

# The largest everyday medical image is an uncompressed mammogram: 4728 x 5928 pixels of 2 bytes, 28 million pixels
# in 53 MiB. The limits let it through, and keep one upload's decoded RGB image at or below 150 MB.
MAX_IMAGE_BYTES = 64 * 2**20
MAX_IMAGE_PIXELS = 50_000_000

# Pillow reads some fifty formats and some of its plugins start other programs (EPS): only what datasets use is tried.
# JPEG includes MPO, the several-picture JPEG of phones.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

# DICOM transfer syntaxes that need no codec but Pillow's and whose size can be checked before they inflate.
_NATIVE_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_RLE_SYNTAX = "1.2.840.10008.1.2.5"
_JPEG_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{part}" for part in (50, 51, 90, 91))
_DEFLATED_SYNTAX = b"1.2.840.10008.1.2.1.99"
_PLAIN = "convert it to uncompressed DICOM or PNG"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PHOTOMETRICS = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", *_COLOURS)

# Only these are kept of a DICOM file, so nothing about the patient is. The extended offset table is left out on
# purpose: the frame that is checked and the one that is decoded must be the same.
_PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PALETTE = tuple(f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue"))
_DICOM_TAGS = [
    *("Modality", "PixelSpacing", "SliceThickness"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(table + part for table in _PALETTE for part in ("Descriptor", "Data")),
    *_PIXEL_DATA,
]

# EXIF 2.32, tag 0x0112: how to turn the stored picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Of DICOM PS3.3 C.7.3.1.1.1; a header may hold any text, so only these are ever shown.
_MODALITIES = {
    **{"CR": "Computed radiography", "CT": "CT", "DX": "Digital radiography", "MG": "Mammography", "MR": "MRI"},
    **{"NM": "Nuclear medicine", "OT": "Other", "PT": "PET", "RF": "Fluoroscopy", "US": "Ultrasound"},
    "XA": "Angiography",
}

_quiet_lock = threading.Lock()

ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image


class ImageError(UserError):
    """An image that can't be opened: one sentence with what is wrong, which file, and the mend."""


def open_image(
    source: ImageSource,
    *,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_IMAGE_PIXELS,
    window: tuple[float, float] | None = None,
) -> Image.Image:
    """Open a PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM image as RGB; of several frames or pages, the first.

    Grey values of more than 8 bits are scaled so that the 1st and 99th percentile become 0 and 255; DICOM grey
    values go through their window. Alpha is composited over black, as medical backgrounds are black.

    Args:
        source: A path, the bytes of a file, a binary file object (read from where it stands, left open) or a
            PIL image (left as it is; ``max_bytes`` doesn't apply).
        max_bytes: Largest file in bytes; checked before it is read.
        max_pixels: Largest width x height in pixels; checked before it is decoded.
        window: ``(center, width)`` in the units of a grey DICOM file after rescaling (Hounsfield units for CT),
            instead of the window in its header; other images don't use it.

    Returns:
        A loaded image of mode RGB, ``(width, height)`` as a viewer shows it, without metadata.

    Raises:
        ImageError: If the image can't be opened, whatever the reason.
    """
    label = _label(source)
    if window is not None and not (math.isfinite(window[0]) and 1 <= window[1] < math.inf):
        raise _error(label, "the window is not (center, width) with a width of at least 1", "change the window")
    if not isinstance(source, Image.Image):
        data = _read(source, label, max_bytes)
    with _one_sentence(label):
        if isinstance(source, Image.Image):
            return _finish(source, label, max_pixels)
        if _is_dicom(data, source):
            with _quiet():
                return _draw_dicom(_read_dicom(data, label, max_pixels), window)
        with _identify(data, label, max_pixels) as image:
            return _finish(image, label, max_pixels)


@dataclass(frozen=True)
class ImageFacts:
    """What may be shown of an image file beside its picture; of a DICOM header nothing that could name a patient.

    Args:
        format: such as PNG or DICOM.
        details: of a DICOM file, name and value: modality, spacing and thickness in mm, frames.
        window: ``(center, width)`` in which a grey DICOM image is opened, in its units.
        value_range: lowest and highest value of a grey DICOM image.
    """

    format: str
    details: dict[str, str] = field(default_factory=dict)
    window: tuple[float, float] | None = None
    value_range: tuple[float, float] | None = None


def image_facts(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> ImageFacts:
    """What an image file says of itself; the arguments are those of `open_image`.

    Raises:
        ImageError: If the image can't be opened, whatever the reason.
    """
    label = _label(source)
    data = _read(source, label, max_bytes)
    with _one_sentence(label):
        if _is_dicom(data, source):
            with _quiet():
                return _dicom_facts(_read_dicom(data, label, max_pixels))
        with _identify(data, label, max_pixels) as image:
            _check_pixels(*image.size, label, max_pixels)
            return ImageFacts(str(image.format))


def read_image(source: str | os.PathLike[str] | bytes | BinaryIO, *, max_bytes: int = MAX_IMAGE_BYTES) -> BytesIO:
    """Read the file of an image into memory, undecoded; what comes back is for `open_image`.

    Raises:
        ImageError: If it can't be read or has more than ``max_bytes``.
    """
    file = BytesIO(_read(source, _label(source), max_bytes))
    file.name = _name(source)
    return file


@contextmanager
def _one_sentence(label: str) -> Iterator[None]:
    """Decoders raise whatever their parsers trip over; it comes out as one error."""
    try:
        yield
    except (ImageError, ImportError):
        raise
    except Exception:
        # "from None" because their texts may quote patient data.
        raise _error(label, "it is cut off or damaged", "export or download it again") from None


def _is_dicom(data: bytes, source: Any) -> bool:
    return data[128:132] == b"DICM" or _name(source).lower().endswith((".dcm", ".dicom"))


def _error(label: str, problem: str, mend: str) -> ImageError:
    return ImageError(f"Cannot open {label}: {problem}; {mend}.")


def _name(source: Any) -> str:
    """The file's name as given; empty if there is none, as for bytes."""
    name = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""


def _label(source: Any) -> str:
    """The name for a message: control characters escaped, only the end of a very long one."""
    name = _name(source)
    if not name and not isinstance(source, str):
        return "the image"
    return repr(name if len(name) <= 200 else "..." + name[-200:])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the decoders' warnings and pydicom's log off the console.

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


def _read(source: Any, label: str, max_bytes: int) -> bytes:
    """The whole file; never more than ``max_bytes + 1`` bytes are read of it."""
    if isinstance(source, bytes | bytearray | memoryview):
        if (size := memoryview(source).nbytes) > max_bytes:
            raise _too_many(label, f"{size:,}", max_bytes, "bytes")
        data = bytes(source)
    elif isinstance(source, str | os.PathLike):
        data = _read_path(source, label, max_bytes)
    elif hasattr(source, "read"):
        data = _read_stream(source, label, max_bytes)
    else:
        raise _error(label, f"a {type(source).__name__} is no image", "give a path, bytes, a file or a PIL image")
    if not data:
        raise _error(label, "it is empty (0 bytes)", "export or download it again")
    return data


def _read_path(path: str | os.PathLike[str], label: str, max_bytes: int) -> bytes:
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes:
            with open(path, "rb") as file:
                return _read_stream(file, label, max_bytes)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise _error(label, "it does not exist", "check the path") from None
    except PermissionError:
        raise _error(label, "reading it is not permitted", "change its permissions or run as its owner") from None
    except (OSError, ValueError):
        raise _error(label, "its path is not valid here", "check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise _error(label, "it is a folder", "name a file inside it")
    if not stat.S_ISREG(status.st_mode):
        # Reading a pipe or a device may wait for ever.
        raise _error(label, "it is a pipe, socket or device and not a regular file", "copy it to a file first")
    raise _too_many(label, f"{status.st_size:,}", max_bytes, "bytes")


def _read_stream(file: BinaryIO, label: str, max_bytes: int) -> bytes:
    data = bytearray()
    try:
        while len(data) <= max_bytes and (chunk := file.read(min(2**20, max_bytes + 1 - len(data)))):
            data += chunk
    except TypeError:
        raise _error(label, "it is open as text", "open it with mode 'rb'") from None
    except Exception:
        raise _error(label, "reading it failed", "open it again and check the disk or connection") from None
    if len(data) > max_bytes:
        raise _too_many(label, f"more than {max_bytes:,}", max_bytes, "bytes")
    return bytes(data)


def _too_many(label: str, found: str, limit: int, unit: str) -> ImageError:
    mend = f"make it smaller or raise max_{unit}"
    return _error(label, f"it has {found} {unit}, above the limit max_{unit} = {limit:,}", mend)


def _check_pixels(width: int, height: int, label: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise _error(label, f"it has no pixels ({width} x {height})", "export it again")
    if width * height > max_pixels:
        raise _too_many(label, f"{width} x {height} = {width * height:,}", max_pixels, "pixels")


def _identify(data: bytes, label: str, max_pixels: int) -> ImageFile.ImageFile:
    """The image with its header read and its pixels not yet decoded."""
    try:
        with _quiet():
            return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        kinds = "PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM"
        raise _error(label, "its content is not a known image", f"convert it to {kinds}") from None
    except Image.DecompressionBombError:
        # Pillow has its own limit, twice MAX_IMAGE_PIXELS of its own, and stops before the size can be asked for.
        pillow_limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise _too_many(label, f"more than {pillow_limit:,}", min(max_pixels, pillow_limit), "pixels") from None


def _finish(image: Image.Image, label: str, max_pixels: int) -> Image.Image:
    """Decode, convert to RGB and turn upright."""
    _check_pixels(*image.size, label, max_pixels)
    image.load()
    rgb = _to_rgb(image)
    orientation = None
    # A broken EXIF block doesn't spoil the pixels.
    with _quiet(), suppress(Exception):
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    # Else a later exif_transpose would turn it a second time.
    rgb.info.clear()
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image of the same size from any Pillow mode."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return Image.fromarray(_stretch(np.asarray(image))).convert("RGB")
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


def _stretch(values: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Scale numbers to uint8 so that the 1st percentile becomes 0 and the 99th 255.

    Args:
        values: ``(height, width)`` of any number type; NaN becomes 0, infinities 0 and 255.
        counted: Boolean mask of the pixels that count for the percentiles; all finite ones if None.

    Returns:
        ``(height, width)`` of uint8; all 0 if the counted pixels are all the same.
    """
    finite = np.isfinite(values)
    sample = values[finite if counted is None else finite & counted]
    if sample.size == 0:
        return np.zeros(values.shape, np.uint8)
    low, high = (float(value) for value in np.percentile(sample, (1, 99)))
    if low == high:
        # A small bright lesion on an even background is less than 1 % of the pixels.
        low, high = float(sample.min()), float(sample.max())
    if low == high:
        return np.zeros(values.shape, np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values.astype(np.result_type(values, np.float32)) - low) * (255 / (high - low))
    return _round(scaled)


def _round(values: np.ndarray) -> np.ndarray:
    """Floats to the nearest uint8, clipped; NaN becomes 0."""
    return np.rint(np.clip(np.nan_to_num(values, nan=0, posinf=255, neginf=0), 0, 255)).astype(np.uint8)


def _read_dicom(data: bytes, label: str, max_pixels: int) -> "Dataset":
    """A DICOM file whose first frame can be decoded safely; only the tags of the pixels are kept, none of the
    patient."""
    import pydicom

    if _DEFLATED_SYNTAX in data:
        # pydicom would inflate the whole dataset before anything could be checked.
        raise _error(label, "its transfer syntax Deflated Explicit VR Little Endian is not supported", _PLAIN)
    dataset = pydicom.dcmread(BytesIO(data), force=True, specific_tags=_DICOM_TAGS)
    if not any(keyword in dataset for keyword in _PIXEL_DATA):
        raise _error(label, "it is no DICOM image (there is no pixel data)", "choose the file of an image")
    _check_pixels(int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0), label, max_pixels)

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        guess = _NATIVE_SYNTAXES[0 if implicit else 1 if little else 2]
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(guess)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in (*_NATIVE_SYNTAXES, _RLE_SYNTAX, *_JPEG_SYNTAXES):
        # The name of an unregistered one is the text in the file, which may be anything.
        name = syntax.name if syntax.name != syntax else "(unregistered)"
        raise _error(label, f"its transfer syntax {name} is not supported", _PLAIN)
    if dataset.PhotometricInterpretation not in _PHOTOMETRICS:
        raise _error(label, f"its photometric interpretation is none of {', '.join(_PHOTOMETRICS)}", _PLAIN)
    if syntax not in _NATIVE_SYNTAXES:
        _check_frame(dataset, syntax, label)
    return dataset


def _draw_dicom(dataset: "Dataset", window: tuple[float, float] | None) -> Image.Image:
    """The first frame as RGB."""
    from pydicom.pixels import pixel_array

    stored = pixel_array(dataset, index=0)  # (rows, columns) or (rows, columns, 3), YBR already RGB
    if stored.ndim == 3:
        return Image.fromarray(_to_8_bits(stored, dataset.BitsStored))
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        little = bool(dataset.original_encoding[1])
        channels = [
            _look_up(stored, dataset[f"{t}Descriptor"].value, dataset[f"{t}Data"].value, little) for t in _PALETTE
        ]
        bits = dataset.RedPaletteColorLookupTableDescriptor[2]
        return Image.fromarray(_to_8_bits(np.stack(channels, axis=-1), bits))
    return Image.fromarray(_render_grey(stored, dataset, window)).convert("RGB")


def _dicom_facts(dataset: "Dataset") -> ImageFacts:
    from pydicom.pixels import pixel_array

    details = {}
    if (modality := dataset.get("Modality")) in _MODALITIES:
        details["Modality"] = _MODALITIES[modality]
    for name, keyword in (("Pixel spacing", "PixelSpacing"), ("Slice thickness", "SliceThickness")):
        value = dataset.get(keyword)
        numbers = value if isinstance(value, Sequence) else [value]
        if value and all(isinstance(number, float) and math.isfinite(number) for number in numbers):
            details[name] = " x ".join(f"{number:g}" for number in numbers) + " mm"
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        details["Frames"] = f"{frames}, of which the first is shown"
    if not dataset.PhotometricInterpretation.startswith("MONOCHROME"):
        return ImageFacts("DICOM", details)
    stored = pixel_array(dataset, index=0)
    _use_first_frame_groups(dataset)
    counted = _modality(stored, dataset, bool(dataset.original_encoding[1]))[~_padding(stored, dataset)]
    counted = counted[np.isfinite(counted)]
    if not counted.size:
        return ImageFacts("DICOM", details)
    window = _header_window(dataset, dataset.get("VOILUTFunction") or "LINEAR")
    if window is None:
        low, high = np.percentile(counted, (1, 99))
        window = (float(low + high) / 2, max(float(high - low), 1.0))
    return ImageFacts("DICOM", details, window, (float(counted.min()), float(counted.max())))


def _check_frame(dataset: "Dataset", syntax: str, label: str) -> None:
    """Refuse a compressed first frame that would inflate beyond the size in the DICOM header."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import get_nr_frames

    frame = get_frame(dataset.PixelData, 0, number_of_frames=get_nr_frames(dataset))
    rows, columns = dataset.Rows, dataset.Columns
    if syntax == _RLE_SYNTAX:
        # PackBits adds at most 1 byte to 128; the header of a frame is 64 bytes.
        plain = rows * columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
        if len(frame) > 2 * plain + 4096:
            raise ValueError("more RLE data than pixels")
        return
    try:
        with Image.open(BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
            size = image.size
    except UnidentifiedImageError:
        problem = "its frame is no JPEG or JPEG 2000 that Pillow reads (12-bit JPEG is not)"
        raise _error(label, problem, _PLAIN) from None
    if size != (columns, rows):
        raise ValueError("the JPEG and the DICOM header differ in size")


def _render_grey(stored: np.ndarray, dataset: "Dataset", window: tuple[float, float] | None) -> np.ndarray:
    """Stored values to uint8 by the greyscale pipeline of DICOM PS3.4 N.2; both ``(rows, columns)``."""
    _use_first_frame_groups(dataset)
    little = bool(dataset.original_encoding[1])
    padding = _padding(stored, dataset)
    values = _modality(stored, dataset, little)
    function = "LINEAR"
    if window is None:
        function = dataset.get("VOILUTFunction") or "LINEAR"
        window = _header_window(dataset, function)
    if window is not None:
        grey = _apply_window(values, *window, function)
    elif dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        index = np.rint(values).astype(np.int32)
        grey = _to_8_bits(_look_up(index, table.LUTDescriptor, table.LUTData, little), table.LUTDescriptor[2])
    else:
        grey = _stretch(values, ~padding)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    grey[padding] = 0  # padding is background (PS3.3 C.7.5.1.1.2), in MONOCHROME1 too
    return grey


def _use_first_frame_groups(dataset: "Dataset") -> None:
    """Put rescale and window of an enhanced multi-frame file (PS3.3 C.7.6.16) where single-frame files have them."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (dataset.get(groups) or [])[:1]:
            for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (group.get(macro) or [])[:1]:
                    dataset.update(item)


def _padding(stored: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Boolean mask of the pixels that only fill the rectangle (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    # Cast as the pixels are: writers store -2000 as the unsigned 63536 too.
    ends = np.array([value, value if limit is None else limit]).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def _modality(stored: np.ndarray, dataset: "Dataset", little: bool) -> np.ndarray:
    """Stored values to the scanner's units (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        table = dataset.ModalityLUTSequence[0]
        stored = _look_up(stored, table.LUTDescriptor, table.LUTData, little)
    values = stored.astype(np.result_type(stored, np.float32))
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    values *= 1.0 if slope is None else float(slope)
    values += 0.0 if intercept is None else float(intercept)
    return values


def _look_up(values: np.ndarray, descriptor: Any, data: Any, little: bool) -> np.ndarray:
    """Integers through a DICOM table (PS3.3 C.11.1.1.1): below its first value the first entry, above the last."""
    entries = (descriptor[0] & 0xFFFF) or 2**16  # 0 stands for 65,536
    if isinstance(data, bytes):
        width = 1 if len(data) < 2 * entries else 2
        data = np.frombuffer(data, f"{'<' if little else '>'}u{width}")
    table = np.atleast_1d(np.asarray(data, np.uint16))[:entries]
    return table[np.clip(values.astype(np.int32) - descriptor[1], 0, len(table) - 1)]


def _to_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    return (values >> max(bits - 8, 0)).astype(np.uint8)


def _header_window(dataset: "Dataset", function: str) -> tuple[float, float] | None:
    """``(center, width)``, the first if there are several; None if there is none or it is not valid."""
    numbers = []
    for value in (dataset.get("WindowCenter"), dataset.get("WindowWidth")):
        first = value[0] if isinstance(value, Sequence) and value else value
        numbers.append(float(first) if isinstance(first, float) else math.nan)
    center, width = numbers
    if not math.isfinite(center + width):
        return None
    return (center, width) if width >= 1 or (function != "LINEAR" and width > 0) else None


def _apply_window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Values to uint8 through a window, DICOM PS3.3 C.11.2.1.2.1 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT).

    LINEAR: 0 up to ``center - 0.5 - (width - 1) / 2``, 255 above ``center - 0.5 + (width - 1) / 2``, and
    ``((x - (center - 0.5)) / (width - 1) + 0.5) * 255`` between.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if function == "SIGMOID":
            return _round(255 / (1 + np.exp(-4 * (values - center) / width)))
        if function == "LINEAR":
            center, width = center - 0.5, max(width - 1, 1e-6)  # a width of 1 is a step, not a division by 0
        return _round((values - (center - width / 2)) * (255 / width))
