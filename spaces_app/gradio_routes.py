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

MCP = f"{API_PREFIX}/mcp"
READ = (
    "/|/config|/theme[.]css|/favicon[.]ico|/(assets|static)/.+|"
    f"{API_PREFIX}/(info|startup-events|app_id|queue/data|call/answer/[^/]+)|{MCP}/?"
)
WRITE = f"{API_PREFIX}/(upload|queue/join|call/answer|cancel)|{MCP}/?"
FAILED = 'The app could not answer this request; "Use via API" at the foot of the page shows its form.'
ADDRESS = "The image is an address on the internet; send the file itself."
OPTIONAL = (0, 0, 0, None)  # what /answer takes after image and question: slice, window's centre and width, region

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


def guard(process: Callable[..., Any]) -> Callable[..., Any]:
    """What Gradio does to answer a request, made safe.

    An address on the internet is refused, which Gradio would fetch without a bound, whichever input it stands in.
    Errors are logged without their text: Gradio prints them, and they quote what was sent, names of files too.
    A call of /answer by plain HTTP may leave out what is optional.
    """

    async def process_safely(*, block_fn: Any, inputs: list[Any], **kwargs: Any) -> Any:
        try:
            if _has_address(inputs):
                raise plain_error(ADDRESS)
            if block_fn.api_name == "answer" and len(inputs) >= 2:
                inputs = [*inputs, *OPTIONAL[len(inputs) - 2 :]]
            return await process(block_fn=block_fn, inputs=inputs, **kwargs)
        except Exception as error:
            if isinstance(error, gr.Error) and not error.print_exception:
                raise
            log_without_text(error)
            raise plain_error(FAILED) from None

    return process_safely


def log_without_text(error: Exception) -> None:
    """Logs where an error happened."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s in a request:\n%s", type(error).__name__, frames)


def _has_address(value: Any) -> bool:
    if isinstance(value, dict):
        return is_http_url_like(str(value.get("path"))) or any(map(_has_address, value.values()))
    return isinstance(value, list) and any(map(_has_address, value))


def plain_error(message: str) -> gr.Error:
    """An error whose text is plain: the page takes it for HTML."""
    return gr.Error(html.escape(message, quote=False), print_exception=False)
