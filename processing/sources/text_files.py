"""The text of a table's file, in the encodings that spreadsheets and exporters write."""

import codecs
from pathlib import Path

from processing.errors import UserError

BYTE_ORDER_MARKS = {  # that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BEGINNING = 1_000  # characters in which text of another encoding is noticed
OTHER_FILES = {  # by how they begin
    b"PK\x03\x04": "an Excel workbook or a zip file and no text; save the table as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook and no text; save the table as CSV UTF-8",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"PAR1": "a Parquet file and no text; write the table as CSV or JSON Lines",
}


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        UserError: it can't be read, or as `decode_text`.
    """
    try:
        return decode_text(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror}).") from error


def decode_text(data: bytes, file: Path) -> str:
    """The text in the bytes of a file: UTF-8, or what its byte order mark says; `file` is its name in messages.

    Raises:
        UserError: it is other text or none.
    """
    for beginning, what in OTHER_FILES.items():
        if data.startswith(beginning):
            raise UserError(f"{file}: {what}.")
    marked = [name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)]
    encoding = marked[0] if marked else "utf-8"
    mend = "save it as UTF-8" + (", in Excel as CSV UTF-8" if file.suffix.lower() == ".csv" else "")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise UserError(f"{file}: not {name} text (byte {error.start}); {mend}.") from error
    if "\0" in text[:BEGINNING]:
        raise UserError(f"{file}: not UTF-8 text but perhaps UTF-16, as it holds the character NUL; {mend}.")
    return text
