"""The view of a picture: its slice, its window, and whether black is white."""

import math
from functools import partial
from typing import NamedTuple

import streamlit as st
from streamlit.components import v2 as components

from processing.regions import Region
from processing.windows import OWN, PERCENTILE_WINDOWS, Window, ct_windows, percentile_window
from spaces_app.pictures import Picture, View

MAX_SLICES = 9  # that are asked about at once
GREY_LEVELS = (127.5, 255.0)  # the window of images of 8 bits
# The mouse wheel over an image, which nothing in Streamlit tells. Turns of a twelfth of a second come together.
WHEEL = components.component(
    "wheel",
    js="""
export default function ({ data, setTriggerValue }) {
  const frame = document.querySelector(".st-key-frame");
  let number = data.number, timer;
  const tell = () => {
    timer = undefined;
    setTriggerValue("turned", Math.round(number));
  };
  const turn = (event) => {
    if (event.ctrlKey || !frame.querySelector("img")) return;  // the page is zoomed, or the zoomed view is
    event.preventDefault();
    number += event.deltaY / (event.deltaMode ? 3 : 100);
    number = Math.min(Math.max(number, 1), data.slices);
    timer ??= setTimeout(tell, 80);
  };
  frame.addEventListener("wheel", turn, { passive: false });
  return () => frame.removeEventListener("wheel", turn);
}
""",
)


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
    number = _choose_slice(picture)
    facts = picture.facts()
    # a range says that the picture is grey, without opening each slice twice
    if facts.value_range is None and picture.values(number) is None:
        return View(number)
    own = facts.window or GREY_LEVELS
    ends = facts.value_range or (0.0, 255.0)
    presets = {name: (float(center), float(width)) for name, (center, width) in ct_windows(facts).items()}
    if reach := st.session_state.get(f"reach-{picture.key}"):  # of a slice that has other values
        ends = min(ends[0], reach[0]), max(ends[1], reach[1])
    sliders = window_sliders(own, (min(ends[0], -1024.0), max(ends[1], 3071.0)) if presets else ends)
    with st.expander("Window and level"):
        st.pills(
            "Presets",
            (OWN, *presets, *PERCENTILE_WINDOWS),
            key=f"preset-{picture.key}",
            on_change=_use_preset,
            args=(picture, number, own, presets),
        )
        level = _slide("Level (centre)", sliders.levels, own[0], "level", picture.key, sliders)
        width = _slide("Window (width)", sliders.widths, own[1], "width", picture.key, sliders)
        inverted = st.toggle("Inverted", key=f"inverted-{picture.key}")
        units = "the units of the file: Hounsfield units for CT" if facts.window else "grey levels from 0 to 255"
        st.caption(f"In {units}. The model sees what you see.")
    return View(number, None if (level, width) == own else (level, width), inverted)


def _choose_slice(picture: Picture) -> int:
    """Shows a slider for the slice of a stack, which the mouse wheel moves over the image, too."""
    if picture.slices < 2:
        return 1
    key = f"slice-{picture.key}"
    st.session_state.setdefault(key, picture.middle)
    data = {"number": st.session_state[key], "slices": picture.slices}
    WHEEL(key=f"wheel-{picture.key}", data=data, on_turned_change=partial(_turn, picture.key))
    return st.slider("Slice", 1, picture.slices, key=key)


def _turn(key: str) -> None:
    """Shows the slice that the wheel has come to."""
    st.session_state[f"slice-{key}"] = int(st.session_state[f"wheel-{key}"].turned)


def choose_slices(picture: Picture, region: Region | None) -> list[int]:
    """Shows a switch that asks about several slices of a stack at once; their numbers, none where it is off.

    Args:
        region: with one, only the slice that is shown is asked about.
    """
    count = min(picture.slices, MAX_SLICES)
    if count < 2:
        return []
    label = f"Ask about {count} slices at once"
    if not st.toggle(label, key=f"several-{picture.key}", disabled=region is not None) or region is not None:
        return []
    # the middle of as many equal parts
    numbers = [(2 * part + 1) * picture.slices // (2 * count) + 1 for part in range(count)]
    st.caption(f"Slices {', '.join(map(str, numbers))}.")
    return numbers


def _slide(
    label: str, limits: tuple[float, float], value: float, part: str, picture: str, sliders: "WindowSliders"
) -> float:
    low, high = limits
    key = f"{part}-{picture}"
    if not low <= st.session_state.setdefault(key, value) <= high:
        st.session_state[key] = min(max(st.session_state[key], low), high)
    step, form = sliders.step, sliders.format
    return st.slider(label, *limits, step=step, format=form, key=key, on_change=_forget_preset, args=(picture,))


def _forget_preset(picture: str) -> None:
    st.session_state[f"preset-{picture}"] = None


def _use_preset(picture: Picture, number: int, own: Window, presets: dict[str, Window]) -> None:
    """Moves the sliders to the window that was chosen."""
    name = st.session_state[f"preset-{picture.key}"]
    window = presets.get(name, own)
    if name in PERCENTILE_WINDOWS and (values := picture.values(number)) is not None:
        window = percentile_window(values, *PERCENTILE_WINDOWS[name])
    level, width = window
    st.session_state[f"level-{picture.key}"], st.session_state[f"width-{picture.key}"] = window
    low, high = st.session_state.get(f"reach-{picture.key}", (level, level))
    st.session_state[f"reach-{picture.key}"] = min(low, level - width / 2), max(high, level + width / 2)


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
