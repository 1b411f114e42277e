"""A DICOM file: read safely, drawn as RGB, and described without its patient."""

import math
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from processing.pixels import ImageFacts, cannot_open, check_size, stretch, to_uint8

if TYPE_CHECKING:
    from pydicom import Dataset

# Transfer syntaxes that need no codec but Pillow's and whose size can be checked before they inflate.
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE_SYNTAXES = (IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN)
RLE_SYNTAX = "1.2.840.10008.1.2.5"
JPEG_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{part}" for part in (50, 51, 90, 91))
DEFLATED_SYNTAX = b"1.2.840.10008.1.2.1.99"
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
PHOTOMETRICS = (*MONOCHROME, "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
CONVERT = "convert it to uncompressed DICOM or PNG"  # the fix for what is not supported

# Only these are kept of a file, so nothing about the patient is. The extended offset table is left out on purpose:
# the frame that is checked and the one that is decoded must be the same.
PIXEL_TAGS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
PALETTES = ("RedPaletteColorLookupTable", "GreenPaletteColorLookupTable", "BluePaletteColorLookupTable")
TAGS = [
    "Modality",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *(f"{palette}{part}" for palette in PALETTES for part in ("Descriptor", "Data")),
    *PIXEL_TAGS,
]

# Of PS3.3 C.7.3.1.1.1; a header may hold any text, so only these are ever shown.
MODALITIES = {
    "CR": "Computed radiography",
    "CT": "CT",
    "DX": "Digital radiography",
    "MG": "Mammography",
    "MR": "MRI",
    "NM": "Nuclear medicine",
    "OT": "Other",
    "PT": "PET",
    "RF": "Fluoroscopy",
    "US": "Ultrasound",
    "XA": "Angiography",
}


def is_dicom(data: bytes, name: str) -> bool:
    """Whether a file is DICOM by its preamble, or by its name where the preamble is missing."""
    return data[128:132] == b"DICM" or name.lower().endswith((".dcm", ".dicom"))


def read_dicom(data: bytes, label: str, max_pixels: int) -> "Dataset":
    """Reads a file whose first frame can be decoded safely; only the tags of its pixels are kept.

    Raises:
        ImageError: it has no pixels or too many, or is encoded in a way that is not supported.
        Exception: whatever pydicom raises for a damaged file.
    """
    import pydicom

    if DEFLATED_SYNTAX in data:
        # pydicom would inflate the whole dataset before anything could be checked.
        raise cannot_open(label, "its transfer syntax Deflated Explicit VR Little Endian is not supported", CONVERT)
    dataset = pydicom.dcmread(BytesIO(data), force=True, specific_tags=TAGS)
    if not any(keyword in dataset for keyword in PIXEL_TAGS):
        raise cannot_open(label, "it is not a DICOM image (there is no pixel data)", "choose the file of an image")
    check_size(int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0), label, max_pixels)

    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(_native_syntax(dataset))
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in (*NATIVE_SYNTAXES, RLE_SYNTAX, *JPEG_SYNTAXES):
        # The name of an unregistered one is the text in the file, which may be anything.
        name = syntax.name if syntax.name != syntax else "(unregistered)"
        raise cannot_open(label, f"its transfer syntax {name} is not supported", CONVERT)
    if dataset.PhotometricInterpretation not in PHOTOMETRICS:
        raise cannot_open(label, f"its photometric interpretation is none of {', '.join(PHOTOMETRICS)}", CONVERT)
    if syntax not in NATIVE_SYNTAXES:
        _check_compressed_frame(dataset, syntax, label)
    return dataset


def _native_syntax(dataset: "Dataset") -> str:
    """The syntax of a file that names none, by the encoding in which pydicom could read it."""
    implicit, little = dataset.original_encoding
    if implicit:
        return IMPLICIT_LITTLE_ENDIAN
    return EXPLICIT_LITTLE_ENDIAN if little else EXPLICIT_BIG_ENDIAN


def draw_dicom(dataset: "Dataset", window: tuple[float, float] | None) -> Image.Image:
    """The first frame as RGB; `window` ``(center, width)`` replaces that of the header."""
    from pydicom.pixels import pixel_array

    stored = pixel_array(dataset, index=0)  # (rows, columns) or (rows, columns, 3), YBR already RGB
    if stored.ndim == 3:
        return Image.fromarray(_high_8_bits(stored, dataset.BitsStored))
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        little = _is_little_endian(dataset)
        channels = [
            _look_up(stored, dataset[f"{palette}Descriptor"].value, dataset[f"{palette}Data"].value, little)
            for palette in PALETTES
        ]
        bits = dataset.RedPaletteColorLookupTableDescriptor[2]
        return Image.fromarray(_high_8_bits(np.stack(channels, axis=-1), bits))
    return Image.fromarray(_render_grey(stored, dataset, window)).convert("RGB")


def describe_dicom(dataset: "Dataset") -> ImageFacts:
    """The facts of a file and, of a grey one, the window and the values of its first frame."""
    from pydicom.pixels import pixel_array

    details = {}
    if (modality := dataset.get("Modality")) in MODALITIES:
        details["Modality"] = MODALITIES[modality]
    for name, keyword in (("Pixel spacing", "PixelSpacing"), ("Slice thickness", "SliceThickness")):
        value = dataset.get(keyword)
        numbers = value if isinstance(value, Sequence) else [value]
        if value and all(isinstance(number, float) and math.isfinite(number) for number in numbers):
            details[name] = " x ".join(f"{number:g}" for number in numbers) + " mm"
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        details["Frames"] = f"{frames}, of which the first is shown"
    if dataset.PhotometricInterpretation not in MONOCHROME:
        return ImageFacts("DICOM", details)
    stored = pixel_array(dataset, index=0)
    _use_first_frame_groups(dataset)
    counted = _rescale(stored, dataset)[~_padding(stored, dataset)]
    counted = counted[np.isfinite(counted)]
    if not counted.size:
        return ImageFacts("DICOM", details)
    window = _header_window(dataset, dataset.get("VOILUTFunction") or "LINEAR")
    if window is None:
        low, high = np.percentile(counted, (1, 99))
        window = (float(low + high) / 2, max(float(high - low), 1.0))
    return ImageFacts("DICOM", details, window, (float(counted.min()), float(counted.max())))


def _check_compressed_frame(dataset: "Dataset", syntax: str, label: str) -> None:
    """Refuses a compressed first frame that would inflate beyond the size in the DICOM header."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import get_nr_frames

    frame = get_frame(dataset.PixelData, 0, number_of_frames=get_nr_frames(dataset))
    rows, columns = dataset.Rows, dataset.Columns
    if syntax == RLE_SYNTAX:
        # PackBits adds at most 1 byte to 128; the header of a frame is 64 bytes.
        plain = rows * columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
        if len(frame) > 2 * plain + 4096:
            raise ValueError("more RLE data than pixels")
        return
    try:
        with Image.open(BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
            size = image.size
    except UnidentifiedImageError:
        problem = "its frame is not a JPEG or JPEG 2000 that Pillow can read (12-bit JPEG is not supported)"
        raise cannot_open(label, problem, CONVERT) from None
    if size != (columns, rows):
        raise ValueError("the JPEG and the DICOM header differ in size")


def _render_grey(stored: np.ndarray, dataset: "Dataset", window: tuple[float, float] | None) -> np.ndarray:
    """Stored values to uint8 by the greyscale pipeline of DICOM PS3.4 N.2; both ``(rows, columns)``."""
    _use_first_frame_groups(dataset)
    padding = _padding(stored, dataset)
    values = _rescale(stored, dataset)
    function = "LINEAR"
    if window is None:
        function = dataset.get("VOILUTFunction") or "LINEAR"
        window = _header_window(dataset, function)
    if window is not None:
        grey = _apply_window(values, *window, function)
    elif dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        index = np.rint(values).astype(np.int32)
        found = _look_up(index, table.LUTDescriptor, table.LUTData, _is_little_endian(dataset))
        grey = _high_8_bits(found, table.LUTDescriptor[2])
    else:
        grey = stretch(values, ~padding)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    grey[padding] = 0  # padding is background (PS3.3 C.7.5.1.1.2), in MONOCHROME1 too
    return grey


def _use_first_frame_groups(dataset: "Dataset") -> None:
    """Puts rescale and window of an enhanced multi-frame file (PS3.3 C.7.6.16) where single-frame files have them."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (dataset.get(groups) or [])[:1]:
            for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (group.get(macro) or [])[:1]:
                    dataset.update(item)


def _is_little_endian(dataset: "Dataset") -> bool:
    return bool(dataset.original_encoding[1])


def _padding(stored: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Boolean mask of the pixels that only fill the rectangle (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    # Cast as the pixels are: writers store -2000 as the unsigned 63536 too.
    ends = np.array([value, value if limit is None else limit]).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def _rescale(stored: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Stored values to the scanner's units, by table or by slope and intercept (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        table = dataset.ModalityLUTSequence[0]
        stored = _look_up(stored, table.LUTDescriptor, table.LUTData, _is_little_endian(dataset))
    values = stored.astype(np.result_type(stored, np.float32))
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    values *= 1.0 if slope is None else float(slope)
    values += 0.0 if intercept is None else float(intercept)
    return values


def _look_up(values: np.ndarray, descriptor: Any, data: Any, little: bool) -> np.ndarray:
    """Integers through a DICOM table (PS3.3 C.11.1.1.1): below its first value the first entry, above the last.

    Args:
        descriptor: number of entries, first value, bits of an entry.
        data: entries as numbers, or as bytes in the byte order of the file.
        little: that order is little-endian.
    """
    entries = (descriptor[0] & 0xFFFF) or 2**16  # 0 stands for 65,536
    if isinstance(data, bytes):
        width = 1 if len(data) < 2 * entries else 2
        data = np.frombuffer(data, f"{'<' if little else '>'}u{width}")
    table = np.atleast_1d(np.asarray(data, np.uint16))[:entries]
    return table[np.clip(values.astype(np.int32) - descriptor[1], 0, len(table) - 1)]


def _high_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
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
            return to_uint8(255 / (1 + np.exp(-4 * (values - center) / width)))
        if function == "LINEAR":
            center, width = center - 0.5, max(width - 1, 1e-6)  # a width of 1 is a step, not a division by 0
        return to_uint8((values - (center - width / 2)) * (255 / width))
