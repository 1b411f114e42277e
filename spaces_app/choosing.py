"""Where the images of a visit come from, and the choice of one."""

from collections.abc import Callable

import streamlit as st

from processing.errors import UserError
from processing.images import MAX_IMAGE_BYTES
from processing.series import sort_into_series
from spaces_app.answers import plain
from spaces_app.content import BURNT_IN, FIRST_EXAMPLE, FIRST_QUESTION, example_images
from spaces_app.limits import UPLOADS
from spaces_app.pictures import THUMBNAIL, Picture, pictures_of_visit

MAX_FILES = 400  # a series of CT slices has some hundred
MAX_PICTURES = 100
MAX_VISIT_BYTES = 256 * 2**20  # of all files that are shown at once

File = tuple[str, Callable[[], bytes]]  # its name and what reads it


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


def _uploaded_pictures() -> list[Picture]:
    files = st.file_uploader(
        "Images: PNG, JPEG, TIFF, BMP, WebP, DICOM or NIfTI; the slices of a DICOM series together",
        accept_multiple_files=True,
        max_upload_size=MAX_IMAGE_BYTES // 2**20,
    )
    st.caption(
        f"Nothing about the patient in a DICOM header is read or shown. {BURNT_IN} A visitor may send "
        f"{UPLOADS.amount // 2**20} MB in ten minutes."
    )
    if not files:
        st.info("Choose an image, or look at an example.", icon=":material/image_search:")
        return _example_pictures()
    if len(files) > MAX_FILES:
        st.warning(f"Only the first {MAX_FILES} of {len(files)} files are shown.")
    files = sorted(files, key=lambda file: file.name)[:MAX_FILES]
    if sum(file.size for file in files) > MAX_VISIT_BYTES:
        st.warning(f"The files together are larger than {MAX_VISIT_BYTES // 2**20} MB; choose fewer at once.")
        return []
    stacks = _stacks_of([(file.file_id, (file.name, file.getvalue)) for file in files])
    if len(stacks) > MAX_PICTURES:
        st.warning(f"Only the first {MAX_PICTURES} of {len(stacks)} images are shown.")
    return [_remember(*stack) for stack in stacks[:MAX_PICTURES]]


def _stacks_of(files: list[tuple[str, File]]) -> list[tuple[str, str, list[File]]]:
    """Key, name and files of each picture: those of a DICOM series are one, with its slices in their order."""
    ids = [file_id for file_id, _ in files]
    known = st.session_state.get("stacks")
    if known is None or known[0] != ids:
        known = st.session_state.stacks = ids, sort_into_series([(name, read()) for _, (name, read) in files])
    stacks = []
    for numbers in known[1]:
        slices = [files[number][1] for number in numbers]
        first, last = slices[0][0], slices[-1][0]
        # of other slices it is another stack, about which nothing was asked
        key = " ".join(ids[number] for number in numbers)
        stacks.append((key, first if len(slices) == 1 else f"{first} to {last}", slices))
    return stacks


def _example_pictures() -> list[Picture]:
    st.caption("Drawn images, not of any patient. They have the shapes and greys of CT, MRI and X-ray.")
    pictures = [_remember(name, name, [(name, file.read_bytes)]) for name, file in example_images()]
    if not st.session_state.setdefault("greeted", False):
        st.session_state.greeted = True
        st.session_state.chosen = FIRST_EXAMPLE
        pictures_of_visit()[FIRST_EXAMPLE].conversation.pending = FIRST_QUESTION
    return pictures


def _photographed_picture() -> list[Picture]:
    photo = st.camera_input("Photograph an image")
    return [] if photo is None else [_remember(photo.file_id, "photo.jpg", [("photo.jpg", photo.getvalue)])]


def _remember(key: str, name: str, files: list[File]) -> Picture:
    """The picture of this visit with that key, with its files."""
    picture = pictures_of_visit().setdefault(key, Picture(key, name))
    if not picture.is_there:
        picture.free()
        files_read = [(file_name, read()) for file_name, read in files]
        picture.name, picture.data = name, files_read[0][1]
        picture.series = tuple(files_read) if len(files_read) > 1 else ()
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
                    # a PNG file as it is: without the format Streamlit makes a JPEG of it at every run
                    st.image(
                        picture.thumbnail(), width=THUMBNAIL, output_format="PNG", alt=f"Thumbnail of {picture.name}"
                    )
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
