"""From the stored values of a grey DICOM image to what a viewer shows (the greyscale pipeline of PS3.4 N.2)."""

from typing import TYPE_CHECKING

import numpy as np

from processing.dicom_header import (
    HeaderError,
    LookupTable,
    first_value,
    lookup_table,
    named,
    number,
    optional_number,
)
from processing.pixels import percentile_range, stretch, to_uint8

if TYPE_CHECKING:
    from pydicom import Dataset

Window = tuple[float, float]  # centre and width


def render_grey(
    stored: np.ndarray, padding: np.ndarray, dataset: "Dataset", window: Window | None, frame: int = 0
) -> np.ndarray:
    """Stored values to uint8, both ``(rows, columns)``.

    Without a window or a table, values of more than 8 bits are stretched between their percentiles. Others are drawn
    as they are, as in a PNG: from the darkest number that their bits hold to the brightest.

    Args:
        padding: boolean mask of the pixels that only fill the rectangle.
        window: replaces that of the header.
        frame: number of the frame, from 0.

    Raises:
        HeaderError: an element of the pipeline can't be read.
    """
    _use_groups_of_frame(dataset, frame)
    values = _rescale(stored, dataset)
    function = "LINEAR"
    if window is None:
        window, function = _header_window(dataset), _window_function(dataset)
    if window is not None:
        grey = apply_window(values, *window, function)
    elif (table := _table(dataset, "VOILUTSequence")) is not None:
        index = np.rint(np.clip(np.nan_to_num(values), -(2**30), 2**30)).astype(np.int32)
        grey = high_8_bits(look_up(index, table, is_little_endian(dataset)), table[0][2])
    elif _drawn_as_stored(dataset):
        darkest, brightest = stored_range(dataset)
        grey = to_uint8((stored.astype(np.float32) - darkest) * (255 / (brightest - darkest)))
        grey = 255 - grey if _slope(dataset) < 0 else grey
    else:
        grey = stretch(values, ~padding)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    grey[padding] = 0  # padding is background (PS3.3 C.7.5.1.1.2), in MONOCHROME1 too
    return grey


def rescaled(stored: np.ndarray, padding: np.ndarray, dataset: "Dataset", frame: int = 0) -> np.ndarray:
    """Stored values in the scanner's units, with NaN in the place of padding.

    Raises:
        HeaderError: an element of the pipeline can't be read.
    """
    _use_groups_of_frame(dataset, frame)
    values = _rescale(stored, dataset)
    values[padding] = np.nan
    return values


def window_and_range(
    stored: np.ndarray, padding: np.ndarray, dataset: "Dataset", frame: int = 0
) -> tuple[Window, tuple[float, float]] | None:
    """The window in which `render_grey` shows an image, and its lowest and highest value; None if all is padding.

    Raises:
        HeaderError: an element of the pipeline can't be read.
    """
    values = rescaled(stored, padding, dataset, frame)
    counted = values[np.isfinite(values)]
    if not counted.size:
        return None
    window = _header_window(dataset)
    if window is None and _drawn_as_stored(dataset):
        slope, intercept = _slope(dataset), number(dataset, "RescaleIntercept") or 0.0
        window = _window_from(*sorted(slope * end + intercept for end in stored_range(dataset)))
    elif window is None:
        window = _window_from(*percentile_range(counted))
    return window, (float(counted.min()), float(counted.max()))


def _window_from(low: float, high: float) -> Window:
    """The window that draws `low` black and `high` white; both black where they are the same."""
    if low == high:
        return low + 1, 1.0
    # A linear window of width w shows w - 1 units; narrower ones are exact.
    return ((low + high) / 2, high - low) if high - low < 1 else ((low + high + 1) / 2, high - low + 1)


def is_little_endian(dataset: "Dataset") -> bool:
    """The byte order of the file."""
    return bool(dataset.original_encoding[1])


def look_up(values: np.ndarray, table: LookupTable, little: bool) -> np.ndarray:
    """Integers through a DICOM table (PS3.3 C.11.1.1.1): below its first value the first entry, above the last.

    Args:
        table: if its entries are bytes, they are in the byte order of the file.
        little: that order is little-endian.
    """
    (count, first, _), data = table
    count = (count & 0xFFFF) or 2**16  # 0 stands for 65,536
    entries = _numbers(data, count, little) if isinstance(data, bytes) else np.asarray(data)
    entries = entries.astype(np.uint16)[:count]
    return entries[np.clip(values.astype(np.int32) - first, 0, len(entries) - 1)]


def _numbers(data: bytes, count: int, little: bool) -> np.ndarray:
    """The entries of a table of bytes: of one byte each where there are too few for two."""
    width = 1 if len(data) < 2 * count else 2
    return np.frombuffer(data, f"{'<' if little else '>'}u{width}")


def high_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """The upper 8 of the bits of numbers, as uint8."""
    return (values >> max(bits - 8, 0)).astype(np.uint8)


def _use_groups_of_frame(dataset: "Dataset", frame: int) -> None:
    """Puts rescale and window of an enhanced multi-frame file (PS3.3 C.7.6.16) where single-frame files have them."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (shared[:1], own[frame : frame + 1]):
        for group in groups:
            for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (group.get(macro) or [])[:1]:
                    dataset.update(item)


def padding_range(dataset: "Dataset", kind: np.dtype) -> np.ndarray | None:
    """The lowest and highest number of pixels that only fill the rectangle (PS3.3 C.7.5.1.1.2); None if none do.

    Args:
        kind: type of the stored values. Writers give -2000 as the unsigned 63536 too, so the elements are cast to it.
    """
    value = optional_number(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = optional_number(dataset, "PixelPaddingRangeLimit")
    ends = np.array([value, value if limit is None else limit]).astype(np.int64).astype(kind)
    return np.sort(ends)


def _slope(dataset: "Dataset") -> float:
    return number(dataset, "RescaleSlope") or 1.0  # of a slope of 0 nothing would be left


def _rescale(stored: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Stored values to the scanner's units, by table or by slope and intercept (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        table = _table(dataset, "ModalityLUTSequence")
        if table is None:
            raise HeaderError(f"the table in its {named('ModalityLUTSequence')} is not readable")
        stored = look_up(stored, table, is_little_endian(dataset))
    values = stored.astype(np.result_type(stored, np.float32))
    values *= _slope(dataset)
    values += number(dataset, "RescaleIntercept") or 0.0
    return values


def _table(dataset: "Dataset", keyword: str) -> LookupTable | None:
    """The first table of a sequence; None where there is none that can be read."""
    return lookup_table(first_value(dataset, keyword), "LUTDescriptor", "LUTData")


def _drawn_as_stored(dataset: "Dataset") -> bool:
    return "PixelData" in dataset and dataset.BitsStored <= 8 and not dataset.get("ModalityLUTSequence")


def stored_range(dataset: "Dataset") -> tuple[int, int]:
    """The lowest and the highest number that the stored bits can hold."""
    levels = 2**dataset.BitsStored
    lowest = -levels // 2 if dataset.PixelRepresentation else 0
    return lowest, lowest + levels - 1


def _header_window(dataset: "Dataset") -> Window | None:
    """``(center, width)``, the first if there are several; None if there is none or it is not valid."""
    center, width = optional_number(dataset, "WindowCenter"), optional_number(dataset, "WindowWidth")
    return None if center is None or width is None or width <= 0 else (center, width)


def _window_function(dataset: "Dataset") -> str:
    function = first_value(dataset, "VOILUTFunction")
    return function if function in ("SIGMOID", "LINEAR_EXACT") else "LINEAR"


def apply_window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Values to uint8 through a window, DICOM PS3.3 C.11.2.1.2.1 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT).

    LINEAR: 0 up to ``center - 0.5 - (width - 1) / 2``, 255 above ``center - 0.5 + (width - 1) / 2``, and
    ``((x - (center - 0.5)) / (width - 1) + 0.5) * 255`` between. It asks for a width of at least 1. A narrower one,
    as maps with values of 0 to 0.004 have, is taken as LINEAR_EXACT.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if function == "SIGMOID":
            return to_uint8(255 / (1 + np.exp(-4 * (values - center) / width)))
        if function == "LINEAR" and width >= 1:
            center, width = center - 0.5, max(width - 1, 1e-6)  # a width of 1 is a step, not a division by 0
        return to_uint8((values - (center - width / 2)) * (255 / width))
