"""The Streamlit app: questions about a medical image, answered in the browser.

    python -m streamlit run spaces_app/app.py

`MODEL_ID` names the model, a folder or a Hub id, `COMPARE_MODEL_ID` a second one that gets the same questions,
`MODEL_DTYPE` float32, float16 or bfloat16, by default what the model's `Predictor` takes, and `TRUSTED_PROXIES` the
number of proxies in front of it (`spaces_app.limits`).

`page.py` beside it is the script of the page. This is the server around it: it bounds what is uploaded, and forgets a
visit whose page was closed.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from streamlit import runtime
from streamlit.runtime.stats import CacheStat
from streamlit.starlette import App

from processing.errors import UserError
from spaces_app.limits import trusted_proxies
from spaces_app.uploads import UploadLimit

FORGET_SECONDS = 10  # between two looks for visits that have ended


def held() -> int:
    """The bytes of all uploaded files in memory."""
    stats = runtime.get_instance().uploaded_file_mgr.get_stats()
    return sum(stat.byte_length for family in stats.values() for stat in family if isinstance(stat, CacheStat))


@asynccontextmanager
async def forget_visits(_: App) -> AsyncIterator[None]:
    """While the app runs, frees the files and images of visits that ended `server.disconnectedSessionTTL` ago.

    Streamlit itself frees them when the next visit ends, however late that is.
    """

    async def look() -> None:
        while True:
            await asyncio.sleep(FORGET_SECONDS)
            manager: Any = runtime.get_instance()._session_mgr
            len(manager._session_storage._cache)  # forgets what has expired; there is no public way

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()


try:
    trusted_proxies()  # a wrong value ends the start, not a visit
except UserError as error:
    sys.exit(f"error: {error}")
app = App(Path(__file__).with_name("page.py"), lifespan=forget_visits, middleware=[Middleware(UploadLimit, held=held)])
