"""What a still picture says before it is decoded: its turn, what rides along, what it will take.

Sources: EXIF 2.32 (orientation); the PNG, JPEG, TIFF and WebP formats.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from accel.core import InputError, open_file
from accel.video.read import DEFAULT_LIMITS, Limits

# Pillow tells of damaged TIFF on standard error, beside the exception that says the same.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# What Pillow raises over damaged headers, whose values have any type.
DAMAGED = (OSError, ValueError, SyntaxError, TypeError, AttributeError, LookupError, EOFError,
           ArithmeticError, RuntimeError, struct.error)  # fmt: skip
MOST_CHUNKS = 1 << 17  # of a PNG; usual ones have 8 KiB
# What may stand before the pixels of a JPEG or a GIF. Pillow goes over it byte by byte, or in time
# with its square.
MOST_SEGMENTS = 10_000
MOST_FILLING = 1 << 20  # bytes of no segment, or of no picture
# Pillow knows fifty more, some of which start other programs (PostScript) or hold pictures within.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
LARGE_PX = 1 << 24  # from which on it pays to look for memory
# EXIF orientation to (degrees clockwise that a viewer turns, mirrored left to right before that)
_ORIENTATIONS = {
    1: (0, False), 2: (0, True), 3: (180, False), 4: (180, True),
    5: (270, True), 6: (90, False), 7: (90, True), 8: (270, False),
}  # fmt: skip
# Bytes of a pixel, by Pillow's mode: as the decoder gives it, and in the planes made of that.
_BYTES = {"1": (1, 3), "L": (1, 1.5), "LA": (2, 2.5), "P": (1, 4), "PA": (4, 4), "RGB": (3, 3),
          "RGBA": (4, 4), "CMYK": (4, 4), "I;16": (2, 3), "I;16B": (2, 3), "I": (4, 4),
          "F": (4, 4)}  # fmt: skip


def read_header(path: Path, limits: Limits) -> tuple[int, bool, dict[str, Any]]:
    """Orientation, EXIF and colour profile of a picture whose size is within the limits.

    Returns (degrees clockwise that a viewer turns it, mirrored before that, extras as Pillow takes
    them). Nothing is decoded. Raises InputError.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF, and of sizes that are checked below
        try:
            with open_file(path, "a picture") as file, open_header(file, path, limits) as image:
                check_picture_size(path, image, limits)
                extras = {}
                if image.info.get("icc_profile") and image.mode not in ("CMYK", "L"):
                    extras["icc_profile"] = image.info["icc_profile"]
                exif = _exif(image, path)
                if exif and image.format != "TIFF":  # whose tags describe how it is stored
                    with suppress(*DAMAGED):  # what cannot be written again is left out
                        extras["exif"] = exif.tobytes()
                orientation = exif.get(0x0112, 1)
        except Image.DecompressionBombError as error:
            raise InputError(
                f"{path}: a frame may have {limits.max_pixels} pixels, this one has far more"
            ) from error
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(f"{path}: must be a whole picture: its header is damaged") from error
    turn = _ORIENTATIONS.get(orientation) if isinstance(orientation, int) else None
    return *(turn or (0, False)), extras


def open_header(
    file: BinaryIO,
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    formats: Sequence[str] = FORMATS,
) -> Image.Image:
    """A picture that is not decoded yet. Raises what Pillow does, InputError for too many parts."""
    most_mb = 2 * limits.max_picture_mb  # a decoder is given all of a file at once
    if os.fstat(file.fileno()).st_size > most_mb << 20:
        raise InputError(f"{path}: a picture's file may have {most_mb} MB, this one has more")
    head = file.read(8)
    if head.startswith(b"\xff\xd8"):
        fits = _has_few_segments(file)
    elif head.startswith(b"GIF8"):
        fits = _has_few_extensions(file)
    else:
        fits = head != b"\x89PNG\r\n\x1a\n" or _has_few_chunks(file)
    if not fits:
        raise InputError(f"{path}: must be a picture of fewer parts, or of less between them")
    file.seek(0)
    return Image.open(file, formats=formats)


def _has_few_segments(file: BinaryIO) -> bool:
    """Of a JPEG, up to its pixels."""
    at = begin = 2
    measured = 0
    for _ in range(MOST_SEGMENTS):
        file.seek(at)
        block = file.read(1 << 12)
        while not (found := re.search(rb"\xff[^\x00\xff]", block)):
            if at - begin - measured > MOST_FILLING:
                return False
            if len(block) < 2:
                return True
            at += len(block) - 1  # its last byte may begin the next one
            file.seek(at)
            block = file.read(1 << 16)
        at += found.end()
        kind = found.group()[1]
        if kind == 0xDA:
            return True
        if kind == 1 or 0xD0 <= kind <= 0xD9:  # marks without a length
            continue
        file.seek(at)
        if len(size := file.read(2)) < 2:
            return True
        length = max(int.from_bytes(size, "big"), 2)
        at, measured = at + length, measured + length
    return False


def _has_few_extensions(file: BinaryIO) -> bool:
    """Of a GIF, up to its first picture."""
    file.seek(10)
    flags = file.read(3)[:1]
    if flags and flags[0] & 0x80:
        file.seek(3 << (flags[0] % 8 + 1), 1)
    begin = file.tell()
    for _ in range(MOST_SEGMENTS):
        kind = file.read(1)
        if kind == b"!":
            file.seek(1, 1)
            while (size := file.read(1)) and size[0]:
                file.seek(size[0], 1)
                if file.tell() - begin > MOST_FILLING:
                    return False
        elif kind in (b"", b",", b";"):
            return True
    return False


def _has_few_chunks(file: BinaryIO) -> bool:
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return True
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def _exif(image: Image.Image, path: Path) -> Image.Exif:
    """Pillow decodes a PNG to look behind its pixels: only where something is, and not if large."""
    if image.format == "PNG" and (
        image.width * image.height >= LARGE_PX or not _says_more_behind(path)
    ):
        return Image.Image.getexif(image)
    return image.getexif()


def _says_more_behind(path: Path) -> bool:
    """Whether a PNG has EXIF or text behind its pixels."""
    has_pixels = False
    with open_file(path) as file:
        file.seek(8)
        for _ in range(MOST_CHUNKS):
            if len(head := file.read(8)) < 8:
                break
            length, kind = struct.unpack(">I4s", head)
            has_pixels |= kind == b"IDAT"
            if has_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(length + 4, 1)
    return False


def check_picture_size(path: Path, image: Image.Image, limits: Limits) -> None:
    """Refuse a picture, opened and not decoded, that is too large or would take too much memory."""
    width, height = image.size
    limits.check_size(path, width, height)
    limits.check_bytes(path, width, height, _taken(image, path))


def _taken(image: Image.Image, path: Path) -> float:
    """Bytes of a pixel once decoded; half of what decoding needs at its worst, if that is more."""
    deep = 2 if ";16" in str([tile[3] for tile in image.tile[:1]]) and "I" not in image.mode else 1
    if image.format in ("JPEG", "MPO"):
        sides = [(across, down) for _, across, down, *_ in image.layer]  # type: ignore[attr-defined]
        most = max(across for across, _ in sides) * max(down for _, down in sides)
        samples = float(sum(across * down for across, down in sides) / most)
        planes = max(samples, 1.5)  # grey gets even chroma
        coefficients = 2 * samples if image.info.get("progressive") else 0
        return max(planes, (planes + coefficients) / 2)
    if image.format == "WEBP":
        return 1.5 if _is_plain_webp(path) else 4.0
    if image.format == "BMP" and len(image.mode) == 1:  # which have a palette
        return 4.0
    decoded, planes = _BYTES.get(image.mode, (4, 4))
    return deep * max(planes, (decoded + planes) / 2)


def _is_plain_webp(path: Path) -> bool:
    """Lossy and without alpha: all others are decoded as four bytes a pixel."""
    with open_file(path) as file:
        return file.read(16)[12:] == b"VP8 "
