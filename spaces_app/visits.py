"""The visits to the Streamlit app: what they hold in memory, that it is bounded, and that it goes after them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import runtime
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.stats import CacheStat
from streamlit.starlette import App

from spaces_app.limits import LIMITER, MESSAGES, VISITS, LimitError, address_of

FORGET_SECONDS = 10  # between two looks for visits that have ended
# Pages that are open at once. The server holds up to `server.maxMessageSize` of each while a message arrives.
MAX_OPEN = 32  # of an address
MAX_OPEN_IN_ALL = 256


class VisitLimit:
    """An ASGI app whose web sockets are bounded: how many, and what their messages hold.

    Streamlit keeps the state of a page, which its messages bring, as long as the visit.

    Args:
        app: the app under it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.open: Counter[str] = Counter()  # by client address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or connection. A connection beyond a bound is refused or closed."""
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        address = address_of(scope)
        if self._full(address):
            await send({"type": "websocket.close", "code": 1013})  # try again later
            return
        refused = False

        async def receive_counted() -> Message:
            nonlocal refused
            message = await receive()
            try:
                LIMITER.take(address, MESSAGES, len(message.get("bytes") or message.get("text") or b""))
            except LimitError:
                refused = True
                return {"type": "websocket.disconnect", "code": 1008}
            return message

        self.open[address] += 1
        try:
            await self.app(scope, receive_counted, send)
        finally:
            self.open -= Counter([address])  # what is 0 goes
        if refused:
            await send({"type": "websocket.close", "code": 1008})  # against the rules

    def _full(self, address: str) -> bool:
        """Counts a visit, unless one more may not begin."""
        if self.open[address] >= MAX_OPEN or self.open.total() >= MAX_OPEN_IN_ALL:
            return True
        try:
            LIMITER.take(address, VISITS)
        except LimitError:
            return True
        return False


def held() -> int:
    """The bytes of all uploaded files in memory."""
    stats = runtime.get_instance().uploaded_file_mgr.get_stats()
    return sum(stat.byte_length for family in stats.values() for stat in family if isinstance(stat, CacheStat))


@asynccontextmanager
async def forget_visits(_: App) -> AsyncIterator[None]:
    """While the app runs, frees the files and images of visits that ended `server.disconnectedSessionTTL` ago.

    Streamlit itself frees them when Python happens to look for circles of objects, however late that is.
    """

    async def look() -> None:
        seen: set[AppSession] = set()
        while True:
            await asyncio.sleep(FORGET_SECONDS)
            manager: Any = runtime.get_instance()._session_mgr  # there is no public way to the visits
            here = {info.session for info in manager.list_sessions()}
            for session in seen - here:
                session.shutdown()  # frees the files and what the page shows
                session.session_state.clear()  # the images and conversations
            seen = here

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
