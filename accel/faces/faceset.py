"""Aligned faces as DeepFaceLab keeps them: pictures that carry what is known of the face.

In a JPEG the metadata is one APP15 segment behind the other APPn segments, in a PNG (an old form)
a chunk `fcWp`; both hold a pickle of a dictionary, read here by `accel.weights.pickles`. Nothing
of a picture is decoded to read or write them.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from accel.core import ConfigError, InputError, read_file
from accel.faces.align import Array
from accel.faces.face_types import FaceType
from accel.weights.pickle_writer import Rows, dump_pickle
from accel.weights.pickles import METADATA_LIMITS, load_pickle

MAX_PAYLOAD = 65_533  # a segment's length is 16 bits and counts itself
LARGEST = 1e9  # of a coordinate: geometry with larger ones overflows
MAX_FACE_BYTES = 256 << 20
PNG_MARK = b"\x89PNG\r\n\x1a\n"
PNG_CHUNK = b"fcWp"
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
SOI, EOI, SOS, APP0, APP15 = 0xD8, 0xD9, 0xDA, 0xE0, 0xEF
MAX_SEGMENTS = 10_000
FILL = re.compile(rb"\xff*")  # bytes before a mark
ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}  # marks without a segment
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOFn: the segments that say the size
PICTURES = (".jpg", ".jpeg", ".png")


@dataclass
class Polygon:
    """One outline drawn by hand. include: whether what it surrounds belongs to the face."""

    include: bool
    points: np.ndarray[Any, Any]  # [N, 2] float32, pixels of the crop


@dataclass
class FaceRecord:
    """What a faceset knows of one face.

    landmarks: [68, 2] in pixels of the crop; source_landmarks: the same in the frame.
    source_rect: left, top, right, bottom of the detector's box in the frame.
    matrix: [2, 3] frame to crop, as `face_types.crop_matrix` gives it.
    xseg_mask: a mask drawn or found, an encoded PNG or JPEG.
    extra: keys that we do not know, kept as they came.
    """

    face_type: FaceType
    landmarks: Array
    source_filename: str | None = None
    source_rect: tuple[float, float, float, float] | None = None
    source_landmarks: Array | None = None
    matrix: Array | None = None
    eyebrows_expand_mod: float | None = None
    polygons: list[Polygon] = field(default_factory=list)
    xseg_mask: bytes | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def read_face(path: Path) -> FaceRecord:
    """Read the record in an aligned face's file.

    Raises InputError if it has none, is damaged or cannot be read.
    """
    return face_in(read_file(path, MAX_FACE_BYTES, "an aligned face"), str(path))


def face_in(data: bytes, who: str = "picture") -> FaceRecord:
    """The same from a file's bytes; `who` begins the message of an error."""
    payload = metadata_of(data, who)
    if payload is None:
        raise InputError(f"{who}: must be an aligned face, got a picture without face metadata")
    return record_from(load_pickle(payload, who, METADATA_LIMITS), who)


def metadata_of(data: bytes, who: str = "picture") -> bytes | None:
    """The pickle in a JPEG or PNG, or None; the picture itself is not looked at."""
    if data[:2] == b"\xff\xd8":
        for mark, begin, end in segments(data, who):
            if mark == APP15:
                return data[begin:end]
        return None
    if data[:8] == PNG_MARK:
        return _png_chunk(data, who)
    raise InputError(f"{who}: must be a JPEG or PNG picture, got {data[:8].hex(' ') or 'nothing'}")


def with_face(jpeg: bytes, record: FaceRecord, who: str = "picture") -> bytes:
    """Put a record into a JPEG in place of the one it has; the picture's bytes stay as they are.

    Raises ConfigError if the record takes more than a segment holds (65,533 bytes).
    """
    payload = dump_pickle(dict_from(record))
    if len(payload) > MAX_PAYLOAD:
        raise ConfigError(
            f"{who}: face metadata must take {MAX_PAYLOAD} bytes at most, got {len(payload)}"
        )
    found = segments(jpeg, who)
    kept = [jpeg[begin - 4 : end] for mark, begin, end in found if APP0 <= mark < APP15]
    if not any(mark == APP0 for mark, _, _ in found):
        kept.insert(0, JFIF)
    # Whatever is no APPn comes after; application segments behind others are pulled forward.
    others = [jpeg[begin - 4 : end] for mark, begin, end in found if not APP0 <= mark <= APP15]
    scan = found[-1][2] if found else 2
    segment = b"\xff\xef" + struct.pack(">H", len(payload) + 2) + payload
    return b"".join([jpeg[:2], *kept, segment, *others, jpeg[scan:]])


def segments(jpeg: bytes, who: str = "picture") -> list[tuple[int, int, int]]:
    """Mark, begin and end of the contents of every segment before the picture's own data."""
    if jpeg[:2] != b"\xff\xd8":
        raise InputError(f"{who}: must be a JPEG picture, got {jpeg[:4].hex(' ') or 'nothing'}")
    found: list[tuple[int, int, int]] = []
    at = 2
    while True:
        at = max(at, FILL.match(jpeg, at).end() - 1)  # type: ignore[union-attr]  # it always fits
        if len(jpeg) < at + 4 or jpeg[at] != 0xFF:
            raise InputError(f"{who}: JPEG is damaged or cut short at byte {at}")
        mark, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if mark in (SOS, EOI):
            return found
        if mark in ALONE:  # what follows is no length: decoders would see other segments than we do
            raise InputError(f"{who}: JPEG is damaged: a mark of {mark:#x} at byte {at}")
        if length < 2 or at + 2 + length > len(jpeg):
            raise InputError(f"{who}: JPEG is damaged or cut short: a segment of {length} bytes")
        found.append((mark, at + 4, at + 2 + length))
        if len(found) > MAX_SEGMENTS:
            raise InputError(f"{who}: JPEG must have {MAX_SEGMENTS} segments at most, has more")
        at += 2 + length


def picture_shape(data: bytes, who: str = "picture") -> tuple[int, int, int]:
    """Height, width and channels that a JPEG or PNG announces."""
    if data[:8] == PNG_MARK and len(data) >= 26:
        width, height, _, kind = struct.unpack(">IIBB", data[16:26])
        return height, width, {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(kind, 3)
    for mark, begin, end in segments(data, who):
        if mark in FRAMES and end - begin >= 6:
            height, width, channels = struct.unpack(">xHHB", data[begin : begin + 6])
            if height and width:
                return height, width, channels
    raise InputError(f"{who}: JPEG must say its size, found none")


def _png_chunk(data: bytes, who: str) -> bytes | None:
    at = 8
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if kind == PNG_CHUNK:
            if int.from_bytes(data[end : end + 4], "big") != zlib.crc32(data[at + 4 : end]):
                raise InputError(f"{who}: PNG is damaged: the face metadata's checksum is wrong")
            return data[at + 8 : end]
        if kind == b"IEND":
            return None
        at = end + 4
    raise InputError(f"{who}: PNG is damaged or cut short at byte {at}")


# --- the dictionary -----------------------------------------------------------------------------


KEYS = (
    "face_type",
    "landmarks",
    "source_filename",
    "source_rect",
    "source_landmarks",
    "image_to_face_mat",
    "eyebrows_expand_mod",
    "seg_ie_polys",
    "xseg_mask",
)


def record_from(found: Any, who: str = "picture") -> FaceRecord:
    """Check the dictionary of a face's metadata and turn it into a record."""
    if not isinstance(found, dict):
        raise InputError(f"{who}: face metadata must be a dictionary, got {type(found).__name__}")
    get = found.get
    word = get("face_type")
    try:
        kind = FaceType(str(word))
    except ValueError:
        known = ", ".join(FaceType)
        raise InputError(f"{who}: face_type must be one of {known}, got {word!r:.60}") from None
    landmarks = numbers(get("landmarks"), (68, 2), who, "landmarks")
    if landmarks is None:
        raise InputError(f"{who}: landmarks must be there, found none")
    rect = numbers(get("source_rect"), (4,), who, "source_rect")
    expand = numbers(get("eyebrows_expand_mod"), (), who, "eyebrows_expand_mod")
    name = get("source_filename")
    if name is not None and not isinstance(name, str):
        raise InputError(f"{who}: source_filename must be a name, got {type(name).__name__}")
    return FaceRecord(
        face_type=kind,
        landmarks=landmarks,
        source_filename=name,
        source_rect=None if rect is None else (rect[0], rect[1], rect[2], rect[3]),
        source_landmarks=numbers(get("source_landmarks"), (68, 2), who, "source_landmarks"),
        matrix=numbers(get("image_to_face_mat"), (2, 3), who, "image_to_face_mat"),
        eyebrows_expand_mod=None if expand is None else float(expand),
        polygons=polygons_from(get("seg_ie_polys"), who),
        xseg_mask=_buffer(get("xseg_mask"), who),
        extra={key: value for key, value in found.items() if key not in KEYS},
    )


def dict_from(record: FaceRecord) -> dict[str, Any]:
    """The dictionary that DeepFaceLab expects; what is not known is left out."""
    rect = record.source_rect
    values = {
        "face_type": record.face_type.value,
        "landmarks": Rows(record.landmarks),
        "source_filename": record.source_filename,
        "source_rect": None if rect is None else [_whole(v) for v in rect],
        "source_landmarks": None
        if record.source_landmarks is None
        else Rows(record.source_landmarks),
        "image_to_face_mat": record.matrix,
        "eyebrows_expand_mod": record.eyebrows_expand_mod,
        "seg_ie_polys": dict_from_polygons(record.polygons) if record.polygons else None,
        "xseg_mask": None
        if record.xseg_mask is None
        else np.frombuffer(record.xseg_mask, np.uint8),
    }
    return {key: value for key, value in (values | record.extra).items() if value is not None}


def _whole(value: float) -> float:
    """Boxes are whole numbers in DeepFaceLab's files and stay so."""
    return int(value) if float(value).is_integer() else value


def numbers(value: Any, shape: tuple[int, ...], who: str, name: str) -> Array | None:
    """An array of numbers of some size from nested lists or an array; None stays None."""
    if value is None:
        return None
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty((0, 0, 0))
    if array.shape != shape or not (np.abs(array) <= LARGEST).all():  # nor NaN
        raise InputError(f"{who}: {name} must be {list(shape)} numbers, got {list(array.shape)}")
    return array.copy()  # what was read is a view of the file's bytes


def polygons_from(value: Any, who: str = "picture") -> list[Polygon]:
    """Polygons from the dictionary that stands for them."""
    if value is None:
        return []
    listed = value.get("polys") if isinstance(value, dict) else value
    if not isinstance(listed, list) or not all(isinstance(p, dict) for p in listed):
        raise InputError(f"{who}: seg_ie_polys must hold a list of polygons")
    found = []
    for polygon in listed:
        include, points = polygon.get("type"), polygon.get("pts")
        count = (
            len(points) if isinstance(points, (list, tuple, np.ndarray)) and np.ndim(points) else 0
        )
        array = numbers(points, (count, 2), who, "a polygon's pts") if count else np.empty((0, 2))
        if include not in (0, 1) or array is None:
            raise InputError(f"{who}: a polygon's type must be 0 or 1, got {include!r:.40}")
        found.append(Polygon(bool(include), array.astype(np.float32)))
    return found


def dict_from_polygons(polygons: list[Polygon]) -> dict[str, Any]:
    return {"polys": [{"type": int(p.include), "pts": p.points} for p in polygons]}


def _buffer(value: Any, who: str) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if (
        isinstance(value, np.ndarray)
        and value.dtype == np.uint8
        and value.size == max(value.shape, default=0)
    ):
        return value.tobytes()
    raise InputError(f"{who}: xseg_mask must be the bytes of a picture, got {type(value).__name__}")


def faces_in(folder: Path) -> list[Path]:
    """The pictures of a folder of aligned faces, sorted by name; hidden files are none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: must be a folder of aligned faces, found none")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()
    )
