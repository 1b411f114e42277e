"""Calls to the Hub that are tried again while their failure may pass, and what a failure was."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)

TRANSIENT = {408, 429, 500, 502, 503, 504}  # HTTP statuses of a failure that may pass
WAITS = (1, 2, 4, 8, 16)  # seconds before the tries after the first
LONGEST_WAIT = 300  # seconds, whatever the Hub asks for
T = TypeVar("T")


def with_retries(call: Callable[[], T], find_result: Callable[[], T | None] = lambda: None) -> T:
    """What a call to the Hub returns. Failures that may pass are waited out, for longer each time.

    Args:
        call: the Hub may carry it out although it fails here, as the answer may be lost.
        find_result: finds what such a call has done. It is asked before each further try.
    """
    for wait in WAITS:
        try:
            return call()
        except (HTTPError, OSError, RuntimeError) as error:
            if not _may_pass(error):
                raise
            seconds = max(wait, _retry_after(error))
            logger.warning("The Hub did not answer as it should (%s); trying again in %d s.", reason(error), seconds)
            time.sleep(seconds)
        if (result := with_retries(find_result)) is not None:
            return result
    return call()


def status_of(error: BaseException) -> int | None:
    """The HTTP status of a failed call, None where the Hub sent none."""
    return next((e.response.status_code for e in _causes(error) if isinstance(e, HfHubHTTPError)), None)


def reason(error: Exception) -> str:
    """Why a call to the Hub failed, in the Hub's words where it has any."""
    status = status_of(error)
    message = next((e.server_message for e in _causes(error) if isinstance(e, HfHubHTTPError)), None)
    text = " ".join((message or str(error)).split()).rstrip(".") or type(error).__name__
    return text if status is None else f"HTTP {status}: {text}"


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: the Hub is busy or down, or the connection broke."""
    causes = list(_causes(error))
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return False
    status = status_of(error)
    if status is not None:
        return status in TRANSIENT
    return any(isinstance(cause, HTTPError) for cause in causes)


def _retry_after(error: Exception) -> int:
    """The seconds that the Hub asks to wait, 0 where it asks for nothing."""
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            seconds = cause.response.headers.get("Retry-After", "")
            if seconds.isdecimal():
                return min(int(seconds), LONGEST_WAIT)
    return 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__
