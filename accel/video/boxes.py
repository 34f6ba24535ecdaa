"""What an MP4 or MOV says of itself, counted before FFmpeg works through it.

A film of some kilobytes can ask for a hundred thousand cuts, each of which FFmpeg compares with
every frame, or for a thousand tracks with a decoder each.

Source: ISO 14496-12, 4.2 (boxes), 8.6.6 (edit lists), 8.7.3 (sizes), 8.8.8 (runs), 8.11.3 (items).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from accel.core import InputError, open_file

MAX_TRACKS = 100
MAX_EDITS = 5_000  # of all tracks together; films have one or two each
MAX_BOXES = 500_000  # looked at; a film in fragments has two a second
MAX_ALIKE = 5_000_000  # frames of one size, two days of them
MAX_ITEMS_BYTES = 1 << 17  # of the list of a HEIF's parts, each of which FFmpeg seeks in all others
HOLDERS = (b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"mvex", b"moof", b"traf", b"meta")


def check_film(path: Path) -> None:
    """Refuse a film of more than MAX_TRACKS tracks or MAX_EDITS edits; damage is FFmpeg's to find.

    Also one of more than MAX_ALIKE samples that its tables only count: FFmpeg makes an entry of 70
    bytes for each. Sound may have as many as fit. Raises InputError.
    """
    tracks = defaults = edits = alike = 0
    is_sound = False
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        for kind, begin, end in _boxes(file, size, path):
            if kind == b"trak":
                tracks += 1
            elif kind == b"trex":
                defaults += 1
            elif kind == b"elst" and end - begin >= 8:
                file.seek(begin + 4)
                edits += min(int.from_bytes(file.read(4), "big"), (end - begin) // 12)
            elif kind == b"hdlr":
                file.seek(begin + 8)
                is_sound = file.read(4) == b"soun"
            elif kind in (b"stsz", b"trun"):
                count = _alike(file, kind, begin)
                alike += 0 if is_sound and count < 4 * size else count
            elif kind == b"iloc" and end - begin > MAX_ITEMS_BYTES:
                raise InputError(f"{path}: must be a film, lists too many parts of a picture")
            if max(tracks, defaults) > MAX_TRACKS:
                raise InputError(f"{path}: may have {MAX_TRACKS} tracks, has more")
            if edits > MAX_EDITS:
                raise InputError(f"{path}: may have {MAX_EDITS} edits, has more")
            if alike > MAX_ALIKE:
                raise InputError(f"{path}: may have {MAX_ALIKE} samples of one kind, has more")


def _alike(file: BinaryIO, kind: bytes, begin: int) -> int:
    """How many samples a table only counts; 0 where it has a row for each."""
    file.seek(begin)
    flags, first, second = struct.unpack(">III", file.read(12).ljust(12, b"\0"))
    if kind == b"stsz":  # one size for all, and how many
        return second if first else 0
    return 0 if flags & 0xF00 else first


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
            # Four bytes come before what MP4, unlike MOV, puts into `meta`.
            todo.append((begin + 4 * (kind == b"meta"), inner))
    raise InputError(f"{path}: may have {MAX_BOXES} boxes, has more")
