"""A DICOM file: read safely, drawn as RGB, and described without its patient."""

import math
import re
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from processing.dicom_grey import (
    Window,
    high_8_bits,
    is_little_endian,
    look_up,
    padding_range,
    render_grey,
    rescaled,
    stored_range,
    window_and_range,
)
from processing.dicom_header import (
    AGAIN,
    CONVERT,
    MONOCHROME,
    PALETTES,
    PIXEL_TAGS,
    HeaderError,
    as_number,
    check_size_elements,
    complete_header,
    first_value,
    lookup_table,
    named,
    values_of,
)
from processing.file_kinds import IMAGES, describe_kind
from processing.pixels import ImageFacts, check_number, check_size

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

# Transfer syntaxes that need no codec but Pillow's and whose size can be checked before they inflate.
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE_SYNTAXES = (IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN)
RLE_SYNTAX = "1.2.840.10008.1.2.5"
JPEG_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{part}" for part in (50, 51, 90, 91))
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
DEFLATED_SYNTAX = b"1.2.840.10008.1.2.1.99"

# The first element of a file without preamble: group 2 or 8, then a type of two letters, or in the implicit encoding
# a length below 2**16.
FIRST_ELEMENT = re.compile(rb"([\x02\x08]\0.\0|\0[\x02\x08]\0.)([A-Z]{2}|..\0\0)", re.DOTALL)
ENCAPSULATED = b"\xfe\xff\x00\xe0"  # the tag of an item, with which compressed pixels begin

# Only these are kept of a file, so nothing about the patient is. The extended offset table is left out on purpose:
# the frame that is checked and the one that is decoded must be the same.
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
    """Whether a file is DICOM, by its preamble or first element.

    A name that ends in .dcm counts where the content is nothing that is known.
    """
    if data[128:132] == b"DICM" or data.startswith(b"DICM") or FIRST_ELEMENT.match(data):
        return True
    return name.lower().endswith((".dcm", ".dicom")) and not data.startswith(IMAGES) and describe_kind(data) is None


def read_dicom(data: bytes, label: str, max_pixels: int, number: int = 1) -> "Dataset":
    """Reads a file of which one frame can be decoded safely; only the tags of its pixels are kept.

    Args:
        number: of the frame, from 1.

    Raises:
        ImageError: it has no pixels or too many, or no such frame.
        HeaderError: it is encoded in a way that is not supported, or its header can't be used.
        Exception: whatever pydicom raises for a damaged file.
    """
    import pydicom

    if DEFLATED_SYNTAX in data:
        # pydicom would inflate the whole dataset before anything could be checked.
        raise HeaderError("its transfer syntax Deflated Explicit VR Little Endian is not supported", CONVERT)
    stream = BytesIO(data.removeprefix(b"DICM"))
    dataset = pydicom.dcmread(stream, force=True, specific_tags=TAGS)
    if not any(keyword in dataset for keyword in PIXEL_TAGS):
        raise HeaderError("it is not a DICOM image (there is no pixel data)", "choose the file of an image")
    check_size(*check_size_elements(dataset), label, max_pixels)
    syntax = _find_syntax(dataset)
    if syntax not in (*NATIVE_SYNTAXES, RLE_SYNTAX, *JPEG_SYNTAXES):
        # The name of an unregistered one is the text in the file, which may be anything.
        name = syntax.name if syntax.name != syntax else "(unregistered)"
        raise HeaderError(f"its transfer syntax {name} is not supported", CONVERT)
    sign_is_known = first_value(dataset, "PixelRepresentation") is not None
    complete_header(dataset, syntax in NATIVE_SYNTAXES)
    check_number(number, dataset.NumberOfFrames, label)
    if syntax not in NATIVE_SYNTAXES:
        signed = _check_compressed_frame(dataset, syntax, number - 1)
        if not sign_is_known:
            dataset.PixelRepresentation = int(signed)
    return dataset


def _find_syntax(dataset: "Dataset") -> "UID":
    """The transfer syntax, put into the file's meta information where that has none or a wrong one.

    Raises:
        HeaderError: the pixels are compressed and nothing says how.
    """
    from pydicom.uid import UID

    meta = dataset.file_meta
    stated = first_value(meta, "TransferSyntaxUID")
    encapsulated = (dataset.get("PixelData") or b"").startswith(ENCAPSULATED)
    if stated is None or stated in NATIVE_SYNTAXES:
        if encapsulated and dataset["PixelData"].is_undefined_length:
            wrong = "is missing" if stated is None else "says that they are not"
            raise HeaderError(f"its pixels are compressed, but its {named('TransferSyntaxUID')} {wrong}")
        if stated is None:
            meta.TransferSyntaxUID = UID(_native_syntax(dataset))
    elif stated in (RLE_SYNTAX, *JPEG_SYNTAXES) and not encapsulated:
        meta.TransferSyntaxUID = UID(_native_syntax(dataset))  # it was decompressed and not renamed
    return meta.TransferSyntaxUID


def _native_syntax(dataset: "Dataset") -> str:
    """The syntax of a file that names none, by the encoding in which pydicom could read it."""
    implicit, little = dataset.original_encoding
    if implicit:
        return IMPLICIT_LITTLE_ENDIAN
    return EXPLICIT_LITTLE_ENDIAN if little else EXPLICIT_BIG_ENDIAN


def draw_dicom(dataset: "Dataset", window: Window | None, number: int = 1) -> Image.Image:
    """A frame as RGB.

    Args:
        window: ``(center, width)``, instead of that of the header.
        number: of the frame, from 1.

    Raises:
        HeaderError: an element of the header can't be read.
    """
    frame = number - 1
    if dataset.SamplesPerPixel == 3:
        return Image.fromarray(_colours(dataset, frame))
    stored = _stored_values(dataset, frame)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        tables = [lookup_table(dataset, f"{palette}Descriptor", f"{palette}Data") for palette in PALETTES]
        channels = [look_up(stored, table, is_little_endian(dataset)) for table in tables if table is not None]
        bits = dataset.RedPaletteColorLookupTableDescriptor[2]
        return Image.fromarray(high_8_bits(np.stack(channels, axis=-1), bits))
    grey = render_grey(stored, _padding(stored, dataset, frame), dataset, window, frame)
    return Image.fromarray(grey).convert("RGB")


def describe_dicom(dataset: "Dataset", number: int = 1) -> ImageFacts:
    """The facts of a file and, of a grey one, the window and the values of a frame.

    Args:
        number: of the frame, from 1.

    Raises:
        HeaderError: an element of the header can't be read.
    """
    details = {}
    if (modality := first_value(dataset, "Modality")) in MODALITIES:
        details["Modality"] = MODALITIES[modality]
    for name, keyword in (("Pixel spacing", "PixelSpacing"), ("Slice thickness", "SliceThickness")):
        numbers = [as_number(value) for value in values_of(dataset, keyword)]
        if any(numbers) and all(map(math.isfinite, numbers)):
            details[name] = " x ".join(f"{number:g}" for number in numbers) + " mm"
    facts = ImageFacts("DICOM", details, slices=int(dataset.NumberOfFrames))
    if dataset.PhotometricInterpretation not in MONOCHROME:
        return facts
    stored = _stored_values(dataset, number - 1)
    found = window_and_range(stored, _padding(stored, dataset, number - 1), dataset, number - 1)
    return facts if found is None else replace(facts, window=found[0], value_range=found[1])


def dicom_values(dataset: "Dataset", number: int = 1) -> np.ndarray | None:
    """The numbers of a grey frame in the scanner's units, ``(rows, columns)``, NaN in its padding; None of colours.

    Args:
        number: of the frame, from 1.

    Raises:
        HeaderError: an element of the header can't be read.
    """
    if dataset.PhotometricInterpretation not in MONOCHROME:
        return None
    stored = _stored_values(dataset, number - 1)
    return rescaled(stored, _padding(stored, dataset, number - 1), dataset, number - 1)


def _colours(dataset: "Dataset", frame: int) -> np.ndarray:
    """A frame of an image of three samples as RGB, ``(rows, columns, 3)`` of uint8."""
    from pydicom.pixels.processing import convert_color_space

    if dataset.BitsAllocated == 8 or dataset.PhotometricInterpretation not in ("YBR_FULL", "YBR_FULL_422"):
        return high_8_bits(_stored_values(dataset, frame), dataset.BitsStored)
    # pydicom turns YBR to RGB in 8 bits only
    colours = high_8_bits(_stored_values(dataset, frame, as_rgb=False), dataset.BitsStored)
    return convert_color_space(colours, "YBR_FULL", "RGB")


def _padding(stored: np.ndarray, dataset: "Dataset", frame: int) -> np.ndarray:
    """Boolean mask of the pixels that only fill the rectangle."""
    from pydicom.pixels import pixel_array

    ends = padding_range(dataset, stored.dtype)
    if ends is None:
        return np.zeros(stored.shape, bool)
    low, high = ends
    if "PixelData" in dataset and dataset.file_meta.TransferSyntaxUID in (*NATIVE_SYNTAXES, RLE_SYNTAX):
        lowest, highest = stored_range(dataset)
        if low < lowest or high > highest:  # it is told by bits that are not of the stored ones
            stored = pixel_array(dataset, index=frame, bits_stored=dataset.BitsAllocated)
    return (stored >= low) & (stored <= high)


def _stored_values(dataset: "Dataset", frame: int, as_rgb: bool = True) -> np.ndarray:
    """The numbers of a frame, ``(rows, columns)`` or ``(rows, columns, 3)``, YBR as RGB if `as_rgb`.

    They are the `BitsStored` bits up to `HighBit`. Other bits may hold overlays.
    """
    from pydicom.pixels import pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    if "PixelData" in dataset and syntax in (*NATIVE_SYNTAXES, RLE_SYNTAX):
        unused = dataset.HighBit + 1 - dataset.BitsStored  # bits below
        if unused:
            # pydicom takes the lowest bits. Told of some more, it takes all up to HighBit, and extends the sign.
            values = pixel_array(dataset, index=frame, bits_stored=dataset.HighBit + 1, as_rgb=as_rgb)
            if not _is_right_aligned(values, unused, dataset.BitsStored):
                return values >> unused
    try:
        return pixel_array(dataset, index=frame, as_rgb=as_rgb)
    except RuntimeError:  # pydicom's word for any failure of a decoder
        problem = "it is cut off or damaged, or compressed in a way that Pillow can't read"
        raise HeaderError(problem, f"{AGAIN} or {CONVERT}") from None


def _is_right_aligned(values: np.ndarray, unused: int, bits: int) -> bool:
    """Whether a `HighBit` that leaves bits below unused is wrong: they are used, and none above `bits` is."""
    used = np.any(values & (2**unused - 1))
    return bool(used) and values.max() < 2**bits and values.min() >= -(2 ** (bits - 1))


def _check_compressed_frame(dataset: "Dataset", syntax: str, number: int) -> bool:
    """Refuses a compressed frame that Pillow can't decode, or that would inflate beyond the header's size.

    Returns:
        Whether the frame says that its numbers are signed, as JPEG 2000 can.
    """
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import get_j2k_parameters

    frame = get_frame(dataset.PixelData, number, number_of_frames=dataset.NumberOfFrames)
    rows, columns, samples = dataset.Rows, dataset.Columns, dataset.SamplesPerPixel
    if syntax == RLE_SYNTAX:
        # PackBits adds at most 1 byte to 128; the header of a frame is 64 bytes.
        plain = rows * columns * samples * dataset.BitsAllocated // 8
        if len(frame) > 2 * plain + 4096:
            raise HeaderError(f"it is cut off or damaged: {len(frame):,} bytes of RLE data for {plain:,} bytes", AGAIN)
        return False
    try:
        with Image.open(BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
            width, height = image.size
    except UnidentifiedImageError:
        problem = "its frame is not a JPEG or JPEG 2000 that Pillow can read (12-bit JPEG is not supported)"
        raise HeaderError(problem, CONVERT) from None
    if (width, height) != (columns, rows):
        sizes = f"{width} x {height} pixels, its header asks for {columns} x {rows}"
        raise HeaderError(f"it is cut off or damaged: its frame has {sizes}", AGAIN)
    parameters = get_j2k_parameters(frame)
    if samples == 3 and parameters.get("precision", 8) > 8:
        raise HeaderError("it has JPEG 2000 colours of more than 8 bits, which are not supported", CONVERT)
    if syntax == JPEG_EXTENDED and dataset.BitsStored != 8:
        raise HeaderError("its header asks for 12-bit JPEG, which is not supported", CONVERT)
    return bool(parameters.get("is_signed"))
