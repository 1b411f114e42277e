"""spaces_app.zoom: the figure that is sent to the browser."""

import json

import numpy as np

from processing.regions import BRIGHT, DARK, Region
from spaces_app.zoom import SAMPLES, zoomed_figure


def test_each_value_lies_over_the_middle_of_its_pixel():
    values = np.arange(12).reshape(3, 4)
    [image] = zoomed_figure("media/1.png", (4, 3), values, None)["layout"]["images"]
    assert (image["sizex"], image["sizey"], image["source"]) == (4, 3, "media/1.png")
    [_, told] = zoomed_figure("media/1.png", (4, 3), values, None)["data"]
    assert told["z"].tolist() == values.tolist()
    assert (told["x0"], told["dx"], told["y0"], told["dy"]) == (0.5, 1, 0.5, 1)


def test_of_a_large_image_every_so_many_values_are_sent():
    values = np.arange(4 * 1200, dtype=np.int32).reshape(4, 1200)
    [_, told] = zoomed_figure("x", (1200, 4), values, None)["data"]
    assert max(told["z"].shape) == 400 <= SAMPLES
    assert told["z"][1].tolist() == values[3, ::3].tolist()
    assert (told["x0"], told["dx"]) == (0.5, 3)


def test_an_image_in_colour_has_no_values():
    assert len(zoomed_figure("x", (10, 10), None, None)["data"]) == 1


def test_a_region_is_outlined_in_pixels():
    assert "shapes" not in zoomed_figure("x", (200, 100), None, None)["layout"]
    figure = zoomed_figure("x", (200, 100), None, Region(0.25, 0.5, 0.75, 1))
    for shape in figure["layout"]["shapes"]:
        assert [shape[edge] for edge in ("x0", "x1", "y0", "y1")] == [50, 150, 50, 100]
    assert [shape["line"]["color"] for shape in figure["layout"]["shapes"]] == [DARK, BRIGHT]
    other = zoomed_figure("x", (200, 100), None, Region(0.25, 0.5, 0.8, 1))
    assert figure["layout"]["selectionrevision"] != other["layout"]["selectionrevision"]
    json.dumps(figure)
