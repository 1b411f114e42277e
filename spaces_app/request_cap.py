"""A cap on how often one visitor may ask, so that nobody keeps the model from the others."""

import math
import time
from collections import deque

from processing.errors import UserError

REQUESTS = 30
SECONDS = 60


class RequestCap:
    """The requests of one session: at most `REQUESTS` in any `SECONDS`."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=REQUESTS)

    def take(self) -> None:
        """Counts a request.

        Raises:
            UserError: there were too many; this one does not count.
        """
        now = time.monotonic()
        if len(self._times) == REQUESTS and now - self._times[0] < SECONDS:
            wait = math.ceil(self._times[0] + SECONDS - now)
            raise UserError(f"More than {REQUESTS} requests a minute; try again in {wait} seconds.")
        self._times.append(now)
