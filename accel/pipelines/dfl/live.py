"""A page on this machine that shows how a training comes along, and keeps itself up to date."""

from __future__ import annotations

import html
import json

from accel.pipelines.dfl.local_server import HOST, LocalHandler, LocalServer

PICTURES = ("preview", "loss")
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Training</title>
<style>body{font:15px system-ui,sans-serif;margin:1.2em;background:#fafafa;color:#222}
img{display:block;max-width:100%;margin:.8em 0;border:1px solid #ddd;background:#fff}</style>
<h1>Training</h1><p id="state" role="status">STATE</p>
<img id="preview" alt="Faces so far: source, rebuilt, destination, rebuilt, swapped, masks">
<img id="loss" alt="Loss of source and destination over iterations">
<script>
const seen = {};
async function look() {
  try {
    const now = await (await fetch("/state.json")).json();
    document.getElementById("state").textContent = now.text;
    for (const [name, version] of Object.entries(now.pictures))
      if (seen[name] !== version) {
        seen[name] = version;
        document.getElementById(name).src = "/" + name + ".png?" + version;
      }
  } catch { document.getElementById("state").textContent = "The training has ended."; }
  setTimeout(look, 1000);
}
look();
</script></html>"""


class LivePage:
    """Serves what it was last told on 127.0.0.1, from a thread of its own.

    url: where. Raises ConfigError if the port is taken.
    """

    def __init__(self, port: int) -> None:
        self._text = "Starting."
        self._pictures: dict[str, tuple[int, bytes]] = {}
        self._server = LocalServer(port, self._handler(), "preview_port")
        self.url = f"http://{HOST}:{self._server.port}/"

    def say(self, text: str) -> None:
        """Replace the line above the pictures."""
        self._text = text

    def show(self, name: str, png: bytes) -> None:
        """Replace a picture, one of PICTURES."""
        version = self._pictures.get(name, (0, b""))[0] + 1
        self._pictures[name] = (version, png)

    def close(self) -> None:
        self._server.close()

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Content type and content; None where there is nothing."""
        path = path.partition("?")[0]
        if path == "/":
            shown = PAGE.replace("STATE", html.escape(self._text))
            return "text/html; charset=utf-8", shown.encode()
        if path == "/state.json":
            versions = {name: version for name, (version, _) in self._pictures.items()}
            state = {"text": self._text, "pictures": versions}
            return "application/json", json.dumps(state).encode()
        name = path.removeprefix("/").removesuffix(".png")
        if name in self._pictures and path.endswith(".png"):
            return "image/png", self._pictures[name][1]
        return None

    def _handler(self) -> type[LocalHandler]:
        page = self

        class Handler(LocalHandler):
            any_port = True  # it shows what it was told, and does nothing

            def do_GET(self) -> None:
                found = page.answer(self.path) if self.is_own() else None
                if found is None:
                    self.send_error(404)
                    return
                kind, content = found
                self.answer(content, kind)

        return Handler
