"""PNG pictures of eight bits a channel, red, green, blue and perhaps alpha, straight into planes.

FFmpeg decodes any PNG; what most are is read here in about half the time, without a picture of
packed pixels in between. How the picture is tagged FFmpeg says still: it is shown the file with one
pixel in place of its own. Whatever is of another kind or irregular is left to it, files that are
damaged as well.

Source: PNG specification (third edition).
"""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from typing import Any

import av
import numpy as np

from accel.kernels import _native

inflater: Any
try:
    from isal import isal_zlib

    inflater = isal_zlib  # in about half the time
except ImportError:  # there is no wheel of it for every machine
    inflater = zlib

native: Any = _native.module

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = {3: (2, "rgb24", "gbrp"), 4: (6, "rgba", "gbrap")}  # by bytes of a pixel: as PNG, FFmpeg
_MOST_BESIDE = 1 << 20  # bytes of what is not pixels
_MOST_ASPECT = 256  # FFmpeg takes the shape of pixels into account where it is less odd


def decode_png(packet: av.Packet) -> tuple[av.VideoFrame, Fraction | None] | None:
    """The picture in planes and the shape of its pixels; None where FFmpeg has to look.

    packet: all of a file, whose size in pixels was checked.
    """
    file = np.frombuffer(packet, np.uint8)
    found = native.png_frame(file) if native else None
    if found is None:
        return None
    width, height, taken, before, behind, pixels = found
    if len(before) + len(behind) > _MOST_BESIDE:
        return None
    color, packed, planes = _KINDS[taken]
    told = _tags(color, taken, before, behind)
    if told is None or told[0].format.name != packed:
        return None
    tags, aspect = told
    picture = av.VideoFrame(width, height, planes)
    green, blue, red, *alpha = (_writable(plane) for plane in picture.planes)
    rows = _unpacked(pixels, height * (width * taken + 1))
    if rows is None or not native.png_planes(rows, [red, green, blue, *alpha]):
        return None
    for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
        setattr(picture, name, getattr(tags, name))
    return picture, aspect


def _unpacked(pixels: bytes, size: int) -> Any:  # [size] uint8
    """Pixels with the filters of their rows; None for a stream that is not whole, or longer."""
    stream = inflater.decompressobj()
    try:
        rows = stream.decompress(pixels, size + 1)
    except inflater.error:
        return None
    return np.frombuffer(rows, np.uint8) if stream.eof and len(rows) == size else None


def _tags(
    color: int, taken: int, before: bytes, behind: bytes
) -> tuple[av.VideoFrame, Fraction | None] | None:
    """What FFmpeg makes of the chunks around the pixels: a picture of one pixel."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, color, 0, 0, 0))
    pixel = _chunk(b"IDAT", zlib.compress(bytes(1 + taken), 1))
    data = SIGNATURE + header + before + pixel + behind + _chunk(b"IEND", b"")
    decoder = av.CodecContext.create("png", "r")
    decoder.thread_count = 1
    try:
        found = decoder.decode(av.Packet(data)) or decoder.decode(None)
    except av.error.FFmpegError:
        return None
    aspect = decoder.sample_aspect_ratio or None
    if not found or (aspect and not 1 / _MOST_ASPECT < aspect < _MOST_ASPECT):
        return None
    return found[0], aspect


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _writable(plane: av.video.plane.VideoPlane) -> Any:  # [H, W] uint8
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
    return rows[:, : plane.width]
