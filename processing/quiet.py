"""What decoders of images have to say is kept off the console."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_quiet_lock = threading.Lock()


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keeps the decoders' warnings and pydicom's log off the console.

    The lock is there because ``catch_warnings`` swaps a list of the whole process: two threads that leave it in
    the wrong order would silence everything for good.
    """
    logger = logging.getLogger("pydicom")
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        propagate, logger.propagate = logger.propagate, False
        try:
            yield
        finally:
            logger.propagate = propagate
