"""The interactive merger's window: a page on this machine, for this user alone.

The address holds a token drawn by lot; requests for another host name, or sent by another site's
page, are refused. Whoever closes the page finds all as it was on opening it again.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from accel.core import Cancel, Cancelled, parse_json
from accel.pipelines.dfl.local_server import HOST, LocalHandler, LocalServer
from accel.pipelines.dfl.merge_job import MergeConfig, MergeJob
from accel.pipelines.dfl.merge_keys import HELP
from accel.pipelines.dfl.merge_live import LiveMerger, open_live
from accel.pipelines.dfl.workspace import Workspace, open_workspace
from accel.pipelines.run_report import end_of_report

MAX_BODY = 1 << 16
MAX_DIGITS = 9  # of its length
MAX_KEYS = 256  # in one request


def merge_interactively(
    place: Workspace | Path | str,
    config: MergeConfig | None = None,
    *,
    port: int = 0,
    ready: Callable[[str], None] | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Serve the merger until the user leaves, or presses Ctrl-C.

    Returns the report of the last merge that was finished, or one without `output` that says how
    many frames were merged all the same; `session` is the file with the settings, for
    `MergeConfig.config`.
    port: 0 takes a free one. ready: called with the address to open. cancel: leaves, too.
    Raises what `merge_faces` raises before anything is served.
    """
    started, stop = time.perf_counter(), cancel or Cancel()
    job = MergeJob(open_workspace(place), config or MergeConfig())
    with closing(job), closing(open_live(job)) as live, closing(MergePage(live, port)) as page:
        if ready:
            ready(page.url)
        # Ctrl-C is another way to leave.
        with suppress(KeyboardInterrupt):
            page.wait(stop)
            if not stop.is_set:
                live.wait()
    report = live.finished or {
        "command": "dfl merge",
        "workspace": str(job.workspace.root),
        "merged": live.broken_off,
        "notes": job.notes,
        **end_of_report(started, torch.device(job.predictor.device)),
    }
    return report | {"session": str(live.path)}


class MergePage:
    """Serves one merger from threads of its own. url: with the token; tell nobody else."""

    def __init__(self, live: LiveMerger, port: int = 0) -> None:
        self.live = live
        self.token = secrets.token_urlsafe(24)
        self.nonce = secrets.token_urlsafe(16)
        self.left = threading.Event()
        self._server = LocalServer(port, type("_Handler", (_Handler,), {"page": self}), "port")
        self.port = self._server.port
        self.url = f"http://{HOST}:{self.port}/{self.token}/"

    def wait(self, cancel: Cancel) -> None:
        """Until the user leaves."""
        while not self.left.wait(0.2) and not cancel.is_set:  # in slices, so that Ctrl-C is heard
            pass

    def close(self) -> None:
        self._server.close()

    def html(self) -> bytes:
        page = resources.files("accel.pipelines.dfl").joinpath("merge_page.html").read_text("utf-8")
        page = page.replace("{{nonce}}", self.nonce)
        return page.replace("{{help}}", json.dumps(HELP).replace("<", "\\u003c")).encode()


class _Handler(LocalHandler):
    """Answers the page's requests; each server has a class of its own, which knows its `page`."""

    page: MergePage
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the end of an answer waits for a reply to its start

    def do_GET(self) -> None:
        path = self._path()
        if path == "":
            self._answer(self.page.html(), "text/html; charset=utf-8")
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
        self.page.live.press(keys)
        self._frame(hurried=True)
        if self.page.live.is_closing:
            self.page.left.set()

    def _path(self) -> str | None:
        """What is asked for behind the token; None after a refusal."""
        begin, _, rest = self.path.partition("?")[0].lstrip("/").partition("/")
        # Both before anything is looked up: nobody learns which of the two was wrong.
        if not (self.is_own() and secrets.compare_digest(begin.encode(), self.page.token.encode())):
            self.close_connection = True
            self.send_error(403)
            return None
        return rest

    def _keys(self) -> list[tuple[str, bool]] | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > MAX_DIGITS or int(length) > MAX_BODY:
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
            jpeg, state = self.page.live.picture(hurried=hurried)
        except Cancelled:
            self.send_error(409, "keys were pressed meanwhile")
            return
        self._answer(jpeg, "image/jpeg", {"X-State": json.dumps(state)})

    def _state(self) -> None:
        self._answer(json.dumps(self.page.live.state()).encode(), "application/json")

    def _answer(self, content: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        policy = (
            "default-src 'none'; connect-src 'self';"
            f" script-src 'nonce-{self.page.nonce}'; style-src 'nonce-{self.page.nonce}'"
        )
        self.answer(content, kind, {"Content-Security-Policy": policy} | (more or {}))


def _is_key(pair: object) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and 0 < len(pair[0]) <= 16
        and isinstance(pair[1], bool)
    )
