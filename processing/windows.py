"""Windows, each ``(center, width)``, in which readers look at grey images."""

import numpy as np

from processing.pixels import ImageFacts

Window = tuple[float, float]
OWN = "As in the file"  # among the names of windows it is the file's own
LOWEST_OF_AIR = -500  # a volume with lower values is taken for CT in Hounsfield units

# In Hounsfield units, for CT, by A. Murphy and others, "Windowing (CT)", https://doi.org/10.53347/rID-52108.
CT_WINDOWS: dict[str, Window] = {
    "Lung": (-600, 1500),
    "Mediastinum": (50, 350),
    "Abdomen": (50, 400),
    "Brain": (40, 80),
    "Bone": (400, 1800),
}
# Lowest and highest percentile, for images whose numbers have no unit, as those of MRI and X-ray.
PERCENTILE_WINDOWS = {"1 to 99 %": (1, 99), "5 to 95 %": (5, 95), "25 to 99.5 %": (25, 99.5), "All values": (0, 100)}


def ct_windows(facts: ImageFacts) -> dict[str, Window]:
    """The windows for CT where a grey image is CT, else none."""
    is_volume_of_ct = facts.format == "NIfTI" and (facts.value_range or (0.0, 255.0))[0] <= LOWEST_OF_AIR
    return CT_WINDOWS if facts.details.get("Modality") == "CT" or is_volume_of_ct else {}


def percentile_window(values: np.ndarray, low: float, high: float) -> Window:
    """The window between two percentiles of an image's finite numbers.

    Where they are equal it goes from the lowest to the highest number, and is 1 wide about a single one.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    ends = (float(end) for end in np.percentile(finite, (low, high)))
    darkest, brightest = ends
    if darkest == brightest:
        darkest, brightest = float(finite.min()), float(finite.max())
    return (darkest + brightest) / 2, (brightest - darkest) or 1.0
