"""Fifteen ways to put a faceset in order, so that a person can look through it or thin it out.

`measure` looks at one aligned picture, `order` says which faces stay and in which order, `arrange`
renames the files accordingly. The ways and their names are DeepFaceLab's; what is measured was
chosen anew where the original says little.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from accel.core import Cancel, ConfigError, InputError, Progress, read_file
from accel.faces import mesh
from accel.faces.align import Array
from accel.faces.decode import decode
from accel.faces.faceset import MAX_FACE_BYTES, FaceRecord, face_in, picture_shape

THUMBNAIL_PX = 32
YAW_BINS, YAW_LIMIT = 128, 1.2  # radians to either side
PITCH_BINS = 12
SHARPEST_SHARE = 10  # `final` looks at ten times as many sharp faces as it keeps
DEFAULT_TARGET = 2000
LARGE_PX = 2048  # a side; usual faces have 1024 at most, larger ones are measured in fewer pixels
_REDUCED = ((1, cv2.IMREAD_COLOR), (2, cv2.IMREAD_REDUCED_COLOR_2),
            (4, cv2.IMREAD_REDUCED_COLOR_4))  # fmt: skip
Floats = npt.NDArray[np.float32]


@dataclass
class Measured:
    """What sorting needs to know of one aligned face.

    sharpness: variance of the Laplacian under the landmarks' hull.
    steadiness: gradient energy there in the direction that has least of it: motion smears one.
    yaw, pitch: radians, as in `Face.pose`. source_area: of the detector's box in its frame.
    brightness, hue: means of V and H, 0..255 and 0..179. black: how many pixels are black.
    histogram: [3, bins] roots of the shares, so that products are Bhattacharyya's coefficient.
    """

    path: Path
    source: str
    sharpness: float
    steadiness: float
    yaw: float
    pitch: float
    source_area: float
    brightness: float
    hue: float
    black: int
    histogram: Floats
    thumbnail: Floats  # [3 · px²] 0..1


@dataclass
class Ordered:
    """Indices into what was sorted: what stays, in its new order, and what goes."""

    kept: list[int]
    trash: list[int]


def measure(path: Path, turn: AbstractContextManager[Any] | None = None) -> Measured:
    """Look at one aligned face. Raises InputError for a file that is none or is damaged.

    turn: held while a picture beyond LARGE_PX is looked at, of which one at a time is enough.
    """
    data = read_file(path, MAX_FACE_BYTES, "an aligned face")
    record = face_in(data, str(path))
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-64:]:
        raise InputError(f"{path}: picture is damaged or cut short")
    shrink, how = _how_to_read(data, path)
    with nullcontext() if shrink == 1 or turn is None else turn:
        return measure_picture(path, record, decode(data, str(path), how), shrink)


def _how_to_read(data: bytes, path: Path) -> tuple[int, int]:
    """By how much a picture is made smaller as it is decoded, and OpenCV's word for that."""
    side = max(picture_shape(data, str(path))[:2])
    return next((pair for pair in _REDUCED if side <= pair[0] * LARGE_PX), _REDUCED[-1])


def measure_picture(
    path: Path, record: FaceRecord, picture: npt.NDArray[np.uint8], shrink: int = 1
) -> Measured:
    """The same from a decoded picture, [H, W, 3] BGR, smaller by `shrink` than the face is."""
    hull = np.zeros(picture.shape[:2], np.uint8)
    outline = cv2.convexHull(np.round(record.landmarks / shrink).astype(np.int32))
    cv2.fillConvexPoly(hull, outline, 1)
    inside = hull > 0 if hull.any() else np.ones_like(hull, bool)
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
    hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
    yaw, pitch = pose_of(record.landmarks)
    histogram = np.stack([np.bincount(c.ravel() >> 2, minlength=64) for c in cv2.split(picture)])
    small = cv2.resize(picture, (THUMBNAIL_PX,) * 2, interpolation=cv2.INTER_AREA)
    return Measured(
        path=path,
        source=record.source_filename or path.name,
        sharpness=float(cv2.Laplacian(grey, cv2.CV_32F)[inside].var()),
        steadiness=_least_gradient(grey, inside),
        yaw=yaw,
        pitch=pitch,
        source_area=_area(record),
        brightness=float(hsv[..., 2].mean()),
        hue=float(hsv[..., 0].mean()),
        black=int((picture.max(2) == 0).sum()) * shrink**2,
        histogram=np.sqrt(histogram / picture[..., 0].size).astype(np.float32),
        thumbnail=(small.astype(np.float32) / 255).ravel(),
    )


def measure_all(
    paths: Sequence[Path],
    *,
    threads: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cancel: Cancel | None = None,
) -> tuple[list[Measured], list[tuple[Path, str]]]:
    """Measure many; return them in the order of `paths`, and the bad ones with what is wrong."""

    def one(path: Path) -> Measured | tuple[Path, str]:
        if cancel:
            cancel.check()
        try:
            return measure(path, large)
        except InputError as error:
            return path, str(error)

    large = Lock()
    good: list[Measured] = []
    bad: list[tuple[Path, str]] = []
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for done, result in enumerate(pool.map(one, paths), 1):
            if isinstance(result, Measured):
                good.append(result)
            else:
                bad.append(result)
            if progress:
                progress(Progress(stage="measure", done=done, total=len(paths)))
    return good, bad


def pose_of(landmarks: Array) -> tuple[float, float]:  # [68, 2]
    """Yaw and pitch from how the canonical face must be turned to look like this.

    The best affine map from the model's points to the picture's, made a rotation: weak perspective.
    The jaw moves when one speaks and is left out.
    """
    model = mesh.to_68(mesh.CANONICAL).astype(np.float64)[17:]
    points = np.asarray(landmarks, np.float64)[17:] * [1.0, -1.0]
    model, points = model - model.mean(0), points - points.mean(0)
    affine, *_ = np.linalg.lstsq(model, points, rcond=None)
    u, _, vt = np.linalg.svd(affine, full_matrices=False)
    right, up = (u @ vt).T  # rows of the rotation: where model points land on x, and on y
    front = np.cross(right, up)
    # Where the model's z axis, the direction of the nose, points in the picture.
    nose = np.array([right[2], up[2], front[2]])
    roll = np.arctan2(up[0], right[0])
    x = np.cos(-roll) * nose[0] - np.sin(-roll) * nose[1]
    y = np.sin(-roll) * nose[0] + np.cos(-roll) * nose[1]
    return float(np.arctan2(x, nose[2])), float(np.arcsin(np.clip(y, -1, 1)))


def _least_gradient(grey: Floats, inside: npt.NDArray[np.bool_]) -> float:
    dx, dy = (cv2.Sobel(grey, cv2.CV_32F, *d)[inside] for d in ((1, 0), (0, 1)))
    xx, yy, xy = (float((a * b).mean()) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    return (xx + yy) / 2 - float(np.hypot((xx - yy) / 2, xy))


def _area(record: FaceRecord) -> float:
    if record.source_rect is not None:
        left, top, right, bottom = record.source_rect
        return float(max(right - left, 0) * max(bottom - top, 0))
    if record.matrix is not None:  # how much smaller the crop made it
        return float(1 / max(abs(np.linalg.det(record.matrix[:, :2])), 1e-12))
    return 0.0


# --- orders -------------------------------------------------------------------------------------


def order(faces: Sequence[Measured], by: str, target: int = DEFAULT_TARGET) -> Ordered:
    """Sort by one of MODES; `target` is how many faces `final` and `final-fast` keep.

    Raises ConfigError for another name or a target below 1.
    """
    if by not in MODES:
        raise ConfigError(f"sort: must be by one of {', '.join(MODES)}, got {by!r:.40}")
    if target < 1:
        raise ConfigError(f"sort: target must be at least 1, got {target}")
    if not faces:
        return Ordered([], [])
    return MODES[by](faces, target)


def _by(key: Callable[[Measured], Any], falling: bool = True) -> Callable[..., Ordered]:
    def sort(faces: Sequence[Measured], target: int) -> Ordered:
        kept = sorted(range(len(faces)), key=lambda i: key(faces[i]), reverse=falling)
        return Ordered(kept, [])

    return sort


def _chain(features: Callable[[Sequence[Measured]], tuple[Floats, Any]]) -> Callable[..., Ordered]:
    """Each face is followed by the one most like it among those that are left."""

    def sort(faces: Sequence[Measured], target: int) -> Ordered:
        values, distance = features(faces)
        left = np.ones(len(faces), bool)
        at, kept = 0, [0]
        left[0] = False
        while left.any():
            others = np.flatnonzero(left)
            at = int(others[np.argmin(distance(values[at], values[others]))])
            left[at] = False
            kept.append(at)
        return Ordered(kept, [])

    return sort


def _histograms(faces: Sequence[Measured]) -> tuple[Floats, Any]:
    return np.stack([f.histogram for f in faces]), histogram_distance


def histogram_distance(one: Floats, others: Floats) -> Floats:  # [3, B], [n, 3, B] -> [n]
    """Bhattacharyya's distance, summed over the channels."""
    alike = np.einsum("cb,ncb->nc", one, others)
    return np.asarray(np.sqrt(np.clip(1 - alike, 0, None)).sum(1), np.float32)


def _thumbnails(faces: Sequence[Measured]) -> tuple[Floats, Any]:
    def distance(one: Floats, others: Floats) -> Floats:
        return np.asarray(np.abs(others - one).mean(1), np.float32)

    return np.stack([f.thumbnail for f in faces]), distance


def dissimilarity(faces: Sequence[Measured]) -> Floats:  # [n]
    """How far each face's histogram is from all the others', summed."""
    values = np.stack([f.histogram for f in faces])
    return np.array([histogram_distance(v, values).sum() for v in values], np.float32)


def _dissimilar(faces: Sequence[Measured], target: int) -> Ordered:
    return Ordered([int(i) for i in np.argsort(-dissimilarity(faces), kind="stable")], [])


def _one_face(faces: Sequence[Measured], target: int) -> Ordered:
    """Keep faces that were alone in their frame."""
    count: dict[str, int] = {}
    for face in faces:
        count[face.source] = count.get(face.source, 0) + 1
    by_name = sorted(range(len(faces)), key=lambda i: faces[i].source)
    kept = [i for i in by_name if count[faces[i].source] == 1]
    return Ordered(kept, [i for i in by_name if count[faces[i].source] > 1])


def _final(worth: Callable[[Measured], float]) -> Callable[..., Ordered]:
    """A set of `target` faces that look everywhere, sharply, and differ.

    In each bin of yaw the best by `worth` are split by pitch; from every pitch in turn the one
    whose colours are least like the others' is taken, from every bin in turn, until it suffices.
    """

    def sort(faces: Sequence[Measured], target: int) -> Ordered:
        bins: dict[int, list[int]] = {}
        for i, face in enumerate(faces):
            bins.setdefault(_bin(face.yaw, YAW_LIMIT, YAW_BINS), []).append(i)
        share = SHARPEST_SHARE * max(1, -(-target // YAW_BINS))
        queues = []
        for at in sorted(bins):
            best = sorted(bins[at], key=lambda i: worth(faces[i]), reverse=True)
            # What is beyond the share still comes, last: other bins may be empty.
            queues.append(_by_pitch(faces, best[:share]) + best[share:])
        taken = _round_robin(queues)[:target]
        kept = sorted(taken, key=lambda i: (_bin(faces[i].yaw, YAW_LIMIT, YAW_BINS), i))
        return Ordered(kept, sorted(set(range(len(faces))) - set(taken)))

    return sort


def _by_pitch(faces: Sequence[Measured], chosen: list[int]) -> list[int]:
    by_pitch: dict[int, list[int]] = {}
    for i in chosen:
        by_pitch.setdefault(_bin(faces[i].pitch, np.pi / 2, PITCH_BINS), []).append(i)
    queues = []
    for at in sorted(by_pitch):
        group = by_pitch[at]
        unlike = dissimilarity([faces[i] for i in group])
        queues.append([group[i] for i in np.argsort(-unlike, kind="stable")])
    return _round_robin(queues)


def _round_robin(queues: list[list[int]]) -> list[int]:
    longest = max((len(q) for q in queues), default=0)
    return [q[turn] for turn in range(longest) for q in queues if turn < len(q)]


def _bin(value: float, limit: float, count: int) -> int:
    return int(np.clip((value + limit) / (2 * limit) * count, 0, count - 1))


MODES: dict[str, Callable[[Sequence[Measured], int], Ordered]] = {
    "blur": _by(lambda f: f.sharpness),
    "motion-blur": _by(lambda f: f.steadiness),
    "face-yaw": _by(lambda f: f.yaw),
    "face-pitch": _by(lambda f: f.pitch),
    "face-source-rect-size": _by(lambda f: f.source_area),
    "hist": _chain(_histograms),
    "hist-dissim": _dissimilar,
    "brightness": _by(lambda f: f.brightness),
    "hue": _by(lambda f: f.hue),
    "black": _by(lambda f: f.black, falling=False),
    "origname": _by(lambda f: (f.source, f.path.name), falling=False),
    "oneface": _one_face,
    "absdiff": _chain(_thumbnails),
    "final": _final(lambda f: f.sharpness),
    "final-fast": _final(lambda f: f.source_area),
}


# --- files --------------------------------------------------------------------------------------


def trash_of(folder: Path) -> Path:
    """Where faces go that do not stay in `folder`."""
    return folder.with_name(folder.name + "_trash")


def aside_of(folder: Path) -> Path:
    """Where the faces of `folder` are while it is put in order."""
    return folder.with_name(folder.name + "_sorting")


def arrange(
    folder: Path,
    kept: Sequence[Path],
    trash: Sequence[Path],
    moved: dict[str, Path] | None = None,
) -> Path:
    """Rename what stays to 00000, 00001, ... and move the rest to `<folder>_trash`, its path.

    Files go through a folder beside, and come back one by one, also when the way there is broken
    off; what a killed process left there the next call brings back under the names it has.
    moved: takes the new path of each file by its old name, up to where an error broke off.
    """
    moved = {} if moved is None else moved
    aside, bin_folder = aside_of(folder), trash_of(folder)
    recover(folder)
    for path in trash:
        bin_folder.mkdir(exist_ok=True)
        moved[path.name] = path.rename(_free(bin_folder / path.name))
    aside.mkdir()
    waiting = []
    try:
        for i, path in enumerate(kept):
            waiting.append((path.name, path.rename(aside / new_name(path, i))))
            moved[path.name] = waiting[-1][1]
    finally:  # after Ctrl-C too: nobody is to find fewer faces than there were
        for name, path in waiting:
            moved[name] = path.rename(_free(folder / path.name))
        recover(folder)
    return bin_folder


def new_name(path: Path, place: int) -> str:
    """What `arrange` calls a face at a place of the order."""
    return f"{place:05d}{path.suffix.lower()}"


def recover(folder: Path) -> int:
    """Bring back what an `arrange` that was broken off left aside; return how many files."""
    aside = aside_of(folder)
    if not aside.is_dir():
        return 0
    left = sorted(aside.iterdir())
    for path in left:
        path.rename(_free(folder / path.name))
    aside.rmdir()
    return len(left)


def _free(path: Path) -> Path:
    """The path, or one with a number more where a file of that name lies."""
    candidate, number = path, 1
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
        number += 1
    return candidate


def contact_sheet(
    paths: Sequence[Path], columns: int = 12, px: int = 80, most: int = 480
) -> npt.NDArray[np.uint8]:  # [H, W, 3] BGR
    """A small picture of each face in order; of more than `most`, evenly chosen ones."""
    if not paths:
        raise InputError("contact sheet: must be given faces, got none")
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), most)).astype(int)]
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    sheet = np.zeros((rows * px, columns * px, 3), np.uint8)
    for i, path in enumerate(chosen):
        with suppress(InputError):  # its place stays black
            data = read_file(path, MAX_FACE_BYTES, "an aligned face")
            picture = decode(data, str(path), _how_to_read(data, path)[1])
            y, x = i // columns * px, i % columns * px
            sheet[y : y + px, x : x + px] = cv2.resize(
                picture, (px, px), interpolation=cv2.INTER_AREA
            )
    return sheet
