"""What visitors send to an app: bytes are counted and bounded before they are kept, and forgotten after a while."""

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from processing.images import MAX_IMAGE_BYTES
from spaces_app.limits import LIMITER, UPLOADS, LimitError, address_of

MAX_HELD_BYTES = 2 * 2**30  # of all visitors together
MAX_BODY_BYTES = MAX_IMAGE_BYTES + 2**20  # of a request: a file and what a form puts around it
FULL = "The app holds as many files as it can; try again in some minutes."
TOO_LARGE = f"The file exceeds the maximum allowed size of {MAX_IMAGE_BYTES // 2**20} MB; send a smaller one."
FOLDER = "medical-vqa-uploads-"  # begins the name of a server's folder of uploads


class _RefusedError(Exception):
    """A body that may not go on."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class UploadLimit:
    """An ASGI app whose requests have bounded bodies: each, all of a client address in a time, and all that is kept.

    A request beyond a bound is answered with status 413 or 429 and one sentence, whatever the app under it says of the
    error that it gets in place of the body.

    Args:
        app: the app under it.
        held: the bytes of all files that are kept.
    """

    def __init__(self, app: ASGIApp, held: Callable[[], int]) -> None:
        self.app = app
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        address = address_of(scope)
        length = 0
        ended = started = False
        refused: _RefusedError | None = None

        async def receive_counted() -> Message:
            nonlocal length, ended, refused
            message = await receive()
            ended = message["type"] != "http.request" or not message.get("more_body", False)
            size = len(message.get("body", b""))
            try:
                if size:
                    self._check(address, length, size)
            except _RefusedError as error:
                refused = error
                raise
            finally:
                length += size
            return message

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if refused is None or started:  # else it is what the app says of the error
                started = True
                await send(message)

        with suppress(_RefusedError):
            await self.app(scope, receive_counted, send_unless_refused)
        if refused is None:
            return
        while not ended and length <= MAX_BODY_BYTES:  # a client that still writes would not read the answer
            message = await receive()
            length += len(message.get("body", b""))
            ended = message["type"] != "http.request" or not message.get("more_body", False)
        if not started:
            await PlainTextResponse(str(refused), refused.status)(scope, receive, send)

    def _check(self, address: str, length: int, size: int) -> None:
        """Counts the next part of a body.

        Args:
            length: bytes of the body before it.
            size: bytes of this part.

        Raises:
            _RefusedError: it is too much.
        """
        if length == 0 and self.held() > MAX_HELD_BYTES:
            raise _RefusedError(429, FULL)
        if length + size > MAX_BODY_BYTES:
            raise _RefusedError(413, TOO_LARGE)
        try:
            LIMITER.take(address, UPLOADS, size)
        except LimitError as error:
            raise _RefusedError(429, str(error)) from None


class UploadFolder:
    """The folder where the Gradio app keeps what visitors send and see, under names that tell nothing.

    Folders that servers of this name left beside it, as one that was killed, are cleaned too.

    Args:
        parent: where it is made; by default the system's folder for temporary files.
    """

    def __init__(self, parent: str | None = None) -> None:
        if parent:
            os.makedirs(parent, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix=FOLDER, dir=parent or None)).resolve()

    def held(self) -> int:
        """The bytes of all its files."""
        return sum(status.st_size for _, status in _files(self.path))

    async def save(self, request: Request) -> Response:
        """Keeps the files of a form, and answers with their paths; their own names are not kept."""
        paths = []
        async with request.form(max_files=8) as form:
            for upload in form.getlist("files"):
                if isinstance(upload, str):
                    continue
                if (upload.size or 0) > MAX_IMAGE_BYTES:
                    return PlainTextResponse(TOO_LARGE, 413)
                path = self.path / secrets.token_hex(16) / "image"
                path.parent.mkdir()
                path.write_bytes(await upload.read())
                paths.append(str(path))
        return JSONResponse(paths)

    def forget(self, seconds: float, keep: Collection[str] = ()) -> None:
        """Deletes the files that nobody has used for so long.

        Args:
            keep: paths of files that belong to the app itself.
        """
        oldest = time.time() - seconds
        for folder in self.path.parent.glob(f"{FOLDER}*"):
            for file, status in _files(folder):
                if str(file) not in keep and status.st_mtime < oldest:
                    with suppress(OSError):  # another process deletes it, or owns it
                        file.unlink()
                        file.parent.rmdir()  # is refused while there are others in it


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All files in a folder; another thread may delete them meanwhile."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if S_ISREG((status := path.lstat()).st_mode):
                yield path, status
