"""The elements of a DICOM header that a picture depends on, checked one by one.

A missing element gets its value where the standard or the pixels leave one possible. What can't be read gets a
sentence that names the element.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
GREY_OR_PALETTE = (*MONOCHROME, "PALETTE COLOR")
PHOTOMETRICS = (*GREY_OR_PALETTE, "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PIXEL_TAGS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
PALETTES = ("RedPaletteColorLookupTable", "GreenPaletteColorLookupTable", "BluePaletteColorLookupTable")

CORRECT = "correct the element or export the file again"
AGAIN = "export or download it again"
CONVERT = "convert it to uncompressed DICOM or PNG (gdcmconv --raw does)"  # what is not supported


LookupTable = tuple[list[int], bytes | Sequence[int]]  # descriptor and entries


class HeaderError(Exception):
    """A file that can't be drawn as its header is.

    Args:
        problem: what is wrong, as the part of a sentence that begins with "it" or "its".
        fix: the mend.
    """

    def __init__(self, problem: str, fix: str = CORRECT) -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix


def named(keyword: str) -> str:
    """An element's keyword with its tag, as in ``Rows (0028,0010)``."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword) or 0
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def values_of(dataset: "Dataset", keyword: str) -> list[Any]:
    """The values of an element, as texts where pydicom can't read them; none where it is missing or empty."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom raises many kinds for a value that is not of its type
        value = dataset.get_item(keyword).value
    if isinstance(value, bytes):
        value = value.decode("latin-1").split("\\")
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    values = [one.strip(" \0") if isinstance(one, str) else one for one in values]
    return [one for one in values if one is not None and one != ""]


def first_value(dataset: "Dataset", keyword: str) -> Any:
    """The first of `values_of` an element, or None."""
    return next(iter(values_of(dataset, keyword)), None)


def as_number(value: Any) -> float:
    """A value as a number, NaN where it is none. A decimal comma is read as a point."""
    try:
        return float(value.replace(",", ".") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return math.nan


def number(dataset: "Dataset", keyword: str) -> float | None:
    """The first value of an element as a finite number; None where it is missing or empty.

    Raises:
        HeaderError: it is not a number.
    """
    value = first_value(dataset, keyword)
    if value is None:
        return None
    found = as_number(value)
    if not math.isfinite(found):
        raise HeaderError(f"its {named(keyword)} is not a number")
    return found


def optional_number(dataset: "Dataset", keyword: str) -> float | None:
    """`number`, but None where it is not one."""
    try:
        return number(dataset, keyword)
    except HeaderError:
        return None


def whole_number(dataset: "Dataset", keyword: str, allowed: Sequence[int] | None = None) -> int | None:
    """The first value of an element as a whole number that is not negative.

    Args:
        allowed: the values that it may have.

    Raises:
        HeaderError: it is not one of them.
    """
    found = number(dataset, keyword)
    if found is None:
        return None
    if found != int(found) or found < 0:
        raise HeaderError(f"its {named(keyword)} is not a whole number")
    if allowed is not None and int(found) not in allowed:
        numbers = ", ".join(map(str, allowed)) if len(allowed) <= 8 else f"{allowed[0]} to {allowed[-1]}"
        raise HeaderError(f"its {named(keyword)} is {int(found)}, which is none of {numbers}")
    return int(found)


def check_size_elements(dataset: "Dataset") -> tuple[int, int]:
    """Columns and rows.

    Raises:
        HeaderError: one of them is missing or not a whole number.
    """
    sizes = []
    for keyword, side in (("Columns", "width"), ("Rows", "height")):
        size = whole_number(dataset, keyword)
        if size is None:
            raise HeaderError(f"its header has no {named(keyword)}, the {side} of the picture", "export it again")
        setattr(dataset, keyword, size)
        sizes.append(size)
    return sizes[0], sizes[1]


def complete_header(dataset: "Dataset", native: bool) -> None:
    """Checks the elements that describe the pixels, and fills in those that are missing.

    Args:
        dataset: with `Rows` and `Columns`; its elements are replaced by what they are taken for.
        native: the pixels are not compressed.

    Raises:
        HeaderError: an element can't be read, or is missing and has no sure value.
    """
    try:
        frames = whole_number(dataset, "NumberOfFrames") or 1
    except HeaderError:
        frames = 1  # only the first is drawn
    dataset.NumberOfFrames = frames
    pixels = next(keyword for keyword in PIXEL_TAGS if keyword in dataset)
    size = len(dataset[pixels].value or b"") if native else 0
    _complete_colors(dataset, size // frames, native)
    if pixels == "PixelData":
        _complete_bits(dataset, size // frames)
    else:
        dataset.BitsAllocated = 32 if pixels == "FloatPixelData" else 64
    if native:
        samples = 2 if dataset.PhotometricInterpretation == "YBR_FULL_422" else dataset.SamplesPerPixel
        needed = -(-dataset.Rows * dataset.Columns * samples * dataset.BitsAllocated * frames // 8)
        if size < needed:
            problem = f"it is cut off or damaged: its header asks for {needed:,} bytes of pixels, and it has {size:,}"
            raise HeaderError(problem, AGAIN)


def _complete_colors(dataset: "Dataset", frame_size: int, native: bool) -> None:
    photometric = first_value(dataset, "PhotometricInterpretation")
    if photometric is not None:
        photometric = str(photometric).upper()
    samples = whole_number(dataset, "SamplesPerPixel", (1, 3))
    if samples is None and photometric in PHOTOMETRICS:
        samples = 1 if photometric in GREY_OR_PALETTE else 3
    elif samples is None:
        if not native:
            raise HeaderError(f"its header has no {named('SamplesPerPixel')}", "export it again")
        bits = whole_number(dataset, "BitsAllocated") or 8
        samples = 3 if frame_size * 8 >= 3 * bits * dataset.Rows * dataset.Columns else 1
    if photometric is None:
        if samples == 3 and not native:
            raise HeaderError(f"its header has no {named('PhotometricInterpretation')}", "export it again")
        photometric = "MONOCHROME2" if samples == 1 else "RGB"
    if photometric not in PHOTOMETRICS:
        raise HeaderError(f"its photometric interpretation is none of {', '.join(PHOTOMETRICS)}", CONVERT)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = samples, photometric
    if samples == 3:
        dataset.PlanarConfiguration = whole_number(dataset, "PlanarConfiguration", (0, 1)) or 0
    if photometric == "PALETTE COLOR":
        _check_palettes(dataset)


def _check_palettes(dataset: "Dataset") -> None:
    for palette in PALETTES:
        if lookup_table(dataset, f"{palette}Descriptor", f"{palette}Data") is None:
            problem = f"its {named(palette + 'Data')} or the descriptor is missing or not readable"
            raise HeaderError(problem, "export it as RGB or PNG")


def lookup_table(dataset: Any, descriptor: str, data: str) -> LookupTable | None:
    """A table of PS3.3 C.11.1.1: its number of entries, first value and bits, and the entries as numbers or bytes.

    Args:
        descriptor, data: keywords of the elements.

    Returns:
        None where there is no dataset, or no table that can be read.
    """
    try:
        numbers = [int(number) for number in dataset[descriptor].value]
        entries = dataset[data].value
    except Exception:  # pydicom raises many kinds for a value that is not of its type
        return None
    if isinstance(entries, int):
        entries = [entries]
    whole = isinstance(entries, bytes) or (isinstance(entries, Sequence) and all(isinstance(n, int) for n in entries))
    return (numbers, entries) if len(numbers) == 3 and whole and len(entries) else None


def _complete_bits(dataset: "Dataset", frame_size: int) -> None:
    """`BitsAllocated`, `BitsStored`, `HighBit` and `PixelRepresentation`.

    Args:
        frame_size: in bytes; 0 where the pixels are compressed.
    """
    allocated = whole_number(dataset, "BitsAllocated", (1, 8, 16, 32, 64))
    stored = whole_number(dataset, "BitsStored")
    if allocated is None:
        numbers = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel
        pad = numbers % 2  # to an even number of bytes
        sizes = {numbers * 4: 32, numbers * 2: 16, numbers + pad: 8, numbers: 8}
        if frame_size not in sizes:
            raise HeaderError(f"its header has no {named('BitsAllocated')}", "export it again")
        allocated = sizes[frame_size]
    if stored is None:
        stored = allocated
    if not 1 <= stored <= allocated:
        raise HeaderError(f"its {named('BitsStored')} is {stored} of {allocated} bits")
    try:
        high = whole_number(dataset, "HighBit")
    except HeaderError:
        high = None
    if high is None or not stored - 1 <= high < allocated:
        high = stored - 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, stored, high
    dataset.PixelRepresentation = whole_number(dataset, "PixelRepresentation", (0, 1)) or 0
