"""Attacks by where results are to go: pipes, devices, sockets, folders, links, and odd names.

A name may write to the terminal when a command tells what it wrote; a place may never take bytes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from tests.hostile.attacks import Words, attack, film

SMALL = ["--steps", "1", "--width", "64", "--height", "64"]
ODD = {
    "colours": "\x1b[31mred\x1b]0;title\x07",
    "a_line": "a\naccel: all is well",
    "a_return": "a\rb",
    "directions": "a\u202eb\u2066c",
    "c1": "a\x9b31mb",
    "half_characters": "a\udcffb",
}


def told(what: str, name: str) -> Words:
    """A command that ends by telling of a file of that name."""
    return {
        "picture": ["generate", "a cat", "-o", f"{name}.png", *SMALL],
        "swap": ["swap", "portrait.png", f"{name}.png", "--source", "portrait.png"],
        "film": ["swap", "a.mp4", f"{name}.mp4", "--source", "portrait.png"],
        "report": ["verify", "portrait.png", "--json", f"{name}.json"],
        "page": ["verify", "portrait.png", "--report", f"{name}.html"],
        "ledger": ["ledger", "export", "--json", f"{name}.json"],
        "list": ["ledger", "list", "--file", f"{name}.sqlite"],
        "workspace": ["dfl", "clear", f"{name}-w"],
        "frames": ["dfl", "frames", f"{name}-w", "--side", "src"],
        "option": [f"--{name}"],
        "command": [name],
        "number": ["generate", "a cat", "-o", "out.png", "--steps", name],
        "choice": ["verify", "portrait.png", "--language", name],
        "model": ["generate", "a cat", "-o", "out.png", "--model", name],
        "lora": ["generate", "a cat", "-o", "out.png", *SMALL, "--lora", name],
        "sampler": ["generate", "a cat", "-o", "out.png", "--sampler", name],
        "tag": ["generate", f"a cat <lora:{name}:1>", "-o", "out.png", *SMALL],
    }[what]


for _what in ("picture", "swap", "film", "report", "page", "ledger", "list", "workspace",
              "frames", "option", "command", "number", "choice", "model", "lora", "sampler",
              "tag"):  # fmt: skip
    for _odd, _name in ODD.items():

        def _build(folder: Path, url: str, what=_what, name=_name) -> Words:
            if what == "film":
                film(folder)
            return told(what, name)

        _build.__name__ = f"{_what}_named_with_{_odd}"
        attack(statuses=(0, 2, 3))(_build)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


PLACES: dict[str, Callable[[Path], object]] = {
    "a_pipe": os.mkfifo,
    "a_folder": lambda path: path.mkdir(),
    "a_socket": listening,
    "nothing": lambda path: path.symlink_to("/dev/null"),
    "a_full_device": lambda path: path.symlink_to("/dev/full"),
    "the_kernel": lambda path: path.symlink_to("/proc/self/comm"),
    "itself": lambda path: path.symlink_to(path.name),
    "somebody": lambda path: (
        (path.parent / "theirs").write_bytes(b"theirs"),
        path.symlink_to("theirs"),
    ),
}
INTO = {
    "picture": ("out.png", ["generate", "a cat", "-o", "out.png", *SMALL]),
    "preview": ("p.png", ["generate", "a cat", "-o", "out.png", *SMALL, "--preview", "p.png"]),
    "swap": ("out.png", ["swap", "portrait.png", "out.png", "--source", "portrait.png"]),
    "film": ("out.mp4", ["swap", "a.mp4", "out.mp4", "--source", "portrait.png"]),
    "page": ("a.html", ["verify", "portrait.png", "--report", "a.html"]),
    "report": ("a.json", ["verify", "portrait.png", "--json", "a.json"]),
    "ledger": ("a.json", ["ledger", "export", "--json", "a.json"]),
    "sidecar": ("out.mkv.c2pa", ["swap", "a.mp4", "out.mkv", "--source", "portrait.png"]),
}
for _what, (_file, _words) in INTO.items():
    for _place, _make in PLACES.items():
        if _place == "somebody" and _what in ("page", "report", "ledger"):
            continue  # a report goes where the name leads that a user gave it

        def _build(folder: Path, url: str, file=_file, words=_words, make=_make) -> Words:
            if "a.mp4" in words:
                film(folder)
            make(folder / file)
            return words

        _build.__name__ = f"{_what}_into_{_place}"
        attack(statuses=(0, 2, 3))(_build)
