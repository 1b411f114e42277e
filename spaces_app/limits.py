"""What a visitor of an app may have of it: questions, batches and bytes by client address, counted over all visits.

`TRUSTED_PROXIES` is the number of proxies in front of the app that add the address of whoever asked them to the header
X-Forwarded-For, by default 0. With 0 that header is never believed.
"""

import ipaddress
import itertools
import math
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from processing.errors import UserError, quoted

ADDRESSES = 10_000  # that are counted at once, for each limit
SLOTS = 30  # a period is counted in so many parts
UNVOUCHED = "forwarded"  # all whose address only a header says that no trusted proxy wrote


@dataclass(frozen=True)
class Limit:
    """At most `amount` of something in any `seconds`.

    Attributes:
        sentence: says so to a visitor.
    """

    amount: int
    seconds: int
    sentence: str


# An answer of one model, a heat map and the question behind an image's suggestions count 1 each; in the Gradio app an
# image that is shown and a report, too.
QUESTIONS = Limit(30, 60, "More than 30 questions a minute")
# A batch counts its questions. A thousand take about a minute of two cores.
BATCHES = Limit(1_000, 600, "More than 1,000 questions by table or archive in ten minutes")
UPLOADS = Limit(512 * 2**20, 600, "More than 512 MB of files in ten minutes")
# Of the Streamlit app: pages that are opened, and what their clicks say of all that stands on them, some KB each.
VISITS = Limit(100, 600, "More than 100 visits in ten minutes")
MESSAGES = Limit(32 * 2**20, 600, "More than 32 MB of clicks in ten minutes")

DECODING = threading.Lock()  # one image is opened at a time: each may take some hundred MB meanwhile


class LimitError(UserError):
    """A visitor has had all that a limit allows; the message says for how many seconds."""


class Limiter:
    """Counts what each client address has had; several threads may use it.

    A period is cut into `SLOTS` parts and each part is forgotten as a whole, so that an address takes a bounded amount
    of memory. What was taken is forgotten at most one part later than `seconds` after it, and never before: while
    `ADDRESSES` of them are counted, others have to wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # of each limit and address slots and amounts; the address that took something last is the last
        self._taken: dict[Limit, OrderedDict[str, deque[tuple[int, int]]]] = {}

    def take(self, address: str, limit: Limit, amount: int = 1) -> None:
        """Counts an amount for an address.

        Raises:
            LimitError: the limit is reached; this amount does not count. It has no seconds where the amount alone is
                above the limit.
        """
        if amount > limit.amount:
            raise LimitError(f"{limit.sentence}; send less at once.")
        length = limit.seconds / SLOTS
        with self._lock:
            now = time.monotonic()
            known = self._taken.setdefault(limit, OrderedDict())
            while known and (free := _end(next(iter(known.values()))[-1][0], length, limit)) <= now:
                known.popitem(last=False)
            if address not in known and len(known) >= ADDRESSES:
                raise _wait("More visitors than the app can count", free - now)
            slots = known.get(address, deque())
            while slots and _end(slots[0][0], length, limit) <= now:
                slots.popleft()
            excess = sum(taken for _, taken in slots) + amount - limit.amount
            if excess <= 0:
                slot = int(now // length)
                if slots and slots[-1][0] == slot:
                    amount += slots.pop()[1]
                slots.append((slot, amount))
                known[address] = slots
                known.move_to_end(address)
                return
            had = itertools.accumulate(taken for _, taken in slots)
            last = next(slot for (slot, _), total in zip(slots, had, strict=True) if total >= excess)
        raise _wait(limit.sentence, _end(last, length, limit) - now)


def _wait(sentence: str, seconds: float) -> LimitError:
    whole = math.ceil(seconds)
    return LimitError(f"{sentence}; try again in {whole} second{'s' if whole > 1 else ''}.")


def _end(slot: int, length: float, limit: Limit) -> float:
    """When the amount of a slot is forgotten."""
    return (slot + 1) * length + limit.seconds


LIMITER = Limiter()  # of this process


def trusted_proxies() -> int:
    """The number of proxies that `TRUSTED_PROXIES` names.

    Raises:
        UserError: it is no whole number.
    """
    value = os.environ.get("TRUSTED_PROXIES") or "0"
    if not (value.isascii() and value.isdigit()):
        raise UserError(f"TRUSTED_PROXIES {quoted(value)}: must be a whole number, 0 without a proxy.")
    return int(value)


def address_of(scope: Scope) -> str:
    """The address by which the client of an ASGI connection is counted."""
    peer = scope["client"][0] if scope["client"] else None
    return client_address(peer, Headers(scope=scope).getlist("x-forwarded-for"))


def client_address(peer: str | None, forwarded_for: Iterable[str]) -> str:
    """The address by which a client is counted, of IPv6 its network of 48 bits, as one customer may have all of it.

    Each proxy adds the address of whoever asked it at the right end of X-Forwarded-For. With two trusted proxies the
    client is the second from the right. What stands further left a client may have written itself.

    A server may already have put what the header says in the place of the peer, as uvicorn does for a peer at
    127.0.0.1. So where the header is there and not trusted, all such clients count as one.

    Args:
        peer: the other end of the connection, as the server says.
        forwarded_for: the values of all headers X-Forwarded-For.
    """
    entries = [entry.strip() for value in forwarded_for for entry in value.split(",")]
    if not entries:
        return _network(peer or "")
    proxies = trusted_proxies()
    if not proxies or len(entries) < proxies:
        return UNVOUCHED
    return _network(entries[-proxies])


def _network(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return UNVOUCHED
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 48), strict=False))
    return str(address)
