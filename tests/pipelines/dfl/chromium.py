"""A headless Chromium, driven through its DevTools protocol by the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
TIMEOUT_S = 60.0
CODES = {
    ",": "Comma", ".": "Period", "/": "Slash", ";": "Semicolon", "-": "Minus", "=": "Equal",
    "`": "Backquote",
}  # fmt: skip
SHIFTED = {",": "<", ".": ">", "/": "?", ";": ":", "-": "_", "=": "+", "`": "~"} | dict(
    zip("123456", "!@#$%^")
)


class Refused(AssertionError):
    """What DevTools says of a page that is just being left, too."""


class Chromium:
    """One browser with one page. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--remote-debugging-port=0", "--window-size=1400,900", "--no-first-run",
             f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": str(folder)},
        )  # fmt: skip
        self._count = 0
        try:
            port = self._port(folder / "DevToolsActivePort")
            self._socket = _WebSocket(self._page(port))
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *unused: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(10)

    def _port(self, file: Path) -> int:
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end and self._process.poll() is None:
            if file.exists() and len(lines := file.read_text().splitlines()) >= 2:
                return int(lines[0])
            time.sleep(0.05)
        raise RuntimeError("chromium did not start")

    @staticmethod
    def _page(port: int) -> str:
        import urllib.request

        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [one for one in json.load(answer) if one["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
            time.sleep(0.05)
        raise RuntimeError("chromium has no page")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.receive())
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise Refused(answer)
                return answer["result"]

    def open(self, url: str) -> None:
        self.call("Page.enable")
        self.call("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """What a script's last expression is; promises are waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise Refused(answer)
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Until a script's value is true; between two pages there may be none to ask."""
        end, said = time.monotonic() + TIMEOUT_S, ""
        while time.monotonic() < end:
            try:
                found = self.value(script)
            except Refused as refusal:
                found, said = None, f" ({refusal})"
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"never came true: {script}{said}")

    def press(self, key: str, shift: bool = False) -> None:
        """A key, pressed as a person would."""
        names = {"escape": "Escape", "tab": "Tab"}
        text = names.get(key) or (SHIFTED.get(key, key.upper()) if shift else key)
        code = (
            names.get(key)
            or CODES.get(key)
            or (f"Digit{key}" if key.isdigit() else f"Key{key.upper()}")
        )
        event = {"key": text, "code": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


class _WebSocket:
    """As much of RFC 6455 as a client of DevTools needs: text, no extensions."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._socket = socket.create_connection((where.hostname, where.port), TIMEOUT_S)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self._socket.sendall(
            f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        assert b" 101 " in self._file.readline()
        while self._file.readline().strip():
            pass

    def send(self, text: str) -> None:
        data, mask = text.encode(), secrets.token_bytes(4)
        head = struct.pack(">BBQ", 0x81, 0x80 | 127, len(data)) + mask
        self._socket.sendall(head + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def receive(self) -> str:
        parts = []
        while True:
            first, second = self._file.read(2)
            length = second & 127
            if length >= 126:
                length = int.from_bytes(self._file.read(2 if length == 126 else 8), "big")
            content = self._file.read(length)
            if first & 15 in (0, 1):
                parts.append(content)
                if first & 128:
                    return b"".join(parts).decode()

    def close(self) -> None:
        self._file.close()
        self._socket.close()
