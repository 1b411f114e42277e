"""Series of DICOM files: which files are slices of one series, and in which order they lie in the body."""

import math
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np

from processing.dicom import DEFLATED_SYNTAX, is_dicom
from processing.dicom_header import as_number, first_value, values_of
from processing.quiet import quiet_decoders

# Nothing else is read. The UIDs and numbers only tell files apart and are not shown.
TAGS = (
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "InstanceNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "EchoTime",
)


class _Place(NamedTuple):
    """Where a file belongs.

    Attributes:
        series: equal for files that are slices of one stack.
        order: of the slice in it.
    """

    series: tuple
    order: tuple[float, float]


def sort_into_series(files: Sequence[tuple[str, bytes]]) -> list[list[int]]:
    """Which of some files belong together.

    Slices of one series have its UID, size, orientation and echo time in common. They are sorted by their
    position along the normal of their plane (PS3.3 C.7.6.2.1.1), and those of one position by their number.

    Args:
        files: name and content of each.

    Returns:
        The numbers of the files, from 0, in lists: a list for each series in the order in which it first comes up, and
        a list of one for each other file.
    """
    series: dict[tuple, list[tuple[tuple[float, float], int]]] = {}
    for number, (name, data) in enumerate(files):
        place = _place(name, data) or _Place((number,), (0.0, 0.0))
        series.setdefault(place.series, []).append((place.order, number))
    return [[number for _, number in sorted(members)] for members in series.values()]


def _place(name: str, data: bytes) -> _Place | None:
    """None of a file that is no slice of a series, or whose header can't be read."""
    import pydicom

    if not is_dicom(data, name) or DEFLATED_SYNTAX in data:  # pydicom would inflate all of it; opening it says so
        return None
    try:
        with quiet_decoders():
            stream = BytesIO(data.removeprefix(b"DICM"))
            header = pydicom.dcmread(stream, force=True, specific_tags=list(TAGS), stop_before_pixels=True)
            uid = first_value(header, "SeriesInstanceUID")
            if uid is None or as_number(first_value(header, "NumberOfFrames") or 1) > 1:
                return None
            same = [as_number(first_value(header, tag)) for tag in ("Rows", "Columns", "EchoTime")]
            directions = np.array([as_number(value) for value in values_of(header, "ImageOrientationPatient")])
            position = np.array([as_number(value) for value in values_of(header, "ImagePositionPatient")])
            instance = as_number(first_value(header, "InstanceNumber"))
    except Exception:  # whatever pydicom raises of a damaged file; opening it says what is wrong
        return None
    along = 0.0
    if directions.shape == (6,) and position.shape == (3,) and np.isfinite([*directions, *position]).all():
        along = float(np.cross(directions[:3], directions[3:]) @ position)
    else:
        directions = np.zeros(0)
    key = (str(uid), *(None if math.isnan(one) else one for one in same), *np.round(directions, 3).tolist())
    return _Place(key, (round(along, 3), 0.0 if math.isnan(instance) else instance))
