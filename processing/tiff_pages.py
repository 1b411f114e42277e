"""The pages of a TIFF file: how many there are, and a file in which another page comes first."""

import struct

BIG = 43  # the version number of BigTIFF
NEW_SUBFILE_TYPE = 254
NOT_A_PAGE = 0b101  # bits of NewSubfileType: a smaller copy of another page, or a mask for it
MAX_PAGES = 10_000


def count_pages(data: bytes) -> int:
    """How many pages a TIFF file has, without smaller copies and masks of other pages.

    Raises:
        struct.error: it is cut off.
    """
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
    """Where the directories of the pages are (TIFF 6.0, section 2). The first directory always is a page."""
    order, big = _layout(data)
    number, count, entry, start = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (offset,) = struct.unpack_from(order + number, data, start)
    offsets: list[int] = []
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < MAX_PAGES:
        seen.add(offset)
        (entries,) = struct.unpack_from(order + count, data, offset)
        first = offset + struct.calcsize(order + count)
        kind = 0
        for place in range(first, first + entry * entries, entry):
            tag = struct.unpack_from(f"{order}H", data, place)[0]
            if tag == NEW_SUBFILE_TYPE:
                (kind,) = struct.unpack_from(f"{order}I", data, place + entry - struct.calcsize(order + number))
            if tag >= NEW_SUBFILE_TYPE:  # the tags are in ascending order
                break
        if not offsets or not kind & NOT_A_PAGE:
            offsets.append(offset)
        (offset,) = struct.unpack_from(order + number, data, first + entry * entries)
    return offsets
