"""What images of every format share: the error, the limit on pixels, the facts, and the way from numbers to grey."""

from dataclasses import dataclass, field

import numpy as np

from processing.errors import UserError


class ImageError(UserError):
    """An image that can't be opened. Its message is one sentence: which file, what is wrong, and the fix."""


@dataclass(frozen=True)
class ImageFacts:
    """What may be shown of an image file beside its picture. Nothing in it can name a patient.

    Attributes:
        format: such as PNG or DICOM.
        details: of a DICOM file, name and value: modality, spacing and thickness in mm; of a NIfTI volume its plane
            and the size of its voxels.
        window: ``(center, width)`` in which a grey DICOM or NIfTI image is opened, in the units of `value_range`.
        value_range: lowest and highest value of a grey DICOM or NIfTI image, in Hounsfield units for CT.
        slices: how many frames, pages or slices the file has.
    """

    format: str
    details: dict[str, str] = field(default_factory=dict)
    window: tuple[float, float] | None = None
    value_range: tuple[float, float] | None = None
    slices: int = 1


def cannot_open(label: str, problem: str, fix: str) -> ImageError:
    """The error of an image that is called `label` in messages."""
    return ImageError(f"Cannot open {label}: {problem}; {fix}.")


def above_limit(label: str, found: str, limit: int, unit: str) -> ImageError:
    """The error of an image with more than `limit` bytes or pixels."""
    problem = f"it has {found} {unit}, above the limit max_{unit} = {limit:,}"
    return cannot_open(label, problem, f"make it smaller or raise max_{unit}")


def check_size(width: int, height: int, label: str, max_pixels: int) -> None:
    """Refuses an image without pixels, or with more than `max_pixels`.

    Raises:
        ImageError: it is refused.
    """
    if width < 1 or height < 1:
        raise cannot_open(label, f"it has no pixels ({width} x {height})", "export it again")
    if width * height > max_pixels:
        raise above_limit(label, f"{width} x {height} = {width * height:,}", max_pixels, "pixels")


def check_number(number: int, count: int, label: str) -> None:
    """Refuses the number of a frame, page or slice that a file does not have.

    Raises:
        ImageError: it is refused.
    """
    if not 1 <= number <= count:
        has = "one image, which is number 1" if count == 1 else f"{count:,} slices, numbers 1 to {count}"
        raise cannot_open(label, f"there is no slice {number} in it", f"choose another one: it has {has}")


def stretch(values: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Scales numbers to uint8 so that their 1st percentile becomes 0 and their 99th becomes 255.

    Args:
        values: ``(height, width)`` of any number type. NaN becomes 0, infinities become 0 and 255.
        counted: boolean mask of the pixels that count for the percentiles; by default all finite ones.

    Returns:
        ``(height, width)`` of uint8; all 0 if the counted pixels are all the same.
    """
    finite = np.isfinite(values)
    counted = finite if counted is None else finite & counted
    if not counted.any():
        return np.zeros(values.shape, np.uint8)
    if values.dtype.kind == "f":
        largest = float(np.abs(values[counted]).max())
        if largest > 0 and not 1e-25 < largest < 1e30:  # beyond, differences or their inverse overflow in float32
            values = values.astype(np.float64) / largest
    low, high = percentile_range(values[counted])
    if low == high:
        return np.zeros(values.shape, np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values.astype(np.result_type(values, np.float32)) - low) * (255 / (high - low))
    return to_uint8(scaled)


def percentile_range(sample: np.ndarray) -> tuple[float, float]:
    """The 1st and the 99th percentile of finite numbers; their lowest and highest where the percentiles are equal.

    A small bright lesion on an even background is less than 1 % of the pixels.
    """
    low, high = (float(value) for value in np.percentile(sample, (1, 99)))
    return (low, high) if low < high else (float(sample.min()), float(sample.max()))


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Floats to the nearest uint8, clipped; NaN becomes 0."""
    return np.rint(np.clip(np.nan_to_num(values, nan=0, posinf=255, neginf=0), 0, 255)).astype(np.uint8)
