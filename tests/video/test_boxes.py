"""Films of a few kilobytes whose tables count what would fill the memory."""

from __future__ import annotations

import struct

import pytest

from accel.core import InputError
from accel.video.boxes import check_film
from tests.hostile.attacks import TRACK, boxes
from tests.video.clips import make_clip

TABLE = (*TRACK, b"stbl", b"stsz")


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def run(count: int, flags: int = 0) -> bytes:
    head = box(b"mfhd", bytes(8)) + box(
        b"traf", box(b"tfhd", struct.pack(">II", 0x020000, 1))
        + box(b"trun", struct.pack(">II", flags, count)),
    )  # fmt: skip
    return box(b"moof", head)


DEFAULT = box(b"trex", struct.pack(">IIIIII", 0, 1, 1, 1, 1, 0))
ITEMS = box(b"meta", bytes(4) + box(b"iloc", bytes(1 << 18)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda data: boxes(data, TABLE, lambda old: struct.pack(">III", 0, 1, 40_000_000)),
            "samples of one kind",  # 3 GB
        ),
        (lambda data: data + run(3_000_000) * 40, "samples of one kind"),  # 3 GB
        (lambda data: data + run(3_000_000, 0x100) * 40, ""),  # a row for each would follow
        (lambda data: boxes(data, (b"moov",), lambda old: old + box(b"mvex", DEFAULT * 101)),
         "100 tracks"),  # 100,000 of them kept c2pa-rs busy for a minute
        (lambda data: data + ITEMS, "parts of a picture"),  # 60,000 took 7 s
        (lambda data: boxes(data, TABLE, lambda old: struct.pack(">III", 0, 9, 4_000_000)), ""),
    ],
)  # fmt: skip
def test_tables_that_only_count(tmp_path, change, fault):
    path = make_clip(tmp_path / "a.mp4", stamps=range(4))
    path.write_bytes(change(path.read_bytes()))
    if not fault:
        check_film(path)
        return
    with pytest.raises(InputError, match=fault):
        check_film(path)
