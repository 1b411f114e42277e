"""Questions that several threads ask a model at the same time, answered together."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from modeling.parts.family_predictor import Row


@dataclass(eq=False)
class Call:
    """What one thread asks.

    Attributes:
        rows: one or more, whose images are in `encoded` or `fresh`.
        encoded: by the key of an image, what the model made of it.
        fresh: by the key of an image, what is still to be encoded.
        top_k: answers to each row.
        results: one for each row, None until they are there.
    """

    rows: list[Row]
    encoded: dict[str, Any]
    fresh: dict[str, Any]
    top_k: int
    results: list[Any] | None = None


class Batching:
    """Lets one thread at a time use a model, for all that wait for it.

    There is no thread of its own: a waiting thread that finds the model free answers the calls of the others, too. The
    first that came is always among them. Calls are never cut, so one of many rows goes together with short ones.

    Args:
        size: rows that are answered together, at most, unless one call has more.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._changed = threading.Condition()
        self._busy = False
        self._waiting: list[Call] = []  # the oldest first, also while they are answered

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While it lasts no other thread uses the model."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            self._busy = True
        try:
            yield
        finally:
            self._release()

    def ask(self, call: Call, answer: Callable[[Call], list[Any]]) -> list[Any]:
        """The results of a call.

        Args:
            answer: makes the results of calls that were joined to one, a result for each row. An error
                of a row stands in the place of its result; what it raises ends this thread's call alone.
        """
        with self._changed:
            self._waiting.append(call)
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: call.results is not None or not self._busy)
                    if call.results is not None:
                        return call.results
                    self._busy = True
                    calls = self._next_calls()
                try:
                    results = iter(answer(_joined(calls)))
                    for one in calls:
                        one.results = [next(results) for _ in one.rows]
                finally:
                    self._release()
        finally:
            with self._changed:
                self._waiting.remove(call)

    def _next_calls(self) -> list[Call]:
        """The oldest call that waits, and those that can be answered with it."""
        waiting = [call for call in self._waiting if call.results is None]
        calls = waiting[:1]
        rows = len(calls[0].rows)
        for call in waiting[1:]:
            if call.top_k == calls[0].top_k and rows + len(call.rows) <= self.size:
                calls.append(call)
                rows += len(call.rows)
        return calls

    def _release(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()


def _joined(calls: list[Call]) -> Call:
    rows = [row for call in calls for row in call.rows]
    joined = Call([row | {"row": number} for number, row in enumerate(rows)], {}, {}, calls[0].top_k)
    for call in calls:
        joined.encoded |= call.encoded
        joined.fresh |= call.fresh
    return joined
