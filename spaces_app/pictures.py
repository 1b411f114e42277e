"""The images of a visit to the Streamlit app, each with what was asked about it."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
import streamlit as st
from PIL import Image, ImageDraw, ImageOps

from processing.image_source import ImageBytes
from processing.images import ImageFacts, image_facts, open_image, read_values
from processing.windows import Window
from spaces_app.answers import Conversation
from spaces_app.limits import DECODING

THUMBNAIL = 96  # pixels
PAGE_WIDTH = 1460  # pixels of an image on the page, at most; Streamlit would make it smaller at each click


class View(NamedTuple):
    """What of a picture is shown.

    Attributes:
        number: of the slice, from 1.
        window: centre and width in the units of the file; None is the file's own.
        inverted: black is white.
    """

    number: int = 1
    window: Window | None = None
    inverted: bool = False


@dataclass
class Picture:
    """An image or a stack of slices of this visit, and what was asked about it.

    What is made from the file is kept, because Streamlit runs the script anew for each click.

    Attributes:
        key: tells it from others.
        name: of its file.
        data: the file; of a series that of its first slice.
        series: name and file of each slice, in their order, where each has a file of its own.
        conversation: what was asked.
    """

    key: str
    name: str
    data: bytes = b""
    series: tuple[tuple[str, bytes], ...] = ()
    conversation: Conversation = field(default_factory=Conversation)
    _facts: ImageFacts | None = None
    _image: tuple[View, Image.Image] | None = None
    _values: tuple[int, np.ndarray | None] | None = None
    _drawn: dict[Hashable, bytes] = field(default_factory=dict)
    _thumbnail: bytes | None = None

    @property
    def slices(self) -> int:
        """How many slices it has.

        Raises:
            UserError: the file can't be opened.
        """
        return self.facts().slices

    @property
    def middle(self) -> int:
        """The number of the slice in the middle."""
        return (self.slices + 1) // 2

    def image(self, view: View | None = None) -> Image.Image:
        """The picture in a view, by default the slice in the middle in the file's own window; the last one is kept.

        Raises:
            UserError: the file can't be opened.
        """
        view = View(self.middle) if view is None else view
        if self._image is None or self._image[0] != view:
            with DECODING:
                image = open_image(self._file(view.number), window=view.window)
            self._image = view, ImageOps.invert(image) if view.inverted else image
        return self._image[1]

    def values(self, number: int) -> np.ndarray | None:
        """The numbers of a grey slice ``(height, width)``, None of one in colour; the last ones are kept.

        Raises:
            UserError: the file can't be opened.
        """
        if self._values is None or self._values[0] != number:
            with DECODING:
                self._values = number, read_values(self._file(number))
        return self._values[1]

    def drawn(self, key: Hashable, draw: Callable[[], Image.Image], is_zoomed: bool = False) -> bytes:
        """What is drawn of the picture, as a PNG file for the page; the last two are kept.

        Args:
            key: tells it from other drawings.
            draw: draws it.
            is_zoomed: the file has all pixels, even where the page is narrower.
        """
        if (key, is_zoomed) not in self._drawn:
            image = draw()
            if image.width > PAGE_WIDTH and not is_zoomed:
                image = image.resize((PAGE_WIDTH, max(round(image.height * PAGE_WIDTH / image.width), 1)))
            while len(self._drawn) > 1:
                del self._drawn[next(iter(self._drawn))]
            self._drawn[key, is_zoomed] = as_png(image)
        return self._drawn[key, is_zoomed]

    def thumbnail(self) -> bytes:
        """A small copy of the slice in the middle as a PNG file."""
        if self._thumbnail is None:
            file = self._file(self.middle)
            with DECODING:
                image = open_image(file)
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            self._thumbnail = as_png(image)
        return self._thumbnail

    def facts(self) -> ImageFacts:
        """What may be shown of the file; of a stack that of the slice in the middle.

        Raises:
            UserError: the file can't be opened.
        """
        if self._facts is None:
            if self.series:
                self._facts = replace(image_facts(self._file((len(self.series) + 1) // 2)), slices=len(self.series))
            else:
                facts = image_facts(self._file(1))
                self._facts = facts if facts.slices == 1 else image_facts(self._file((facts.slices + 1) // 2))
        return self._facts

    @property
    def is_there(self) -> bool:
        """Whether its file was not taken away."""
        return bool(self.data)

    def name_of(self, number: int) -> str:
        """The name of a slice, as a table has it."""
        if self.series:
            return self.series[number - 1][0]
        return self.name if self.slices == 1 else f"{self.name}#{number}"

    def details(self, view: View) -> str:
        """Format, size, slice and window, and what may be told of a DICOM file, in a line."""
        facts, image = self.facts(), self.image(view)
        parts = [f"{facts.format}, {image.width} x {image.height} pixels", *self._parts_of(view)]
        return " · ".join([*parts, *(f"{name}: {value}" for name, value in facts.details.items())])

    def in_words(self, view: View) -> str:
        """Slice and window of a view; empty for an only slice in the file's own window."""
        return " · ".join(self._parts_of(view))

    def _parts_of(self, view: View) -> Iterator[str]:
        if self.slices > 1:
            yield f"slice {view.number} of {self.slices}"
        if view.window is not None:
            yield f"level {view.window[0]:g}, window {view.window[1]:g}"
        if view.inverted:
            yield "inverted"

    def free(self) -> None:
        """Gives up the file and what was made from it; the conversation stays."""
        self.data, self.series = b"", ()
        self._facts = self._image = self._values = self._thumbnail = None
        self._drawn.clear()

    def _file(self, number: int) -> ImageBytes:
        if self.series:
            name, data = self.series[number - 1]
            return ImageBytes(data, name)
        return ImageBytes(self.data, self.name, number)


def as_png(image: Image.Image) -> bytes:
    """An image as a PNG file."""
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


@cache
def icon() -> Image.Image:
    """The page's icon: a cross-section of a chest. Streamlit fetches its own icons from another host."""
    picture = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((2, 8, 62, 56), fill="#0b6e75")
    for lung in ((10, 16, 30, 48), (34, 16, 54, 48)):
        draw.ellipse(lung, fill="#14252b")
    draw.ellipse((28, 40, 36, 48), fill="#e8f1f2")
    return picture


def pictures_of_visit() -> dict[str, Picture]:
    """All pictures of this visit by their keys, those that were taken away after a question too."""
    return st.session_state.setdefault("pictures", {})
