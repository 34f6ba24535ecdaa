"""The interactive merger's window: a page on this machine, for this user alone.

The address holds a token drawn by lot; requests for another host name, or sent by another site's
page, are refused. Whoever closes the page finds all as it was on opening it again.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from accel.core import Cancelled, ConfigError, parse_json
from accel.pipelines.dfl.merge import MergeConfig, MergeJob
from accel.pipelines.dfl.merge_keys import HELP
from accel.pipelines.dfl.merge_live import LiveMerger, open_live
from accel.pipelines.dfl.workspace import Workspace, open_workspace

HOST = "127.0.0.1"
MAX_BODY = 1 << 16
MAX_KEYS = 256  # in one request


def merge_interactively(
    place: Workspace | Path | str,
    config: MergeConfig | None = None,
    *,
    port: int = 0,
    ready: Callable[[str], None] | None = None,
) -> dict[str, Any] | None:
    """Serve the merger until the user leaves, or presses Ctrl-C.

    Returns the report of the merge, if there was one.
    port: 0 takes a free one. ready: called with the address to open.
    Raises what `merge_faces` raises before anything is served.
    """
    job = MergeJob(open_workspace(place), config or MergeConfig())
    with closing(job), closing(open_live(job)) as live, closing(MergePage(live, port)) as page:
        if ready:
            ready(page.url)
        # Ctrl-C is another way to leave.
        with suppress(KeyboardInterrupt):
            page.wait()
            live.wait()
    return live.finished


class MergePage:
    """Serves one merger from threads of its own. url: with the token; tell nobody else."""

    def __init__(self, live: LiveMerger, port: int = 0) -> None:
        if not 0 <= port <= 65535:
            raise ConfigError(f"port must lie in 0..65535, got {port}")
        self.live = live
        self.token = secrets.token_urlsafe(24)
        self.nonce = secrets.token_urlsafe(16)
        self.left = threading.Event()
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(self))
        except OSError as error:
            raise ConfigError(
                f"port {port} must be free, got: {error.strerror}; 0 finds a free one"
            ) from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://{HOST}:{self.port}/{self.token}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the user leaves."""
        while not self.left.wait(0.5):  # in slices, so that Ctrl-C is heard
            pass

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def html(self) -> bytes:
        page = resources.files("accel.pipelines.dfl").joinpath("merge_page.html").read_text("utf-8")
        page = page.replace("{{nonce}}", self.nonce)
        return page.replace("{{help}}", json.dumps(HELP).replace("<", "\\u003c")).encode()

    def hosts(self) -> tuple[str, ...]:
        return f"{HOST}:{self.port}", f"localhost:{self.port}"


def _handler(page: MergePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else the end of an answer waits for a reply to its start

        def do_GET(self) -> None:
            path = self._path()
            if path == "":
                self._answer(page.html(), "text/html; charset=utf-8")
            elif path == "state":
                self._state()
            elif path == "frame":
                self._frame()
            elif path is not None:
                self.send_error(404)

        def do_POST(self) -> None:
            path = self._path()
            if path is None:
                return
            keys = self._keys()
            if path != "keys" or keys is None:
                self.close_connection = True
                self.send_error(400 if path == "keys" else 404)
                return
            page.live.press(keys)
            self._frame(hurried=True)
            if page.live.is_closing:
                page.left.set()

        def _path(self) -> str | None:
            """What is asked for behind the token; None after a refusal."""
            host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
            begin, _, rest = self.path.partition("?")[0].lstrip("/").partition("/")
            # A page of another site that points its name here must not reach this one.
            is_own = host in page.hosts() and origin in (None, f"http://{host}")
            if not (is_own and secrets.compare_digest(begin.encode(), page.token.encode())):
                self.close_connection = True
                self.send_error(403)
                return None
            return rest

        def _keys(self) -> list[tuple[str, bool]] | None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MAX_BODY:
                return None
            try:
                found = parse_json(self.rfile.read(int(length)), "keys")
            except ValueError:
                return None
            if not isinstance(found, list) or len(found) > MAX_KEYS:
                return None
            keys = [(k, s) for k, s in (pair for pair in found if _is_key(pair))]
            return keys if len(keys) == len(found) else None

        def _frame(self, *, hurried: bool = False) -> None:
            try:
                jpeg, state = page.live.picture(hurried=hurried)
            except Cancelled:
                self.send_error(409, "keys were pressed meanwhile")
                return
            self._answer(jpeg, "image/jpeg", {"X-State": json.dumps(state)})

        def _state(self) -> None:
            self._answer(json.dumps(page.live.state()).encode(), "application/json")

        def _answer(self, content: bytes, kind: str, more: dict[str, str] | None = None) -> None:
            self.send_response(200)
            headers = {
                "Content-Type": kind,
                "Content-Length": str(len(content)),
                "Cache-Control": "no-store",
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Content-Security-Policy": "default-src 'none'; connect-src 'self';"
                f" script-src 'nonce-{page.nonce}'; style-src 'nonce-{page.nonce}'",
            }
            for name, value in (headers | (more or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *unused: Any) -> None:
            """Nothing: the address with its token is no matter for logs."""

    return Handler


def _is_key(pair: object) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and 0 < len(pair[0]) <= 16
        and isinstance(pair[1], bool)
    )
