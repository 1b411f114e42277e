"""A proxy before an app, as a Space has: it says whom it asks for, also when a WebSocket is opened.

A browser's extra headers are no substitute: Chromium sends them with WebSockets only from 151 on.
"""

import socket
import socketserver
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from urllib.parse import urlsplit

POLL_SECONDS = 0.02  # as long may its end take


@contextmanager
def behind_proxy(url: str, forwarded_for: str) -> Iterator[str]:
    """The address of a proxy before the app at URL, which adds X-Forwarded-For with that value to each request."""
    app = urlsplit(url)

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = []
            while (line := self.rfile.readline()) not in (b"", b"\r\n"):
                lines.append(line)
            if not lines:
                return
            if not any(line.lower().startswith(b"upgrade:") for line in lines):
                # one request a connection, or the next would lack the header
                lines = [line for line in lines if not line.lower().startswith(b"connection:")]
                lines.append(b"Connection: close\r\n")
            lines.append(f"X-Forwarded-For: {forwarded_for}\r\n\r\n".encode())
            with socket.create_connection((app.hostname, app.port)) as server:
                server.sendall(b"".join(lines))
                Thread(target=_copy, args=(self.rfile.read1, server), daemon=True).start()
                _copy(server.recv, self.connection)

    class Proxy(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Proxy(("127.0.0.1", 0), Connection) as proxy:
        Thread(target=proxy.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()


def _copy(read: Callable[[int], bytes], to: socket.socket) -> None:
    with suppress(OSError, ValueError):  # either side may be gone
        while data := read(65_536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
