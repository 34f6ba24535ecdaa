"""What an MP4 or MOV says of itself, counted before FFmpeg works through it.

A film of some kilobytes can ask for a hundred thousand cuts, each of which FFmpeg compares with
every frame, or for a thousand tracks with a decoder each.

Source: ISO 14496-12, 4.2 (boxes) and 8.6.6 (edit lists).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from accel.core import InputError, open_file

MAX_TRACKS = 100
MAX_EDITS = 5_000  # of all tracks together; films have one or two each
MAX_BOXES = 500_000  # looked at; a film in fragments has two a second
HOLDERS = (b"moov", b"trak", b"edts")


def check_film(path: Path) -> None:
    """Refuse a film of more than MAX_TRACKS tracks or MAX_EDITS edits; damage is FFmpeg's to find.

    Raises InputError.
    """
    tracks = edits = 0
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        for kind, begin, end in _boxes(file, size, path):
            if kind == b"trak":
                tracks += 1
            elif kind == b"elst" and end - begin >= 8:
                file.seek(begin + 4)
                edits += min(int.from_bytes(file.read(4), "big"), (end - begin) // 12)
            if tracks > MAX_TRACKS:
                raise InputError(f"{path}: may have {MAX_TRACKS} tracks, has more")
            if edits > MAX_EDITS:
                raise InputError(f"{path}: may have {MAX_EDITS} edits, has more")


def _boxes(file: BinaryIO, size: int, path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and where the content lies, of every box outside of other kinds than HOLDERS."""
    todo = [(0, size)]
    for _ in range(MAX_BOXES):
        while todo and todo[-1][1] - todo[-1][0] < 8:
            todo.pop()
        if not todo:
            return
        at, end = todo.pop()
        file.seek(at)
        head = file.read(16)
        length, kind, begin = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if length == 1 and len(head) == 16:
            length, begin = int.from_bytes(head[8:16], "big"), at + 16
        elif length == 0:  # to the end
            length = end - at
        if length < begin - at:
            continue  # nothing can be said of what follows
        todo.append((at + length, end))
        inner = min(at + length, end)
        yield kind, begin, inner
        if kind in HOLDERS:
            todo.append((begin, inner))
    raise InputError(f"{path}: may have {MAX_BOXES} boxes, has more")
