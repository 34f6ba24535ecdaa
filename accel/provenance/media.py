"""What kind of file something is, by its first bytes, and the hash that names it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from accel.core import open_file

UNKNOWN = "application/octet-stream"  # what the c2pa library cannot look into
# Kinds of file that other tools put credentials into, by their first bytes.
_OF_OTHERS = {
    b"II*\0": "image/tiff", b"MM\0*": "image/tiff", b"GIF8": "image/gif",
    b"\0\0\0\x0cJXL ": "image/jxl", b"fLaC": "audio/flac", b"ID3": "audio/mpeg",
}  # fmt: skip
_IN_RIFF = {b"AVI ": "video/avi", b"WAVE": "audio/wav"}
_PIECE = 1 << 20


def media_type(path: Path) -> tuple[str, bool]:
    """Tell by a file's first bytes its MIME type, and whether we put a credential inside it.

    `application/octet-stream` is what the library cannot look into.
    """
    with open_file(path, "a picture or a film") as file:
        head = file.read(16)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png", True
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg", True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp", True
    if head[4:8] == b"ftyp":
        return ("video/quicktime" if head[8:12] == b"qt  " else "video/mp4"), True
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "video/quicktime", True
    if head[:4] == b"RIFF" and head[8:12] in _IN_RIFF:
        return _IN_RIFF[head[8:12]], False
    others = (kind for begins, kind in _OF_OTHERS.items() if head.startswith(begins))
    return next(others, UNKNOWN), False


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
