"""Users of the Streamlit app without a browser: they speak its protocol, and take far less than the app itself.

    python -m benchmarks.app_client ADDRESS

is a process for many of them. It reads a list of users as JSON from its first line of input, prints "ready" once each
has uploaded an image, begins to ask at the second line, prints what each saw as JSON, and ends at the third line.
"""

import argparse
import asyncio
import html
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Common_pb2 import ChatInputValue, FileUploaderState, UploadedFileInfo
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

SECONDS = 120  # that one run of the page may take
LINE = re.compile(r'<p class="(question|answer|problem)"[^>]*>(.*)</p>', re.DOTALL)


@dataclass
class Received:
    """What a user's page took from the app.

    Attributes:
        bytes: of all responses and messages.
        images: the address of each image, as often as it came. It holds a digest of the image.
    """

    bytes: int = 0
    images: list[str] = field(default_factory=list)

    def add(self, size: int, image: str | None = None) -> None:
        """Counts a response or message, and the address of an image."""
        self.bytes += size
        if image is not None:
            self.images.append(image)


@dataclass
class Visit:
    """What a user saw.

    Attributes:
        seconds: from the question to its answer, of each question.
        answers: as the page shows them.
        received: from the first question on.
    """

    seconds: list[float] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    received: Received = field(default_factory=Received)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Visit":
        """The visit that `asdict` made a dictionary of."""
        return cls(fields["seconds"], fields["answers"], Received(**fields["received"]))


def headers_of(number: int) -> dict[str, str]:
    """Headers of a user, each from an address of their own, so that no limit of a visitor is reached."""
    return {"X-Forwarded-For": f"198.51.100.{number}"}


class Page:
    """An open page.

    Args:
        http: a client for the app's address.
        socket: the page's connection.
        received: counts what comes.
    """

    def __init__(self, http: httpx.AsyncClient, socket: ClientConnection, received: Received) -> None:
        self.http = http
        self.socket = socket
        self.received = received
        self.session = ""
        self.widgets: dict[str, str] = {}  # the first widget of each kind, by its type
        self.states: dict[str, WidgetState] = {}  # that stay, by the widget
        self.cached: dict[str, ForwardMsg] = {}  # as in the browser, what the app need not send again
        self.urls: set[str] = set()  # of images that are there
        self.loads: list[asyncio.Task[None]] = []

    async def run(self, *triggers: WidgetState, question: str | None = None) -> tuple[float, str]:
        """Runs the app's script to its end.

        Args:
            triggers: what is clicked or typed.
            question: whose answer is waited for; by default none is.

        Returns:
            The time of `time.perf_counter` when the answer came, and the answer.

        Raises:
            RuntimeError: the script ended without an answer.
        """
        message = BackMsg()
        state = message.rerun_script
        state.widget_states.widgets.extend([*self.states.values(), *triggers])
        state.cached_message_hashes.extend(self.cached)
        state.context_info.timezone, state.context_info.locale = "UTC", "en"
        state.context_info.color_scheme = "light"
        await self.socket.send(message.SerializeToString())
        asked, found = "", None
        while True:
            one = await self._receive()
            kind = one.WhichOneof("type")
            if kind == "new_session":
                self.session = one.new_session.initialize.session_id
                asked = ""
            elif kind == "delta" and one.delta.HasField("new_element"):
                element = one.delta.new_element
                self._note(element)
                for style, text in LINE.findall(element.html.body):
                    if style == "question":
                        asked = html.unescape(text)
                    elif asked == question and found is None:
                        found = time.perf_counter(), html.unescape(text)
            elif kind == "script_finished" and one.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                await asyncio.gather(*self.loads)
                self.loads.clear()
                if question is not None and found is None:
                    raise RuntimeError(f"The page has no answer to: {question}")
                return found or (time.perf_counter(), "")

    async def _receive(self) -> ForwardMsg:
        """The next message of the app; one that it only refers to as it was."""
        async with asyncio.timeout(SECONDS):
            data = await self.socket.recv(decode=False)
        self.received.add(len(data))
        message = ForwardMsg.FromString(data)
        if message.WhichOneof("type") == "ref_hash":
            return self.cached[message.ref_hash]
        if message.metadata.cacheable:
            self.cached[message.hash] = message
        return message

    def _note(self, element: Element) -> None:
        """Notes a widget, or loads an image as a browser does: once."""
        kind = element.WhichOneof("type")
        if kind in ("file_uploader", "chat_input"):
            self.widgets.setdefault(kind, getattr(element, kind).id)
        for image in element.imgs.imgs:
            if image.url not in self.urls:
                self.urls.add(image.url)
                self.loads.append(asyncio.create_task(self._load(image.url)))

    async def _load(self, url: str) -> None:
        response = await self.http.get(url)
        response.raise_for_status()
        self.received.add(len(response.content), url)

    async def upload(self, image: Path) -> None:
        """Sends an image, and runs the script until it is shown."""
        message = BackMsg()
        message.file_urls_request.request_id = "1"
        message.file_urls_request.session_id = self.session
        message.file_urls_request.file_names.append(image.name)
        await self.socket.send(message.SerializeToString())
        while (one := await self._receive()).WhichOneof("type") != "file_urls_response":
            pass
        urls = one.file_urls_response.file_urls[0]
        data = image.read_bytes()
        token = self.http.cookies["_streamlit_xsrf"]
        files = {"file": (image.name, data, "image/jpeg")}
        response = await self.http.put(urls.upload_url, files=files, headers={"X-Xsrftoken": token})
        response.raise_for_status()
        info = UploadedFileInfo(name=image.name, size=len(data), file_id=urls.file_id, file_urls=urls)
        widget = self.widgets["file_uploader"]
        state = FileUploaderState(uploaded_file_info=[info])
        self.states[widget] = WidgetState(id=widget, file_uploader_state_value=state)
        await self.run()

    async def ask(self, question: str) -> tuple[float, str]:
        """Asks, and waits for the end of the script; the seconds to the answer, and the answer."""
        started = time.perf_counter()
        typed = WidgetState(id=self.widgets["chat_input"], chat_input_value=ChatInputValue(data=question))
        ended, answer = await self.run(typed, question=question)
        return ended - started, answer


async def visit(
    address: str, number: int, image: Path, questions: list[str], ready: asyncio.Barrier, begin: asyncio.Event
) -> Visit:
    """A user who uploads an image and asks once all may begin."""
    result = Visit()
    headers = headers_of(number)
    stream = address.replace("http", "ws", 1) + "/_stcore/stream"
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=SECONDS) as http:
        for path in ("/", "/_stcore/health", "/_stcore/host-config"):
            (await http.get(path)).raise_for_status()
        cookie = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
        async with connect(
            stream,
            additional_headers=headers | {"Cookie": cookie},
            subprotocols=[Subprotocol("streamlit")],
            max_size=None,
        ) as socket:
            page = Page(http, socket, Received())
            await page.run()
            await page.upload(image)
            await ready.wait()
            await begin.wait()
            page.received = result.received
            for question in questions:
                seconds, answer = await page.ask(question)
                result.seconds.append(seconds)
                result.answers.append(answer)
    return result


async def visit_at_once(address: str, users: list[dict[str, Any]]) -> list[Visit]:
    """The visits of users, each with a number, an image and questions, that begin at the next line of input."""
    ready, begin = asyncio.Barrier(len(users) + 1), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        visits = [
            group.create_task(visit(address, one["number"], Path(one["image"]), one["questions"], ready, begin))
            for one in users
        ]
        await ready.wait()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        begin.set()
    return [task.result() for task in visits]


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.app_client", description="Users without a browser.")
    parser.add_argument("address", help="of the app, as http://127.0.0.1:8501")
    options = parser.parse_args(argv)
    visits = asyncio.run(visit_at_once(options.address, json.loads(sys.stdin.readline())))
    print(json.dumps([asdict(one) for one in visits]), flush=True)
    sys.stdin.readline()  # lives until its time was read


if __name__ == "__main__":
    main(sys.argv[1:])
