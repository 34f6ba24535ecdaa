"""Text in a credential that says it is longer than the file it lies in.

The c2pa library makes room for as many bytes as a text of a credential claims to have, gigabytes
for a few bytes of file, before it looks whether they are there. So it is not shown such a file.

Sources: RFC 8949, section 3 (CBOR); ISO/IEC 19566-5 (JUMBF, whose boxes named `cbor` hold it);
C2PA technical specification 2.4, section A.3 (how JPEG and GIF cut it up).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

WORD = b"cbor"
_PIECE = 1 << 20
MOST_ITEMS = 200_000  # of one box; what lies behind them is not looked at
BYTES, TEXT, LIST, MAP, TAG = 2, 3, 4, 5, 6
ENDLESS, END = 31, 0xFF  # of a text or list whose end is marked; the mark


def claims_too_much(path: Path, store: bytes | None = None) -> bool:
    """Whether a file, or the `store` beside it, holds text that would end behind its end."""
    if store is not None:
        return _is_short_of(io.BytesIO(store), len(store))
    with open(path, "rb") as file:
        head = file.read(6)
        if head.startswith(b"\xff\xd8"):
            kept = b"".join(_segments(file))
        elif head.startswith(b"GIF8"):
            kept = b"".join(_blocks(file))
        else:
            return _is_short_of(file, path.stat().st_size)
    return _is_short_of(io.BytesIO(kept), len(kept))


def _is_short_of(file: BinaryIO, size: int) -> bool:
    return any(not _fits(file, at + len(WORD), size) for at in _places(file))


def _places(file: BinaryIO) -> Iterator[int]:
    """Where WORD stands."""
    start, before = 0, b""
    while True:
        file.seek(start)
        piece = file.read(_PIECE)
        if not piece:
            return
        joined, begin = before + piece, start - len(before)
        at = joined.find(WORD)
        while at >= 0:
            yield begin + at
            at = joined.find(WORD, at + 1)
        before, start = joined[1 - len(WORD) :], start + len(piece)


def _fits(file: BinaryIO, at: int, size: int) -> bool:
    """Whether all text of the value that begins at `at` ends before `size`.

    What is no CBOR fits: the library refuses it by itself.
    """
    open_lists: list[float] = [1]  # values to come in each; without end where a mark ends it
    for _ in range(MOST_ITEMS):
        while open_lists and not open_lists[-1]:
            open_lists.pop()
        if not open_lists:
            return True
        file.seek(at)
        head = file.read(9)
        if not head:
            return True
        kind, short = head[0] >> 5, head[0] & 31
        more = 1 << (short - 24) if 24 <= short < 28 else 0
        value = int.from_bytes(head[1 : 1 + more], "big") if more else short
        at += 1 + more
        if head[0] == END:
            open_lists.pop()
            continue
        if short >= 28 and (short != ENDLESS or kind not in (BYTES, TEXT, LIST, MAP)):
            return True
        open_lists[-1] -= 1
        if short == ENDLESS:
            open_lists.append(math.inf)
        elif kind in (BYTES, TEXT):
            at += value
            if at > size:
                return False
        elif kind in (LIST, MAP):
            open_lists.append(value * (kind - LIST + 1))
        elif kind == TAG:
            open_lists.append(1)
    return True


def _segments(file: BinaryIO) -> Iterator[bytes]:
    """Of a JPEG: what a credential's segments hold, one after the other, without their heads."""
    at = 2
    while True:
        file.seek(at)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
            return
        if head[1] == 0xFF:
            at += 1
        elif head[1] in (0, 1) or 0xD0 <= head[1] <= 0xD9:
            at += 2
        else:
            length = int.from_bytes(head[2:], "big")
            if head[1] == 0xEB:  # APP11: JP, instance, number, then a box whose head is repeated
                segment = file.read(max(length - 2, 0))
                first = segment[4:8] == b"\0\0\0\1"
                yield segment[8:] if first else segment[16:]
            at += 2 + length


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Of a GIF: what its extensions and pictures hold, without the lengths between."""
    file.seek(10)
    _skip_colours(file, file.read(3)[:1])
    while kind := file.read(1):
        if kind == b"!":
            file.seek(1, 1)
        elif kind == b",":
            _skip_colours(file, file.read(9)[8:])
            file.seek(1, 1)
        else:
            return
        while (size := file.read(1)) and size[0]:
            yield file.read(size[0])


def _skip_colours(file: BinaryIO, flags: bytes) -> None:
    if flags and flags[0] & 0x80:
        file.seek(3 << (flags[0] % 8 + 1), 1)
