"""A server for pages on this machine alone, which nobody can keep busy or make print.

Source: RFC 9110, 7.2 (Host); the Fetch standard (Cross-Origin-Resource-Policy).
"""

from __future__ import annotations

import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from accel.core import ConfigError

HOST = "127.0.0.1"
MAX_CONNECTIONS = 32  # at a time; a browser opens six
IDLE_S = 120.0  # that a connection may say nothing, or not finish what it says
# No other page may show this one in itself, or guess what it holds.
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class LocalServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1, serves from a thread of its own until `close`.

    what: name of the option that chose the port, for the message of ConfigError, which is raised
    for a port that is taken.
    """

    daemon_threads = True

    def __init__(self, port: int, handler: type[LocalHandler], what: str) -> None:
        if not 0 <= port <= 65535:
            raise ConfigError(f"{what} must lie in 0..65535, got {port}")
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__((HOST, port), handler)
        except OSError as error:
            raise ConfigError(
                f"{what} {port} must be free, got: {error.strerror}; 0 finds a free one"
            ) from None
        self.port: int = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """Without asking a name server who 127.0.0.1 is."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever goes away, or is too slow, is no matter for the terminal; a bug is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def hosts(self) -> tuple[str, ...]:
        """What a request may call this server: a page of another site can point its name here."""
        return f"{HOST}:{self.port}", f"localhost:{self.port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class LocalHandler(BaseHTTPRequestHandler):
    """What pages share. Requests of other sites' pages are refused by `is_own`."""

    timeout = IDLE_S
    server: LocalServer
    any_port = False  # reached through a tunnel, a page has another port

    def is_own(self) -> bool:
        """Whether the request is for this server's name and comes from its own page."""
        names, origins = self.headers.get_all("Host", ()), self.headers.get_all("Origin", ())
        if len(names) != 1 or len(origins) > 1:  # which of two counts is anyone's guess
            return False
        host, known = names[0], self.server.hosts()
        if self.any_port:
            name, _, port = host.partition(":")
            is_known = port.isdecimal() and name in {one.partition(":")[0] for one in known}
        else:
            is_known = host in known
        return is_known and origins in ((), [f"http://{host}"])

    def answer(self, content: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(200)
        about = {"Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in (about | HEADERS | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def version_string(self) -> str:
        """Not which interpreter this is."""
        return "accel"

    def log_message(self, *unused: Any) -> None:
        """Nothing: a progress bar may have the terminal, and addresses may hold a token."""
