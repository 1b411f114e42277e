"""The bytes of an image from a path, a file object or memory, and what it is called in messages.

A path may name a frame, page or slice of its file: `scan.dcm#12` is the twelfth.
"""

import hashlib
import os
import re
import stat
from io import BytesIO
from typing import Any, BinaryIO

from PIL import Image

from processing.pixels import ImageError, above_limit, cannot_open

SLICE = re.compile(r"(.+)#([1-9][0-9]{0,6})", re.DOTALL)

ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image


def name_of(source: Any) -> str:
    """The file's name as given; empty if there is none, as for bytes."""
    name = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""


class ImageBytes(BytesIO):
    """The file of an image in memory.

    Args:
        data: the file.
        name: for messages.
        slice_number: the frame, page or slice that is meant, from 1; None is the only one, or the first.
    """

    def __init__(self, data: bytes, name: str = "", slice_number: int | None = None) -> None:
        super().__init__(data)
        self.name = name
        self.slice_number = slice_number


def split_number(name: str) -> tuple[str, int | None]:
    """The name of a file, and the number that follows it after a `#`."""
    match = SLICE.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, None)


def split_slice(path: str) -> tuple[str, int | None]:
    """As `split_number`; where there is a file of the whole name, it is that."""
    return (path, None) if os.path.lexists(path) else split_number(path)


def digest_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the file of an image, and of the number of a slice where the path names one.

    Raises:
        OSError: it can't be read.
    """
    file, number = split_slice(os.fspath(path))
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    if number is not None:
        digest.update(b"#%d" % number)
    return digest.hexdigest()


def slice_of(source: Any) -> int | None:
    """The number of the frame, page or slice that a source names; None where it names none."""
    if isinstance(source, str | os.PathLike):
        return split_slice(name_of(source))[1]
    return getattr(source, "slice_number", None)


def label_of(source: Any) -> str:
    """The name for messages: control characters are escaped, and only the end of a very long one is kept."""
    name = name_of(source)
    if not name and not isinstance(source, str):
        return "the image"
    return repr(name if len(name) <= 200 else "..." + name[-200:])


def read_bytes(source: Any, max_bytes: int) -> bytes:
    """The whole file, of which never more than ``max_bytes + 1`` bytes are read.

    Raises:
        ImageError: it can't be read, is empty, or has more than `max_bytes`.
    """
    label = label_of(source)
    if isinstance(source, bytes | bytearray | memoryview):
        if (size := memoryview(source).nbytes) > max_bytes:
            raise above_limit(label, f"{size:,}", max_bytes, "bytes")
        data = bytes(source)
    elif isinstance(source, str | os.PathLike):
        data = _read_path(split_slice(os.fsdecode(source))[0], label, max_bytes)
    elif hasattr(source, "read"):
        data = _read_stream(source, label, max_bytes)
    else:
        problem = f"an object of type {type(source).__name__} is not an image"
        raise cannot_open(label, problem, "give a path, bytes, a file or a PIL image")
    if not data:
        raise cannot_open(label, "it is empty (0 bytes)", "export or download it again")
    return data


def _read_path(path: str, label: str, max_bytes: int) -> bytes:
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes:
            with open(path, "rb") as file:
                return _read_stream(file, label, max_bytes)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise cannot_open(label, "it does not exist", "check the path") from None
    except PermissionError:
        raise cannot_open(label, "reading it is not permitted", "change its permissions or run as its owner") from None
    except (OSError, ValueError):
        raise cannot_open(label, "its path is not valid here", "check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise cannot_open(label, "it is a folder", "name a file inside it")
    if not stat.S_ISREG(status.st_mode):
        # Reading a pipe or a device may wait for ever.
        raise cannot_open(label, "it is a pipe, socket or device and not a regular file", "copy it to a file first")
    raise above_limit(label, f"{status.st_size:,}", max_bytes, "bytes")


def _read_stream(file: BinaryIO, label: str, max_bytes: int) -> bytes:
    data = bytearray()
    try:
        while len(data) <= max_bytes and (chunk := file.read(min(2**20, max_bytes + 1 - len(data)))):
            data += chunk
    except TypeError:
        raise cannot_open(label, "it is open as text", "open it with mode 'rb'") from None
    except Exception:
        raise cannot_open(label, "reading it failed", "open it again and check the disk or connection") from None
    if len(data) > max_bytes:
        raise above_limit(label, f"more than {max_bytes:,}", max_bytes, "bytes")
    return bytes(data)
