"""The Gradio app's tool for assistants, by the Model Context Protocol (https://modelcontextprotocol.io).

Gradio has such a server, too. It asks its own app by HTTP, so that all assistants are one visitor, it keeps what they
send in a folder of its own for ever, and it can't offer a list of numbers. So this one is built on the protocol's own
package.
"""

import base64
import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from anyio import CapacityLimiter, to_thread
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import CallToolResult, TextContent, Tool
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from processing.errors import UserError
from processing.regions import Region
from spaces_app.content import DISCLAIMER, QUESTION_CUT, UNLIKE_TRAINING
from spaces_app.gradio_routes import log_without_text
from spaces_app.gradio_view import View, region_of_shares
from spaces_app.uploads import MAX_BODY_BYTES

WAITING = 32  # calls that may wait for their turn, as in Gradio's queue
BUSY = "The app has as many questions as it can hold; try again in some seconds."
FAILED = "The app could not answer this call."
SOURCE = (
    "The image must be base64 as in data:image/png;base64,... or a path that /gradio_api/upload has answered; the app "
    "fetches no address and reads no other file."
)
DESCRIPTION = (
    "Answers a question about a medical image with a small model that was trained for it. Returns the answer with its "
    "confidence, other answers, and what the model finds in the image: names and boxes, as left, top, width and "
    f"height in shares of the image. {DISCLAIMER}"
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image", "question"],
    "properties": {
        "image": {
            "type": "string",
            "description": "The file of the image: PNG, JPEG, TIFF, BMP, WebP, GIF, DICOM or NIfTI. Either "
            "data:image/png;base64,... (for DICOM data:application/dicom;base64,...) or the path that a POST of the "
            "file as multipart form field `files` to /gradio_api/upload of this server answers.",
        },
        "question": {"type": "string", "description": "The question, in a sentence such as: Is this a CT scan?"},
        "slice": {
            "type": "integer",
            "default": 0,
            "description": "Number of the slice, frame or page of a file that has several, from 1. 0 is the middle.",
        },
        "window_center": {
            "type": "number",
            "default": 0,
            "description": "Centre of the window of grey values, in Hounsfield units for CT, else in the units of the "
            "file. It counts where window_width is above 0.",
        },
        "window_width": {
            "type": "number",
            "default": 0,
            "description": "Width of the window of grey values. 0 is the file's own window.",
        },
        "region": {
            "type": ["array", "null"],
            "items": {"type": "number"},
            "default": None,
            "description": "A region of the image to be asked about besides the whole image: left, top, right and "
            "bottom, as shares of its width and height from 0 to 1.",
        },
    },
}

Ask = Callable[[str | bytes, str, View, Region | None, Request], dict[str, Any]]


class McpEndpoint:
    """An ASGI app that offers the tool `answer`; `manager` must run meanwhile.

    Args:
        ask: answers a question about a file, or about the path of an uploaded one; its errors are those of Gradio.
        folder: of the uploaded files.
    """

    def __init__(self, ask: Ask, folder: Path) -> None:
        self._ask = ask
        self._upload = re.compile(re.escape(str(folder)) + "/[0-9a-f]{32}/image")
        self._one_at_a_time = CapacityLimiter(1)
        self._server: Server[None, Request] = Server("medical-vqa", instructions=DISCLAIMER)
        self._server.list_tools()(self.list_tools)
        self._server.call_tool()(self.call_tool)
        self.manager = StreamableHTTPSessionManager(
            self._server,
            json_response=True,
            stateless=True,
            max_request_body_size=2 * MAX_BODY_BYTES,  # `UploadLimit` stands before it
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["method"] != "POST":  # GET asks for messages that no call has asked for; there are none
            await PlainTextResponse("Method Not Allowed", 405, {"Allow": "POST"})(scope, receive, send)
            return
        await self.manager.handle_request(scope, receive, send)

    async def list_tools(self) -> list[Tool]:
        """The one tool."""
        return [Tool(name="answer", description=DESCRIPTION, inputSchema=SCHEMA)]

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Answers a call whose arguments fit `SCHEMA`: in words, and as an object as the API returns it."""
        request = self._server.request_context.request
        try:
            if name != "answer" or request is None:
                raise UserError("There is one tool: answer.")
            if self._one_at_a_time.statistics().tasks_waiting >= WAITING:
                raise UserError(BUSY)
            details = await to_thread.run_sync(self._answer, arguments, request, limiter=self._one_at_a_time)
        except UserError as error:
            return _result(str(error), is_error=True)
        except gr.Error as error:
            return _result(html.unescape(error.message), is_error=True)
        except Exception as error:
            log_without_text(error)
            return _result(FAILED, is_error=True)
        return _result(_in_words(details), details)

    def _answer(self, arguments: dict[str, Any], request: Request) -> dict[str, Any]:
        width = arguments.get("window_width", 0)
        window = (arguments.get("window_center", 0), width) if width else None
        view = View(int(arguments.get("slice", 0)), window)
        region = region_of_shares(arguments.get("region"))
        return self._ask(self._source(arguments["image"]), arguments["question"], view, region, request)

    def _source(self, image: str) -> str | bytes:
        """The content of a data URL, or the path of an upload.

        Raises:
            UserError: it is something else.
        """
        if self._upload.fullmatch(image):
            return image
        if image.startswith("data:") and ";base64," in image[:200]:
            try:
                return base64.b64decode(image.partition(",")[2], validate=True)
            except ValueError:  # letters that are not ASCII, too
                raise UserError("The image is no valid base64; encode the whole file again.") from None
        raise UserError(SOURCE)


def _result(text: str, details: dict[str, Any] | None = None, is_error: bool = False) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], structuredContent=details, isError=is_error)


def _in_words(details: dict[str, Any]) -> str:
    """The result of the API as text, for assistants that are not shown the object."""
    lines = [f"Answer: {_ranked(details)}"]
    if details["region"]:
        lines.append(f"Asked about the region alone: {_ranked(details['region'])}")
    if evidence := details["evidence"]:
        boxes = (
            f"{found['label']} ({found['probability']:.0%}) at {list(found['box'])}" for found in evidence["boxes"]
        )
        where = "region" if details["region"] else "image"
        lines.append(f"Found in the {where}: {'; '.join(boxes) or 'no place for it'}.")
        if evidence["contradicts"]:
            lines.append("What is found speaks against the answer.")
    if details["silent"]:
        lines.append("The model gives no answer: its confidence is below its threshold.")
    if details["question_cut"]:
        lines.append(QUESTION_CUT)
    if details["unlike_training"]:
        lines.append(UNLIKE_TRAINING)
    return "\n".join(lines)


def _ranked(answer: dict[str, Any]) -> str:
    word = "candidates" if answer["silent"] else "less likely"
    others = ", ".join(f"{other['answer']} ({other['confidence']:.0%})" for other in answer["alternatives"])
    return f"{answer['answer'] or '(no answer)'} ({answer['confidence']:.0%}); {word}: {others or 'nothing'}"
