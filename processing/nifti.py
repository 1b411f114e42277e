"""A NIfTI volume (https://nifti.nimh.nih.gov/nifti-1): one slice of it, turned as radiologists look at it."""

import gzip
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from processing.dicom_grey import Window, apply_window
from processing.dicom_header import HeaderError
from processing.pixels import ImageFacts, check_number, check_size, percentile_range, stretch

GZIP = b"\x1f\x8b"
HEADER_BYTES = 352  # of NIfTI-1, up to where its pixels may begin
MAX_INFLATED = 2**30  # bytes of a compressed file up to the end of a slice
PLANES = ("sagittal", "coronal", "axial")  # by the axis that a slice is across: right, anterior, superior


def is_nifti(data: bytes) -> bool:
    """Whether a file is a NIfTI-1 or NIfTI-2 volume with its pixels, compressed by gzip or not."""
    start = data[:HEADER_BYTES]
    if data.startswith(GZIP):
        try:
            start = zlib.decompressobj(wbits=31).decompress(data[:4096], HEADER_BYTES)
        except zlib.error:
            return False
    return start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0"


class Nifti:
    """A volume whose header is read. Its slices are decoded one by one, and of several volumes the first.

    They lie across the third axis of its voxels, as they were acquired, and are counted from 1 in the file's order.
    Of an axial slice the patient's right is on the left and the front above. Of a coronal one the right is on the left
    and the head above, of a sagittal one the front is on the left and the head above.

    Args:
        data: the file.
        label: names it in errors.
        max_pixels: of a slice.

    Raises:
        ImageError: its slices are too large or have no pixels.
        HeaderError: it holds numbers that no picture shows.
        Exception: whatever nibabel raises for a damaged file.
    """

    def __init__(self, data: bytes, label: str, max_pixels: int) -> None:
        from nibabel import Nifti1Image, Nifti2Image
        from nibabel.imageglobals import LoggingOutputSuppressor
        from nibabel.orientations import io_orientation

        self.label = label
        stream: Any = gzip.GzipFile(fileobj=BytesIO(data)) if data.startswith(GZIP) else BytesIO(data)
        is_first = stream.read(HEADER_BYTES)[344:348] == b"n+1\0"
        stream.seek(0)
        with LoggingOutputSuppressor():
            self.image: Any = (Nifti1Image if is_first else Nifti2Image).from_stream(stream)
        shape = self.image.shape + (1,) * (3 - len(self.image.shape))
        self.width, self.height, self.slices = shape[:3]
        self.volumes = int(np.prod(shape[3:], dtype=np.int64))
        check_size(self.width, self.height, label, max_pixels)
        kind = self.image.get_data_dtype()
        if kind.kind not in "uif" and kind.names is None:
            raise HeaderError("it holds complex numbers", "export their magnitude")
        header = self.image.header
        end = int(header.get_data_offset()) + self.width * self.height * self.slices * kind.itemsize
        if data.startswith(GZIP) and end > MAX_INFLATED:
            raise HeaderError(f"a volume of it has {end:,} bytes, above {MAX_INFLATED:,}", "crop it or resample it")
        axes = io_orientation(self.image.affine)
        self.axes = np.array([[0, 1], [1, 1], [2, 1]]) if np.isnan(axes).any() else axes.astype(int)

    def values(self, number: int) -> np.ndarray:
        """A slice as a reader looks at it, ``(height, width)`` of scaled numbers or ``(height, width, 3)`` of uint8.

        Raises:
            ImageError: there is no such slice.
            Exception: whatever nibabel raises for a damaged file.
        """
        check_number(number, self.slices, self.label)
        if len(self.image.shape) < 3:
            plane = np.asarray(self.image.dataobj).reshape(self.width, self.height)
        else:
            first = (0,) * (len(self.image.shape) - 3)
            plane = np.asarray(self.image.dataobj[(slice(None), slice(None), number - 1, *first)])
        if plane.dtype.names:
            plane = np.stack([plane[channel] for channel in "RGB"], axis=-1)
        (across, flip), (down, flip_down) = self.axes[:2]
        # right and front stand on the left, front and head above: where the axes of RAS+ end
        plane = plane[:: -1 if flip > 0 else 1, :: -1 if flip_down > 0 else 1]
        return plane if across > down else plane.swapaxes(0, 1)

    def draw(self, number: int, window: Window | None) -> Image.Image:
        """A slice as RGB.

        Args:
            window: ``(center, width)``, instead of that of the header.
        """
        values = self.values(number)
        if values.ndim == 3:
            return Image.fromarray(values)
        window = window or self._header_window()
        grey = stretch(values) if window is None else apply_window(values, *window, "LINEAR_EXACT")
        return Image.fromarray(grey).convert("RGB")

    def describe(self, number: int) -> ImageFacts:
        """The facts of the file and the window and values of a slice. No text of its header is among them."""
        plane = PLANES[self.axes[2, 0]]
        sizes = [float(size) for size in self.image.header.get_zooms()[:3]]
        details = {"Plane": plane}
        if all(np.isfinite(sizes)) and all(sizes):
            details["Voxels"] = " x ".join(f"{size:.3g}" for size in sizes) + " mm"
        if self.volumes > 1:
            details["Volumes"] = f"{self.volumes}, of which the first is shown"
        values = self.values(number)
        counted = values[np.isfinite(values)]
        if values.ndim == 3 or not counted.size:
            return ImageFacts("NIfTI", details, slices=self.slices)
        low, high = percentile_range(counted)
        window = self._header_window() or ((low + high) / 2, (high - low) or 1.0)
        return ImageFacts("NIfTI", details, window, (float(counted.min()), float(counted.max())), self.slices)

    def _header_window(self) -> Window | None:
        low, high = float(self.image.header["cal_min"]), float(self.image.header["cal_max"])
        return ((low + high) / 2, high - low) if np.isfinite(high - low) and low < high else None
