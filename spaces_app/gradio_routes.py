"""What a visitor may have of Gradio's own server: the routes of the page and its API, errors that quote nothing."""

import html
import logging
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.route_utils import API_PREFIX
from gradio_client.utils import is_http_url_like
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

READ = (
    "/|/config|/theme[.]css|/favicon[.]ico|/(assets|static)/.+|"
    f"{API_PREFIX}/(info|startup-events|app_id|queue/data|call/answer/[^/]+)"
)
WRITE = f"{API_PREFIX}/(upload|queue/join|call/answer|cancel)"
FAILED = 'The app could not answer this request; "Use via API" at the foot of the page shows its form.'

logger = logging.getLogger(__name__)


class AllowedRoutes:
    """An ASGI app that offers what the page and its API use; all else is not found.

    Gradio has further routes, which fetch from the internet, run ffmpeg, keep what was typed, or go around the queue.

    Args:
        app: the app under it.
        folder: whose files may be read.
    """

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self.app = app
        readable = f"{READ}|{API_PREFIX}/file={re.escape(str(folder))}/.+"
        self.routes = {"GET": readable, "HEAD": readable, "POST": WRITE}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if not re.fullmatch(self.routes.get(scope["method"], ""), path):
                await PlainTextResponse("Not Found", 404)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def without_quotes(process: Callable[..., Any]) -> Callable[..., Any]:
    """What Gradio does to answer a request, but its errors are logged without their text.

    Gradio prints them, and they quote what was sent, names of files too.
    """

    async def process_quietly(*args: Any, **kwargs: Any) -> Any:
        try:
            return await process(*args, **kwargs)
        except Exception as error:
            if isinstance(error, gr.Error) and not error.print_exception:
                raise
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s in a request:\n%s", type(error).__name__, frames)
            raise plain_error(FAILED) from None

    return process_quietly


def refuse_addresses(move: Callable[..., Any]) -> Callable[..., Any]:
    """What Gradio does to have a file, but for an address on the internet, which it would fetch without a bound."""

    async def move_local(path: str | Path | None) -> str | None:
        if is_http_url_like(str(path)):
            raise plain_error("The image is an address on the internet; send the file itself.")
        return await move(path)

    return move_local


def plain_error(message: str) -> gr.Error:
    """An error whose text is plain: the page takes it for HTML."""
    return gr.Error(html.escape(message, quote=False), print_exception=False)
