"""A picture to zoom and pan, with the values under the pointer and a region to ask about."""

from functools import partial
from typing import Any

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


def choose_region(picture: Picture) -> Region | None:
    """Shows sliders for the edges of a region; None where it is the whole image."""
    chosen = _region_of(picture.key)
    with st.expander("Region"):
        across = _slide("From left to right, percent", "across", picture.key)
        down = _slide("From top to bottom, percent", "down", picture.key)
        st.caption("A question is asked about the region and about the whole image. In the zoomed view, draw it.")
        st.button("Forget the region", disabled=chosen is None, on_click=_forget, args=(picture.key,))
    return None if across == down == WHOLE else _region_of(picture.key)


def show_zoomed(picture: Picture, png: bytes, size: tuple[int, int], number: int, alt: str) -> None:
    """Shows a picture to zoom into and to draw a region on.

    Args:
        picture: whose values are shown under the pointer.
        png: the image as it is drawn, of any size.
        size: width and height of the picture in pixels.
        number: of the slice.
        alt: says what is shown.
    """
    url = _media_url(png, picture.key)
    figure = zoomed_figure(url, size, picture.values(number), _region_of(picture.key))
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


def _slide(label: str, side: str, key: str) -> tuple[float, float]:
    st.session_state.setdefault(f"{side}-{key}", WHOLE)
    st.slider(label, *WHOLE, step=0.5, format="%.1f", key=f"{side}-{key}")
    return st.session_state[f"{side}-{key}"]


def _region_of(key: str) -> Region | None:
    across, down = (st.session_state.get(f"{side}-{key}", WHOLE) for side in ("across", "down"))
    if across == down == WHOLE:
        return None
    (left, right), (top, bottom) = across, down
    return Region(left / 100, top / 100, right / 100, bottom / 100)


def _forget(key: str) -> None:
    for side in ("across", "down"):
        st.session_state[f"{side}-{key}"] = WHOLE


def _draw(key: str, size: tuple[int, int]) -> None:
    """Takes the box that was drawn last. There is none when Plotly gives up its own, after ours is shown."""
    boxes = st.session_state[f"zoomed-{key}"].selection.box
    if not boxes:
        return
    for side, ends, length in (("across", boxes[-1]["x"], size[0]), ("down", boxes[-1]["y"], size[1])):
        low, high = (min(max(100 * end / length, 0.0), 100.0) for end in sorted(ends))
        st.session_state[f"{side}-{key}"] = round(2 * low) / 2, round(2 * high) / 2


def _media_url(png: bytes, key: str) -> str:
    """Where the app serves an image while the page shows it; relative, as the app may stand below a path."""
    manager = runtime.get_instance().media_file_mgr  # there is no public way but to show it
    return manager.add(png, "image/png", f"zoomed-{key}").removeprefix("/")
