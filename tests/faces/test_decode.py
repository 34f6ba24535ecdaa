"""Pictures of faces are decoded when their headers are modest."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from accel.core import InputError
from accel.faces.decode import MAX_SIDE, decode


def png(side: int) -> bytes:
    made = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")):
        made += struct.pack(">I", len(data)) + kind + data
        made += struct.pack(">I", zlib.crc32(kind + data))
    return made


def test_decodes():
    shown = np.full((8, 9, 3), 7, np.uint8)
    data = cv2.imencode(".png", shown)[1].tobytes()
    assert (decode(data, "x") == shown).all()
    assert decode(data, "x", cv2.IMREAD_GRAYSCALE).shape == (8, 9)


def test_a_bomb_is_refused_unpacked():
    with pytest.raises(InputError, match="x: must be a picture of at most 8192 pixels a side"):
        decode(png(MAX_SIDE + 1), "x")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"GIF89a", png(8)[:40]])
def test_damage_is_one_error(data):
    with pytest.raises(InputError):
        decode(data, "x")
