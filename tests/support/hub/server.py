"""The Hub on loopback as an HTTP server."""

import os
import socket
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from tests.support.hub import repos, storage, uploads
from tests.support.hub.protocol import answer, json_answer
from tests.support.hub.state import HubState

ROUTE_MODULES = (repos, uploads, storage)  # importing them fills the table of routes


class HubServer(HubState):
    """A Hub that answers at `url`, and at `storage_url` for LFS files."""

    def __init__(self) -> None:
        super().__init__()
        handler = type("Handler", (_Handler,), {"hub": self})
        # the store is another host, which must not get the token
        self.url, self.storage_url = (_start(handler, host) for host in ("127.0.0.1", "localhost"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # the client opens many connections at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # else the client went away
            super().handle_error(request, client_address)


def _start(handler: type[BaseHTTPRequestHandler], host: str) -> str:
    server = _Server(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://{host}:{server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would hold each body back for 40 ms

    def _handle(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        fault = self.hub.take_fault(self.command, self.path)
        length = int(self.headers.get("Content-Length", 0))
        if fault and fault.partial is not None:
            self.rfile.read(min(fault.partial, length))
            self._reset()
            return
        body = self.rfile.read(length)
        if len(body) < length:  # the client died
            self.close_connection = True
            return
        reply = None
        if fault is None or fault.after:
            reply = answer(self.hub, self.command, self.path, self.headers, body)
        if fault:
            reply = None
            if fault.status:
                error = {"error": f"{fault.status}: asked for by the test"}
                reply = json_answer(error, fault.status, fault.headers)
        if reply is None:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _reset(self) -> None:
        """Breaks the connection off, so that the client sees a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keeps the test output clean."""
