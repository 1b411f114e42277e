"""The view of a picture: its slice, its window, and whether black is white."""

import math
from typing import NamedTuple

import streamlit as st

from processing.windows import CT_WINDOWS, PERCENTILE_WINDOWS, Window, percentile_window
from spaces_app.pictures import Picture, View

MAX_SLICES = 9  # that are asked about at once
OWN = "As in the file"
GREY_LEVELS = (127.5, 255.0)  # the window of images of 8 bits
LOWEST_OF_AIR = -500  # a volume with lower values is taken for CT in Hounsfield units


class WindowSliders(NamedTuple):
    """What the sliders of a window go over.

    Attributes:
        levels: lowest and highest centre.
        widths: narrowest and widest window.
        step: of both.
        format: of both, for printf.
    """

    levels: tuple[float, float]
    widths: tuple[float, float]
    step: float
    format: str


def choose_view(picture: Picture) -> View:
    """Shows a slider for the slice of a stack, and those of the window of a grey image.

    Raises:
        UserError: the picture can't be opened.
    """
    number = 1
    if picture.slices > 1:
        number = st.slider("Slice", 1, picture.slices, picture.middle, key=f"slice-{picture.key}")
    values = picture.values(number)
    if values is None:
        return View(number)
    facts = picture.facts()
    own = facts.window or GREY_LEVELS
    ends = facts.value_range or (0.0, 255.0)
    is_ct = facts.details.get("Modality") == "CT" or (facts.format == "NIfTI" and ends[0] <= LOWEST_OF_AIR)
    sliders = window_sliders(own, (min(ends[0], -1024.0), max(ends[1], 3071.0)) if is_ct else ends)
    presets = {name: (float(center), float(width)) for name, (center, width) in CT_WINDOWS.items()} if is_ct else {}
    with st.expander("Window and level"):
        st.pills(
            "Presets",
            (OWN, *presets, *PERCENTILE_WINDOWS),
            key=f"preset-{picture.key}",
            on_change=_use_preset,
            args=(picture, number, own, presets, sliders),
        )
        level = _slide("Level (centre)", sliders.levels, own[0], f"level-{picture.key}", sliders)
        width = _slide("Window (width)", sliders.widths, own[1], f"width-{picture.key}", sliders)
        inverted = st.toggle("Black and white exchanged", key=f"inverted-{picture.key}")
        units = "the units of the file: Hounsfield units for CT" if facts.window else "grey levels from 0 to 255"
        st.caption(f"In {units}. The model sees what you see.")
    return View(number, None if (level, width) == own else (level, width), inverted)


def choose_slices(picture: Picture) -> list[int]:
    """Shows a switch that asks about several slices of a stack at once; their numbers, none where it is off."""
    count = min(picture.slices, MAX_SLICES)
    if count < 2:
        return []
    if not st.toggle(f"Ask about {count} slices at once", key=f"several-{picture.key}"):
        return []
    # the middle of as many equal parts
    numbers = [(2 * part + 1) * picture.slices // (2 * count) + 1 for part in range(count)]
    st.caption(f"Slices {', '.join(map(str, numbers))}.")
    return numbers


def _slide(label: str, limits: tuple[float, float], value: float, key: str, sliders: "WindowSliders") -> float:
    st.session_state.setdefault(key, value)
    return st.slider(label, *limits, step=sliders.step, format=sliders.format, key=key)


def _use_preset(
    picture: Picture, number: int, own: Window, presets: dict[str, Window], sliders: "WindowSliders"
) -> None:
    """Moves the sliders to the window that was chosen."""
    name = st.session_state[f"preset-{picture.key}"]
    window = presets.get(name, own)
    if name in PERCENTILE_WINDOWS and (values := picture.values(number)) is not None:
        window = percentile_window(values, *PERCENTILE_WINDOWS[name])
    for part, value, (low, high) in zip(("level", "width"), window, (sliders.levels, sliders.widths), strict=True):
        st.session_state[f"{part}-{picture.key}"] = min(max(value, low), high)


def window_sliders(window: Window, value_range: tuple[float, float]) -> WindowSliders:
    """The sliders for an image.

    Their steps are a thousandth of the range or less, and at most 1. A width may go down to 1, or to one step where
    the range is below 100, as in a map with values of 0 to 0.004.

    Args:
        window: that is shown at first, within the limits of the sliders.
        value_range: lowest and highest value of the image.
    """
    center, width = window
    low, high = min(value_range[0], center), max(value_range[1], center)
    if low == high:
        high = low + width
    span = max(high - low, width)
    digits = 3 - math.floor(math.log10(span))  # behind the decimal point
    step = 10.0 ** -max(digits, 0)
    narrowest = min(1.0 if span >= 100 else step, width)
    widest = max(span, 2 * narrowest)
    return WindowSliders((low, high), (narrowest, widest), step, f"%.{max(digits, 2)}f")
