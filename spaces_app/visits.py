"""The visits to the Streamlit app: what they hold in memory, and that it goes after them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streamlit import runtime
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.stats import CacheStat
from streamlit.starlette import App

FORGET_SECONDS = 10  # between two looks for visits that have ended


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
