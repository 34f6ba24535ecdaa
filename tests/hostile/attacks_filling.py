"""More attack files: pictures whose headers never end, and very long files of nearly nothing.

Sources: JPEG (ITU T.81, annex B), GIF89a, PNG, TIFF 6.0, RIFF.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.hostile.attacks import Words, attack, header, png
from tests.hostile.attacks_paths import READERS

SMALL = ["--steps", "1", "--width", "64", "--height", "64"]
LONG = 64 << 20  # bytes


def _chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content))  # fmt: skip


def _png(inside: bytes) -> bytes:
    """A picture with chunks before its pixels."""
    whole = png(header(64, 64), (b"IDAT", zlib.compress(bytes(64 * 193))), (b"IEND", b""))
    return whole[:33] + inside + whole[33:]


def _png_of_many_pixels_chunks() -> bytes:
    parts = _chunk(b"IDAT") * (LONG // 24)
    whole = png(header(64, 64), (b"IDAT", zlib.compress(bytes(64 * 193))), (b"IEND", b""))
    return whole[:-12] + parts + whole[-12:]


GIF = b"GIF89a" + struct.pack("<HHBBB", 64, 64, 0, 0, 0)
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
HEADERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "nothing": ("jpg", lambda: JPEG + bytes(LONG)),
    "filling": ("jpg", lambda: JPEG + b"\xff" * LONG),
    "half_marks": ("jpg", lambda: JPEG + b"\xff\0" * (LONG // 2)),
    "empty_segments": ("jpg", lambda: JPEG + b"\xff\xe5\0\2" * (LONG // 4)),
    "segments_between_filling": ("jpg", lambda: JPEG + (b"\xff\xe5\0\2" + bytes(4000)) * 60_000),
    "marks": ("jpg", lambda: JPEG + b"\xff\xd0" * (LONG // 2)),
    "beginnings": ("jpg", lambda: b"\xff\xd8" * (LONG // 2)),
    "empty_chunks": ("png", lambda: _png(_chunk(b"prVt") * (LONG // 24))),
    "empty_pixels": ("png", _png_of_many_pixels_chunks),
    "empty_words": ("png", lambda: _png(_chunk(b"tEXt", b"a\0b") * (LONG // 32))),
    "comments": ("gif", lambda: GIF + (b"!\xfe" + b"\1a" * 5 + b"\0") * (LONG // 30)),
    "one_comment": ("gif", lambda: GIF + b"!\xfe" + b"\xff" * (LONG // 2) + b"\0"),
    "one_comment_of_letters": ("gif", lambda: GIF + b"!\xfe" + b"\1a" * (LONG // 8) + b"\0"),
    "extensions": ("gif", lambda: GIF + b"!\xf9\4\0\0\0\0\0" * (LONG // 16)),
    "no_blocks": ("gif", lambda: GIF + b"x" * (LONG // 4)),
    "empty_parts": ("webp", lambda: b"RIFF" + struct.pack("<I", LONG) + b"WEBP"
                    + b"JUNK\0\0\0\0" * (LONG // 16)),
    "tags": ("tif", lambda: b"II*\0\x08\0\0\0" + struct.pack("<H", 65535)
             + struct.pack("<HHII", 0x9999, 7, 1 << 24, 8) * 65535 + bytes(1 << 25)),
    "tags_of_sizes": ("tif", lambda: b"II*\0\x08\0\0\0" + struct.pack("<H", 65535)
                      + struct.pack("<HHII", 0x100, 4, 1 << 20, 8) * 65535 + bytes(1 << 23)),
}  # fmt: skip
WAYS: dict[str, Callable[[str], Words]] = {
    "target": lambda name: ["swap", name, "out.png", "--source", "portrait.png"],
    "init": lambda name: ["generate", "a cat", "-o", "out.png", *SMALL, "--init", name],
    "seen": lambda name: ["verify", name],
}

for _kind, (_suffix, _content) in HEADERS.items():
    for _way, _words in WAYS.items():

        def _build(folder: Path, url: str, suffix=_suffix, content=_content, words=_words) -> Words:
            (folder / f"a.{suffix}").write_bytes(content())
            return words(f"a.{suffix}")

        _build.__name__ = f"picture_of_{_kind}_{_way}"
        attack(statuses=(0, 1, 2, 3, 4) if _way == "seen" else (0, 2))(_build)

# --- long files with a right beginning --------------------------------------------------------

BEGINS = {
    ".mp4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2\0\0\0\1mdat" + struct.pack(">Q", 1 << 39),
    ".png": b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)),
    ".onnx": b"\x08\x08\x3a\xff\xff\xff\xff\x7f",
    ".dfm": b"\x08\x08",
    ".pem": b"-----BEGIN CERTIFICATE-----\n",
    ".ckpt": b"PK\3\4",
    ".npz": b"PK\3\4",
    ".safetensors": struct.pack("<Q", 900 << 20) + b'{"',
    ".txt": b"nano\n",
    ".sqlite": b"SQLite format 3\0",
    ".json": b"[[",
}

for _name, (_file, _line) in READERS.items():

    def _build(folder: Path, url: str, file=_file, words=_line) -> Words:
        with open(folder / file, "wb") as long:
            long.write(BEGINS[Path(file).suffix])
            long.truncate(1000 << 20)
        return words

    _build.__name__ = f"gigabyte_of_nothing_as_{_name}"
    attack()(_build)
