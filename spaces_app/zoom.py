"""A picture to zoom and pan, with the values under the pointer and a region to ask about."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import streamlit as st
from streamlit import runtime

from processing.regions import BRIGHT, DARK, Region
from spaces_app.pictures import Picture

SAMPLES = 512  # on a side of the values that are sent to the browser, at most
WHOLE = (0.0, 100.0)  # of a slider of the region, percent
CONFIG = {
    "scrollZoom": True,
    "displayModeBar": True,
    "displaylogo": False,
    "modeBarButtons": [["pan2d", "select2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
}


class Drawn(NamedTuple):
    """A region as it was drawn.

    Attributes:
        number: how often one was drawn or forgotten.
        across: its left and right edge, percent.
        down: its top and bottom edge, percent.
    """

    number: int = 0
    across: tuple[float, float] = WHOLE
    down: tuple[float, float] = WHOLE


def choose_region(picture: Picture) -> Region | None:
    """Shows sliders for the edges of a region, at first as it was drawn; None where it is the whole image."""
    drawn = st.session_state.get(f"drawn-{picture.key}", Drawn())
    with st.expander("Region"):
        # Of each drawing the sliders are others: a click on the way to the server still has the old one's edges.
        key = f"{picture.key}-{drawn.number}"
        across = _slide("From left to right, percent", drawn.across, f"across-{key}")
        down = _slide("From top to bottom, percent", drawn.down, f"down-{key}")
        is_whole = across == down == WHOLE
        st.caption("A question is asked about the region and about the whole image. In the zoomed view, draw it.")
        st.button("Forget the region", disabled=is_whole, on_click=_take, args=(picture.key, WHOLE, WHOLE))
    (left, right), (top, bottom) = across, down
    return None if is_whole else Region(left / 100, top / 100, right / 100, bottom / 100)


def show_zoomed(
    picture: Picture, png: bytes, size: tuple[int, int], number: int, region: Region | None, alt: str
) -> None:
    """Shows a picture to zoom into and to draw a region on.

    Args:
        picture: whose values are shown under the pointer.
        png: the image as it is drawn, of any size.
        size: width and height of the picture in pixels.
        number: of the slice.
        region: that is outlined.
        alt: says what is shown.
    """
    url = _media_url(png, picture.key)
    figure = zoomed_figure(url, size, picture.values(number), region)
    st.plotly_chart(
        figure,
        key=f"zoomed-{picture.key}",
        on_select=partial(_draw, picture.key, size),
        selection_mode="box",
        theme=None,
        alt=alt,
        config=CONFIG,
    )


def zoomed_figure(url: str, size: tuple[int, int], values: np.ndarray | None, region: Region | None) -> dict[str, Any]:
    """The figure of Plotly: an image, its values, which are invisible but told under the pointer, and a region.

    Args:
        url: of the image.
        size: its width and height in pixels.
        values: its numbers ``(height, width)``, of which at most `SAMPLES` on a side are sent; None has none.
        region: that is outlined.
    """
    width, height = size
    # Plotly lets a box be drawn only where there are points
    data: list[dict[str, Any]] = [
        {"type": "scatter", "x": [0, width], "y": [0, height], "mode": "markers", "opacity": 0, "hoverinfo": "skip"}
    ]
    if values is not None:
        every = -(-max(values.shape) // SAMPLES)
        across, down = width / values.shape[1], height / values.shape[0]
        sampled = {
            "z": values[::every, ::every].astype(np.float32),
            "x0": across / 2,
            "dx": across * every,
            "y0": down / 2,
            "dy": down * every,
        }
        told = {
            "opacity": 0,
            "showscale": False,
            "hovertemplate": "column %{x:.0f}, row %{y:.0f}: %{z}<extra></extra>",
        }
        data.append({"type": "heatmap", **sampled, **told})
    place = {"x": 0, "y": 0, "sizex": width, "sizey": height, "sizing": "stretch", "layer": "below"}
    layout: dict[str, Any] = {
        "images": [{"source": url, "xref": "x", "yref": "y", **place}],
        "xaxis": {"range": [0, width], "visible": False, "constrain": "domain"},
        "yaxis": {"range": [height, 0], "visible": False, "constrain": "domain", "scaleanchor": "x"},
        "margin": {"l": 0, "r": 0, "t": 32, "b": 0},  # the buttons stand above the image
        "height": 560,
        "dragmode": "pan",
        "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "newselection": {"line": {"color": BRIGHT, "width": 2, "dash": "solid"}},
        "selectionrevision": repr(region),  # else the box that was drawn stays, and takes the wheel from the image
    }
    if region is not None:
        left, top, right, bottom = region.corners(size)
        edges = {"type": "rect", "x0": left, "x1": right, "y0": top, "y1": bottom}
        layout["shapes"] = [
            edges | {"line": {"color": color, "width": width}} for color, width in ((DARK, 6), (BRIGHT, 2))
        ]
    return {"data": data, "layout": layout}


def _slide(label: str, edges: tuple[float, float], key: str) -> tuple[float, float]:
    return st.slider(label, *WHOLE, edges, step=0.5, format="%.1f", key=key)


def _take(key: str, across: tuple[float, float], down: tuple[float, float]) -> None:
    """Takes a region of a picture, in percent."""
    number = st.session_state.get(f"drawn-{key}", Drawn()).number + 1
    st.session_state[f"drawn-{key}"] = Drawn(number, across, down)


def _draw(key: str, size: tuple[int, int]) -> None:
    """Takes the box that was drawn last. There is none when Plotly gives up its own, after ours is shown."""
    boxes = st.session_state[f"zoomed-{key}"].selection.box
    if boxes:
        _take(key, *(_percent(boxes[-1][axis], length) for axis, length in zip("xy", size, strict=True)))


def _percent(ends: Sequence[float], length: int) -> tuple[float, float]:
    low, high = (min(max(round(200 * end / length) / 2, 0.0), 100.0) for end in sorted(ends))
    return low, high


def _media_url(png: bytes, key: str) -> str:
    """Where the app serves an image while the page shows it; relative, as the app may stand below a path."""
    manager = runtime.get_instance().media_file_mgr  # there is no public way but to show it
    return manager.add(png, "image/png", f"zoomed-{key}").removeprefix("/")
