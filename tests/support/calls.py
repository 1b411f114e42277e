"""Which calls of a function are made at once."""

import threading
from collections.abc import Callable
from typing import Any


def counting_calls(function: Callable[..., Any], patience: float) -> tuple[Callable[..., Any], list[int]]:
    """The function with a counter of its calls, and a list to which each adds how many are under way with it.

    Args:
        function: what is called.
        patience: seconds that a call waits for another one to come.
    """
    others, most, now = threading.Event(), [], []

    def count(*arguments: Any, **options: Any) -> Any:
        now.append(1)
        most.append(len(now))
        if len(now) > 1:
            others.set()
        others.wait(patience)
        now.pop()
        return function(*arguments, **options)

    return count, most
