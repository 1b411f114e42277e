"""The images of a visit to the Streamlit app: where they come from, choosing one, its thumbnail and its window."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import NamedTuple

import streamlit as st
from PIL import Image

from processing.errors import UserError
from processing.images import MAX_IMAGE_BYTES, ImageFacts, image_facts, open_image
from spaces_app.answers import Conversation, plain
from spaces_app.content import BURNT_IN, example_images
from spaces_app.limits import DECODING, UPLOADS

MAX_FILES = 100
MAX_VISIT_BYTES = 256 * 2**20  # of all files that are shown at once
THUMBNAIL = 96  # pixels

Window = tuple[float, float]  # centre and width, in the units of the file


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


@dataclass
class Picture:
    """An image of this visit and what was asked about it.

    What is made from the file is kept, because Streamlit runs the script anew for each click.
    """

    key: str
    name: str
    data: bytes = b""
    conversation: Conversation = field(default_factory=Conversation)
    _facts: ImageFacts | None = None
    _image: tuple[Window | None, Image.Image] | None = None
    _png: tuple[Image.Image, bytes] | None = None
    _thumbnail: bytes | None = None

    def image(self, window: Window | None = None) -> Image.Image:
        """The picture in a window, by default the file's own; the last one is kept.

        Raises:
            UserError: the file can't be opened.
        """
        if self._image is None or self._image[0] != window:
            with DECODING:
                self._image = window, open_image(self._file(), window=window)
        return self._image[1]

    def png(self, window: Window | None = None) -> bytes:
        """`image` as a PNG file; the last one is kept."""
        image = self.image(window)
        if self._png is None or self._png[0] is not image:
            self._png = image, as_png(image)
        return self._png[1]

    def thumbnail(self) -> bytes:
        """A small copy as a PNG file."""
        if self._thumbnail is None:
            with DECODING:
                image = open_image(self._file())
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            self._thumbnail = as_png(image)
        return self._thumbnail

    def facts(self) -> ImageFacts:
        """What may be shown of the file.

        Raises:
            UserError: the file can't be opened.
        """
        if self._facts is None:
            self._facts = image_facts(self._file())
        return self._facts

    def free(self) -> None:
        """Gives up the file and what was made from it; the conversation stays."""
        self.data, self._image, self._png, self._thumbnail = b"", None, None, None

    def _file(self) -> BytesIO:
        file = BytesIO(self.data)
        file.name = self.name
        return file


def as_png(image: Image.Image) -> bytes:
    """An image as a PNG file."""
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def pictures_of_visit() -> dict[str, Picture]:
    """All pictures of this visit by their keys, those that were taken away after a question too."""
    return st.session_state.setdefault("pictures", {})


def choose_picture() -> Picture | None:
    """Shows the source, its files and the strip of thumbnails; the picture that is chosen there."""
    source = st.segmented_control(
        "Where the image comes from", ("Files", "Examples", "Camera"), default="Files", required=True
    )
    if source == "Files":
        pictures = _uploaded_pictures()
    elif source == "Examples":
        pictures = _example_pictures()
    else:
        pictures = _photographed_picture()
    _forget_others(pictures)
    if len(pictures) < 2:
        return pictures[0] if pictures else None
    return _choose_from_strip(pictures)


def choose_window(picture: Picture) -> Window | None:
    """Shows sliders for the window of a grey DICOM image; None is the file's own window."""
    facts = picture.facts()
    if facts.window is None or facts.value_range is None:
        return None
    sliders = window_sliders(facts.window, facts.value_range)
    center, width = facts.window

    def slide(label: str, limits: tuple[float, float], value: float, key: str) -> float:
        key = f"{key}-{picture.key}"
        return st.slider(label, *limits, value, sliders.step, sliders.format, key=key)

    with st.expander("Window and level"):
        level = slide("Level (centre)", sliders.levels, center, "level")
        chosen_width = slide("Window (width)", sliders.widths, width, "width")
        st.caption("In the units of the file: Hounsfield units for CT. The model sees what you see.")
    window = (level, chosen_width)
    return None if window == facts.window else window


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


def _uploaded_pictures() -> list[Picture]:
    files = st.file_uploader(
        "Images: PNG, JPEG, TIFF, BMP, WebP or DICOM",
        accept_multiple_files=True,
        max_upload_size=MAX_IMAGE_BYTES // 2**20,
    )
    st.caption(
        f"Nothing about the patient in a DICOM header is read or shown. {BURNT_IN} A visitor may send "
        f"{UPLOADS.amount // 2**20} MB in ten minutes."
    )
    if len(files) > MAX_FILES:
        st.warning(f"Only the first {MAX_FILES} of {len(files)} files are shown.")
    files = sorted(files, key=lambda file: file.name)[:MAX_FILES]
    if sum(file.size for file in files) > MAX_VISIT_BYTES:
        st.warning(f"The files together are larger than {MAX_VISIT_BYTES // 2**20} MB; choose fewer at once.")
        return []
    return [_remember(file.file_id, file.name, file.getvalue) for file in files]


def _example_pictures() -> list[Picture]:
    st.caption("Drawn images, not of any patient. They have the shapes and greys of CT, MRI and X-ray.")
    return [_remember(name, name, file.read_bytes) for name, file in example_images()]


def _photographed_picture() -> list[Picture]:
    photo = st.camera_input("Photograph an image")
    return [] if photo is None else [_remember(photo.file_id, "photo.jpg", photo.getvalue)]


def _remember(key: str, name: str, read: Callable[[], bytes]) -> Picture:
    """The picture of this visit with that key, with its file."""
    picture = pictures_of_visit().setdefault(key, Picture(key, name))
    if not picture.data:
        picture.data = read()
    return picture


def _forget_others(pictures: list[Picture]) -> None:
    """Frees images that were taken away, and forgets those of them that nobody asked about."""
    kept = {picture.key for picture in pictures}
    for key, picture in list(pictures_of_visit().items()):
        if key not in kept:
            picture.free()
            if not picture.conversation.turns:
                del pictures_of_visit()[key]


def _choose_from_strip(pictures: list[Picture]) -> Picture:
    """Shows thumbnails to choose from; the picture that is chosen, at first the first one."""
    by_key = {picture.key: picture for picture in pictures}
    if st.session_state.get("chosen") not in by_key:
        st.session_state.chosen = pictures[0].key
    with st.container(horizontal=True, key="strip"):
        for number, picture in enumerate(pictures, 1):
            with st.container(width=THUMBNAIL + 8, gap="small"):
                try:
                    st.image(picture.thumbnail(), width=THUMBNAIL, alt=f"Thumbnail of {picture.name}")
                except UserError:
                    st.caption("can't be opened")
                st.button(
                    plain(picture.name),
                    key=f"choose-{picture.key}",
                    type="primary" if picture.key == st.session_state.chosen else "tertiary",
                    help=f"Image {number} of {len(pictures)}: {plain(picture.name)}",
                    on_click=_choose,
                    args=(picture.key,),
                )
    return by_key[st.session_state.chosen]


def _choose(key: str) -> None:
    st.session_state.chosen = key
