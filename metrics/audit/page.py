"""The page of an audit: one HTML file that needs no other, runs no script and fetches nothing."""

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import jinja2

from metrics.audit.report import FAILURES, count_failures
from metrics.audit.table import Table
from metrics.intervals import interval_text
from processing.images import open_image

MAX_PAIRS = 40  # that are shown
THUMBNAIL = 160  # pixels, the longer side


def make_page(report: Mapping[str, Any], table: Table, charts: Mapping[str, bytes], *, images: bool) -> str:
    """The page.

    Args:
        report, table: of `metrics.audit.report.make_report`.
        charts: PNG files by name.
        images: whether images of the data are shown; without them the page has figures, charts and texts.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": "{:,}".format, "interval": interval_text}
    return environment.get_template("page.html").render(
        report=report,
        failures=[(FAILURES[name], count) for name, count in count_failures(report).items()],
        pairs=_with_thumbnails(_shown_pairs(report["overlaps"]), table) if images else [],
        all_pairs=sum(len(overlap["pairs"]) for overlap in report["overlaps"]),
        charts={name: _data_uri(data, "png") for name, data in charts.items()},
    )


def _shown_pairs(overlaps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The best pairs of all overlaps in turn, up to `MAX_PAIRS` of them."""
    several = [[pair | {"splits": overlap["splits"]} for pair in overlap["pairs"]] for overlap in overlaps]
    in_turn = chain.from_iterable(zip_longest(*several))
    return [pair for pair in in_turn if pair is not None][:MAX_PAIRS]


def _with_thumbnails(pairs: list[dict[str, Any]], table: Table) -> list[dict[str, Any]]:
    file_of = {image.name: file for image, file in zip(table.images, table.files, strict=True)}
    uris = {name: _thumbnail(file_of[name]) for name in {name for pair in pairs for name in pair["images"]}}
    return [pair | {"thumbnails": [uris[name] for name in pair["images"]]} for pair in pairs]


def _thumbnail(file: Path) -> str:
    image = open_image(file)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return _data_uri(data.getvalue(), "jpeg")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
