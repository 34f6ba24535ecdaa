"""Faces to train on: a faceset as squares of one size, with the masks that belong to them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from accel.core import Cancel, InputError, Progress, read_file
from accel.faces.align import Array, scale_of, transform
from accel.faces.decode import decode as decode_picture
from accel.faces.face_types import FaceType, crop_matrix
from accel.faces.faceset import MAX_FACE_BYTES, FaceRecord, face_in, faces_in, segments
from accel.faces.faceset_pak import NAME, open_pak
from accel.faces.merge_mask import hull_mask
from accel.faces.sort import pose_of

Bytes = npt.NDArray[np.uint8]

# How much of a head each type shows: a model of one type can be trained on it and on larger ones.
SHOWS = (FaceType.HALF, FaceType.MID_FULL, FaceType.FULL, FaceType.WHOLE, FaceType.HEAD)
EYES = ((36, 42), (42, 48))
MOUTH = (48, 60)
DETAIL_GROWTH = 1 / 32  # how far eyes and mouth are drawn out, as a share of the picture's side
FAR = 8  # pictures away, a corner of a polygon is taken back: OpenCV walks all rows between them
RESIZED = 1.5  # landmarks that are for a picture so many times larger, or smaller, are of another


@dataclass(frozen=True)
class TrainFace:
    """One face. S is the model's resolution.

    picture: [S, S, 3] BGR. mask: [S, S, 1] 255 on the face. details: [S, S, 1] 255 on eyes and
    mouth. yaw: radians.
    """

    name: str
    picture: Bytes
    mask: Bytes
    details: Bytes
    yaw: float


@dataclass(frozen=True)
class FaceSet:
    """All usable faces of a folder, and what was wrong with the others."""

    place: Path
    faces: tuple[TrainFace, ...]
    bad: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.faces)


def load_faces(
    folder: Path,
    size: int,  # the model's resolution
    kind: FaceType,
    *,
    threads: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cancel: Cancel | None = None,
) -> FaceSet:
    """Read a folder of aligned faces, or the `faceset.pak` in it.

    Faces that show more of the head than the model does are cut to what it shows. Damaged files
    and faces that show less are left out and named in `bad`. Raises InputError if none are left.
    """
    files = list(_files(folder))
    if not files:
        raise InputError(f"{folder}: must hold aligned faces, found none")

    def one(file: tuple[str, Callable[[], bytes]]) -> TrainFace | str:
        if cancel:
            cancel.check()
        name, read = file
        try:
            return prepare_face(read(), name, size, kind)
        except InputError as error:
            return str(error)

    faces: list[TrainFace] = []
    bad: list[str] = []
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for done, found in enumerate(pool.map(one, files), 1):
            if isinstance(found, str):
                bad.append(found)
            else:
                faces.append(found)
            if progress:
                progress(Progress(stage=f"load {folder.parent.name}", done=done, total=len(files)))
    if not faces:
        reason = Counter(text.rpartition(": ")[2] for text in bad).most_common(1)[0][0]
        raise InputError(
            f"{folder}: must hold faces fit for training, none of {len(files)} is: {reason}"
        )
    return FaceSet(folder, tuple(faces), tuple(bad))


def _files(folder: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    pak = folder / NAME if folder.is_dir() else folder
    if pak.is_file():
        opened = open_pak(pak)
        for face in opened.faces:
            yield f"{pak}: {face.name}", lambda face=face: opened.read(face)  # type: ignore[misc]
        return
    for path in faces_in(folder):
        yield str(path), partial(read_file, path, MAX_FACE_BYTES, "an aligned face")


def prepare_face(data: bytes, name: str, size: int, kind: FaceType) -> TrainFace:
    """Cut one aligned face to what a model of `kind` and `size` sees.

    Raises InputError, one line, for a picture that is damaged, has no face metadata, or shows less
    of the head than the model does.
    """
    record = face_in(data, name)
    if SHOWS.index(_shown(record, name)) < SHOWS.index(kind):
        raise InputError(
            f"{name}: the model is trained on {kind.value} or larger, got {record.face_type.value}"
        )
    picture = decode(data, name)
    _check_size(record, picture, name)
    matrix = _cut(record, picture, kind, size)
    if not np.isfinite(matrix).all():
        raise InputError(f"{name}: landmarks must be those of a face, got one point")
    landmarks = transform(matrix, record.landmarks)
    return TrainFace(
        name=name,
        picture=_warped(picture, matrix, size),
        mask=_mask(record, picture, matrix, size, landmarks),
        details=_details(landmarks, size),
        yaw=pose_of(landmarks)[0],
    )


def _shown(record: FaceRecord, name: str) -> FaceType:
    kind = {
        FaceType.FULL_NO_ALIGN: FaceType.FULL,
        FaceType.HEAD_NO_ALIGN: FaceType.HEAD,
    }.get(record.face_type, record.face_type)
    if kind not in SHOWS:
        raise InputError(f"{name}: face type {kind.value} cannot be trained on")
    return kind


def decode(data: bytes, name: str) -> Bytes:  # [H, W, 3] BGR
    """Decode a picture whole. OpenCV fills the rest of a truncated JPEG with grey, unasked."""
    if data[:2] == b"\xff\xd8":
        found = segments(data, name)
        if data.rfind(b"\xff\xd9", found[-1][2] if found else 2) < 0:
            raise InputError(f"{name}: JPEG is cut short")
    return decode_picture(data, name)


def _check_size(record: FaceRecord, picture: Bytes, name: str) -> None:
    """Refuse pictures that were resized after their landmarks were written."""
    height, side = picture.shape[:2]
    if height != side:
        raise InputError(f"{name}: an aligned face must be square, got {side}x{height}")
    if record.face_type in SHOWS[:-1]:  # where a head's square lies, landmarks tell less surely
        found = side / scale_of(crop_matrix(record.landmarks, record.face_type, side))
        if not side / RESIZED <= found <= side * RESIZED:
            raise InputError(
                f"{name}: landmarks must fit the picture of {side} pixels, got those of one of"
                f" {found:.0f}; was it resized?"
            )


def _cut(record: FaceRecord, picture: Bytes, kind: FaceType, size: int) -> Array:  # [2, 3]
    """From the aligned picture to the model's."""
    if record.face_type is kind:
        scale = size / len(picture)
        shift = (scale - 1) / 2
        return np.array([[scale, 0, shift], [0, scale, shift]])
    return crop_matrix(record.landmarks, kind, size)


def _warped(picture: npt.NDArray[Any], matrix: Array, size: int) -> Bytes:
    """Cubic where the picture grows; where it shrinks, averaged first so that nothing aliases."""
    shrink = int(1 / max(float(scale_of(matrix)), 1e-6))
    if shrink > 1:
        height, width = picture.shape[0] // shrink, picture.shape[1] // shrink
        cropped = picture[: height * shrink, : width * shrink]
        picture = cv2.resize(cropped, (width, height), interpolation=cv2.INTER_AREA)
        matrix = np.array(matrix)
        matrix[:, 2] += matrix[:, :2].sum(1) * (shrink - 1) / 2
        matrix[:, :2] *= shrink
    warped = cv2.warpAffine(
        picture, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, np.uint8)


def _mask(
    record: FaceRecord, picture: Bytes, matrix: Array, size: int, landmarks: Array
) -> Bytes:  # [S, S, 1]
    """What was drawn or segmented where there is any; the landmarks' outline otherwise."""
    height, width = picture.shape[:2]
    if record.xseg_mask is not None:
        with suppress(InputError):  # one that is damaged is none
            drawn = decode_picture(record.xseg_mask, "mask", cv2.IMREAD_GRAYSCALE)
            whole = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_LINEAR)
            return np.where(_warped(whole, matrix, size) > 127, 255, 0).astype(np.uint8)[..., None]
    expand = 1.0 if record.eyebrows_expand_mod is None else record.eyebrows_expand_mod
    mask = np.asarray(hull_mask(landmarks, size, size, expand) * 255, np.uint8)
    for polygon in record.polygons:
        if len(polygon.points) < 3:  # begun in an editor and not gone on with: it surrounds nothing
            continue
        points = np.clip(transform(matrix, polygon.points), -FAR * size, FAR * size)
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255 if polygon.include else 0)
    return mask[..., None]


def _details(landmarks: Array, size: int) -> Bytes:  # [S, S, 1]
    mask = np.zeros((size, size), np.uint8)
    for first, last in (*EYES, MOUTH):
        hull = cv2.convexHull(np.round(landmarks[first:last]).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 255)
    grow = max(1, round(size * DETAIL_GROWTH))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1,) * 2)
    mask = cv2.GaussianBlur(cv2.dilate(mask, disc), (2 * grow + 1,) * 2, 0)
    return np.asarray(mask, np.uint8)[..., None]


# --- which face comes when ----------------------------------------------------------------------


class Shuffled:
    """Every face once, in a new random order each time round.

    The order is a function of the seed and the number of the draw: a training that goes on needs
    no state, and many threads may ask at once.
    """

    def __init__(self, count: int, seed: Sequence[int]) -> None:
        self.count, self.seed = count, list(seed)

    def __call__(self, draw: int) -> int:
        round_, place = divmod(draw, self.count)
        order = np.random.default_rng([*self.seed, round_]).permutation(self.count)
        return int(order[place])


class UniformYaw:
    """All directions equally often: 128 bins of yaw in turn, in each its faces in turn."""

    BINS, LIMIT = 128, 1.2  # radians

    def __init__(self, yaws: Iterable[float], seed: Sequence[int]) -> None:
        edges = np.linspace(-self.LIMIT, self.LIMIT, self.BINS)
        places = np.clip(np.digitize(list(yaws), edges) - 1, 0, self.BINS - 1)
        self.bins = [np.flatnonzero(places == b) for b in range(self.BINS)]
        self.bins = [found for found in self.bins if len(found)]
        self._bin = Shuffled(len(self.bins), [*seed, 0])
        self._within = [Shuffled(len(b), [*seed, 1 + i]) for i, b in enumerate(self.bins)]

    def __call__(self, draw: int) -> int:
        which = self._bin(draw)
        return int(self.bins[which][self._within[which](draw // len(self.bins))])
