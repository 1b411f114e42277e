"""The pages of a TIFF file: how many there are, and a file in which another page comes first."""

import struct
from contextlib import suppress

BIG = 43  # the version number of BigTIFF
NEW_SUBFILE_TYPE = 254
NOT_A_PAGE = 0b101  # bits of NewSubfileType: a smaller copy of another page, or a mask for it
MAX_PAGES = 10_000
MAX_TAGS = 1_000  # of a page; real ones have a few dozen


def count_pages(data: bytes) -> int:
    """How many pages a TIFF file has, at least one, without smaller copies and masks of other pages."""
    return len(_page_offsets(data))


def with_page_first(data: bytes, number: int) -> bytes:
    """The same file, whose first page is another one.

    Args:
        number: of the page, from 1; there must be such a page.
    """
    if number == 1:
        return data
    order, big = _layout(data)
    offset = struct.pack(f"{order}Q" if big else f"{order}I", _page_offsets(data)[number - 1])
    return data[:8] + offset + data[16:] if big else data[:4] + offset + data[8:]


def _layout(data: bytes) -> tuple[str, bool]:
    order = "<" if data.startswith(b"II") else ">"
    return order, struct.unpack_from(f"{order}H", data, 2)[0] == BIG


def _page_offsets(data: bytes) -> list[int]:
    """Where the directories of the pages are (TIFF 6.0, section 2); the first directory always is that of a page.

    Of a file that is cut off it is those that are there.
    """
    order, big = _layout(data)
    number, start = (f"{order}Q", 8) if big else (f"{order}I", 4)
    (offset,) = struct.unpack_from(number, data, start)
    offsets = [offset]
    seen: set[int] = set()
    with suppress(struct.error):
        while offset and offset not in seen and len(seen) < MAX_PAGES:
            seen.add(offset)
            kind, following = _read_directory(data, offset, order, big)
            if len(seen) > 1 and not kind & NOT_A_PAGE:
                offsets.append(offset)
            offset = following
    return offsets


def _read_directory(data: bytes, offset: int, order: str, big: bool) -> tuple[int, int]:
    """The NewSubfileType of a directory, and where the next one is."""
    count, size, number = (f"{order}Q", 20, f"{order}Q") if big else (f"{order}H", 12, f"{order}I")
    (entries,) = struct.unpack_from(count, data, offset)
    if entries > MAX_TAGS:
        raise struct.error("no directory of a page")
    first = offset + struct.calcsize(count)
    kind = 0
    for place in range(first, first + size * entries, size):
        (tag,) = struct.unpack_from(f"{order}H", data, place)
        if tag == NEW_SUBFILE_TYPE:
            (kind,) = struct.unpack_from(f"{order}I", data, place + size - struct.calcsize(number))
        if tag >= NEW_SUBFILE_TYPE:  # the tags are in ascending order
            break
    (following,) = struct.unpack_from(number, data, first + size * entries)
    return kind, following
